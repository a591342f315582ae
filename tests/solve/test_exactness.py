"""After k sweeps the first k states are the loop's own, whatever stands for the Jacobian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import core, solve
from abreast.solve.engine import LinearRule, iterate
from abreast.solve.linearize import Linearization, Local
from abreast.solve.newton import Solver
from abreast.solve.operators import DENSE

from .conftest import cell_sequence, plain, recurrences


@dataclass(frozen=True)
class Wrong(Linearization):
    """Any matrix at all."""

    seed: int = 0
    size: float = 3.0
    family = DENSE

    def shape(self, problem: Any) -> tuple[int, ...]:
        return (problem.x0[0].numel(),)

    def at(self, problem: Any, i: torch.Tensor, x: torch.Tensor) -> Local:
        generator = torch.Generator().manual_seed(self.seed + int(i[0]))
        d = x[0, 0].numel()
        A = self.size * torch.randn(len(x), x.shape[1], d, d, generator=generator, dtype=x.dtype)
        return Local(problem.evaluate(i, x), A)


@dataclass(frozen=True)
class Any_(Solver):
    linearization: Linearization = Wrong()
    window: int | None = None

    def line(self) -> Linearization:
        return self.linearization

    def settings_of(self, problem: Any) -> Any:
        return solve.Window(self.window), solve.Change(0.0), None


LINES = (solve.Zero(), solve.Identity(), solve.Diagonal(), solve.Diagonal(probes=1), solve.Dense(), Wrong())


@given(recurrences(), st.sampled_from(LINES), st.sampled_from((None, 1, 5)))
def test_equality_reached_is_the_loop_bit_for_bit(problem: Any, line: Linearization, window: int | None) -> None:
    method = Any_(line, window)
    run = core.run(problem, method, against=core.run(problem, problem.reference))
    assert torch.equal(run.value, run.against.value)
    assert run.ledger.longest("f") <= problem.steps + 1


@given(recurrences(), st.integers(0, 100))
def test_prefix_after_k_sweeps(problem: Any, seed: int) -> None:
    loop = core.run(problem, problem.reference).value
    lane = core.Ledger().lane("0")
    rule = LinearRule(problem, Wrong(seed), lane)
    for k, begin in enumerate(iterate(rule, solve.Window(), solve.Change(0.0), lane), 1):
        assert begin >= k
    most = max(1, problem.steps // 2)
    stopped = iterate(LinearRule(problem, Wrong(seed), lane), solve.Window(), solve.Change(0.0), lane, most)
    while True:
        try:
            next(stopped)
        except StopIteration as end:
            assert torch.equal(end.value.states[:most], loop[:most])
            break


@pytest.mark.parametrize("method", [solve.DEER(), solve.QuasiDEER(), solve.Jacobi(), solve.Picard(), solve.Newton()])
def test_laws(method: Any) -> None:
    for name, holds in core.laws(method, plain(20)):
        assert holds, name


@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize(
    "method",
    [solve.DEER(atol=1e-11, rtol=0), solve.QuasiDEER(atol=1e-13, rtol=0), solve.Jacobi(), solve.Picard(),
     solve.DEER(atol=1e-11, rtol=0, window=7)],
)  # fmt: skip
def test_gradients_are_those_of_the_loop(kind: str, method: Any) -> None:
    problem = cell_sequence(kind, 30)
    weights = torch.randn(30, 1, 1, dtype=torch.float64)
    grads = []
    for one in (problem.reference, method):
        x0 = problem.h0.clone().requires_grad_()
        same = solve.CellSequence(problem.cell, problem.inputs, x0)
        value = core.run(same, one).value
        grads.append(torch.autograd.grad((value.sin() * weights).sum(), [x0, *problem.cell.parameters()]))
    for mine, loops in zip(grads[1], grads[0]):
        assert torch.allclose(mine, loops, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
def test_cells_are_torchs_own(kind: str) -> None:
    problem = cell_sequence(kind, 12)
    state: Any = problem.h0 if kind != "lstm" else tuple(problem.h0.chunk(2, -1))
    for t in range(12):
        state = problem.cell(problem.inputs[t], state)
    last = torch.cat(state, -1) if kind == "lstm" else state
    assert torch.allclose(core.run(problem, problem.reference).value[-1], last, atol=1e-14)


@pytest.mark.parametrize("kind", ["gru", "lstm", "rnn"])
def test_formulas_are_the_derivative(kind: str) -> None:
    problem = cell_sequence(kind, 5)
    x = torch.randn(5, *problem.x0.shape, dtype=torch.float64)
    i = torch.arange(5)
    f, A = problem.jacobian(i, x)
    plain_columns = solve.Dense().at(solve.Recurrence(problem.f, problem.x0, 5), i, x)
    assert torch.allclose(f, plain_columns.f, atol=1e-14)
    assert torch.allclose(A, plain_columns.A, atol=1e-13)


def test_bad_steps_are_named() -> None:
    zero = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(core.AbreastError, match="keeps the state's shape"):
        solve.Recurrence(lambda i, x: x[..., :2], zero, 4)
    with pytest.raises(core.AbreastError, match="NaN at step 3"):
        problem = solve.Recurrence(lambda i, x: torch.where((i == 3)[:, None, None], torch.nan, x), zero, 5)
        core.run(problem, solve.Jacobi())
    with pytest.raises(core.AbreastError, match="NaN at step 3"):
        core.run(problem, problem.reference)
    with pytest.raises(core.AbreastError, match="below what"):
        core.run(solve.Recurrence(lambda i, x: x, zero.float(), 5), solve.DEER(atol=1e-12, rtol=0))
    with pytest.raises(core.AbreastError, match="convert one of them"):
        solve.CellSequence(torch.nn.GRUCell(2, 3).double(), torch.zeros(4, 1, 2))


def test_damping_and_probes_do_what_they_say() -> None:
    problem = plain(12, batch=1, d=3)
    old = torch.cat((problem.x0[None], problem.evaluate(torch.arange(12), torch.zeros(12, 1, 3, dtype=torch.float64))))
    i = torch.arange(12)
    f, A = solve.Dense().at(problem, i, old[:-1])
    for omega in (1.0, 0.5):
        d, wanted = torch.zeros(1, 3, dtype=torch.float64), []
        for k in range(12):
            d = (A[k] @ d[..., None])[..., 0] + omega * (f[k] - old[k + 1])
            wanted.append(old[k + 1] + d)
        found = core.run(problem, solve.Newton(sweeps=1, omega=omega, window=solve.Window(guess=solve.OneStep()))).value
        assert torch.equal(found[0], f[0])
        # The first state, and the one after a state that did not move, take the step itself, whatever the damping.
        assert torch.equal(found[1], f[1]) and torch.allclose(found[2:], torch.stack(wanted)[2:], atol=1e-12)
    true = solve.Diagonal().at(problem, i, old[:-1]).A
    errors = [float((solve.Diagonal(probes=n).at(problem, i, old[:-1]).A - true).abs().mean()) for n in (1, 8, 64)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_a_window_bounds_what_is_evaluated_at_once() -> None:
    problem = plain(40, batch=1, d=2)
    for window in (1, 5, 16):
        events = core.run(problem, solve.DEER(atol=1e-9, rtol=0.0, window=window)).ledger.events
        assert max(e.size for e in events if e.kind == "f" and e.size < 40) <= window * 3
