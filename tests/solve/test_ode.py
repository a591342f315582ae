"""Differential equations against torchdiffeq, and against the same discretisation step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from abreast import core, solve

torchdiffeq = pytest.importorskip("torchdiffeq", reason="torchdiffeq is not installed: 'pip install torchdiffeq'.")


class Driven(torch.nn.Module):
    """A small net as a vector field, and a wave."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.net(y) - 0.3 * y + 0.5 * torch.sin(3 * t)


FIELD = Driven()
Y0 = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ode(step: Any, T: int, y0: torch.Tensor = Y0, until: float = 3.0) -> Any:
    return solve.ODE(FIELD, torch.linspace(0, until, T + 1, dtype=torch.float64), y0, step)


@pytest.mark.parametrize("step,order", [("rk4", 4), ("exponential", 2)])
def test_order_of_the_error(step: Any, order: int) -> None:
    errors = []
    for T in (20, 40):
        with torch.no_grad():
            problem = ode(step, T)
            fine = torchdiffeq.odeint(FIELD, Y0, problem.ts, rtol=1e-11, atol=1e-12)[1:]
            found = core.run(problem, solve.DEER(atol=1e-12, rtol=0), against=core.run(problem, problem.reference))
        assert found.distance < 1e-10 and found.kept
        errors.append(float((found.value - fine).abs().max()))
    assert 0.6 * 2**order < errors[0] / errors[1] < 1.7 * 2**order


@pytest.mark.parametrize("step", ["rk4", "exponential"])
def test_gradients_are_those_of_the_discretised_equation(step: Any) -> None:
    grads = []
    for method in (solve.Loop(), solve.DEER(atol=1e-13, rtol=0), solve.QuasiDEER(atol=1e-13, rtol=0)):
        y0 = Y0.clone().requires_grad_()
        value = core.run(ode(step, 12, y0, 1.0), method).value
        grads.append(torch.autograd.grad(value.sin().sum(), [y0, *FIELD.parameters()]))
    y0 = Y0.clone().requires_grad_()
    fine = torchdiffeq.odeint(FIELD, y0, ode(step, 12, until=1.0).ts, rtol=1e-10, atol=1e-12)[1:]
    grads.append(torch.autograd.grad(fine.sin().sum(), [y0, *FIELD.parameters()]))
    for other, near in zip(grads[1:], (1e-8, 1e-8, 0.1)):
        assert all(torch.allclose(a, b, atol=near) for a, b in zip(other, grads[0]))


def test_linear_equations_take_one_sweep() -> None:
    """An exponential step integrates them exactly, from any guess."""
    A = torch.tensor([[-0.5, 2.0], [-2.0, -0.1]], dtype=torch.float64)
    ts = torch.tensor([0.0, 0.3, 1.0, 2.5], dtype=torch.float64)
    problem = solve.ODE(lambda t, y: y @ A.T + 1, ts, torch.ones(1, 2, dtype=torch.float64), "exponential")
    run = core.run(problem, solve.DEER(atol=1e-12, rtol=0))
    rest = torch.linalg.solve(A, torch.ones(2, dtype=torch.float64))
    wanted = torch.stack([(torch.matrix_exp(A * t) @ (1 + rest) - rest)[None] for t in ts[1:]])
    assert torch.allclose(run.value, wanted, atol=1e-12)
    assert problem.columns(run)["sweeps"] == 2


@pytest.mark.parametrize("window", [None, 5])
def test_windows_of_exponential_steps(window: Any) -> None:
    problem = ode("exponential", 12, until=1.0)
    with torch.no_grad():
        run = core.run(
            problem, solve.DEER(atol=0.0, rtol=1e-13, window=window), against=core.run(problem, solve.Loop())
        )
    assert run.distance < 1e-12


def test_bad_input() -> None:
    with pytest.raises(core.AbreastError, match="times that rise"):
        solve.ODE(FIELD, torch.zeros(3), Y0)
    with pytest.raises(core.AbreastError, match="'rk4' or 'exponential'"):
        solve.ODE(FIELD, torch.arange(3.0), Y0, "euler")  # type: ignore[arg-type]
    with pytest.raises(core.AbreastError, match="halve it"):
        core.run(
            solve.ODE(lambda t, y: 5 * torch.sin(3 * y), torch.tensor([0.0, 2.0]), Y0, "exponential"), solve.Loop()
        )
    with pytest.raises(core.AbreastError, match="Dense or Diagonal"):
        core.run(ode("exponential", 3), solve.Jacobi())
