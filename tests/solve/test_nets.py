"""ParaGRU and ParaLSTM: their derivative, their gradients, and what three Newton sweeps are worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import core, nets, solve

NETS = (nets.ParaGRU, nets.ParaLSTM)


def net_of(kind: Any, inputs: int = 4, width: int = 6, heads: int = 2, bound: float = 0.5, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return kind(inputs, width, heads, bound).double()


@given(st.sampled_from(NETS), st.integers(1, 3), st.integers(0, 10**6))
def test_formulas_are_the_derivative(kind: Any, heads: int, seed: int) -> None:
    net = net_of(kind, 2 * heads, 3 * heads, heads, 2.0, seed)
    x = torch.randn(5, 2, 2 * heads, dtype=torch.float64)
    problem = solve.CellSequence(net, x)
    state = torch.randn(5, 2, *net.state_shape, dtype=torch.float64)
    with torch.no_grad():
        f, A = problem.jacobian(torch.arange(5), state)
        whole = solve.Dense().at(solve.Recurrence(problem.f, problem.x0, 5), torch.arange(5), state)
    blocks = A[..., None, None] if kind is nets.ParaGRU else A
    m, H = blocks.shape[-1], net.width
    dense = torch.zeros(5, 2, H, m, H, m, dtype=torch.float64)
    for k in range(H):
        dense[:, :, k, :, k] = blocks[:, :, k]
    assert torch.allclose(f, whole.f, atol=1e-15)
    assert torch.allclose(dense.flatten(4).flatten(2, 3), whole.A, atol=1e-14)


@pytest.mark.parametrize("kind", NETS)
def test_parallel_is_the_loop_forward_and_backward(kind: Any) -> None:
    net = net_of(kind)
    found = []
    for method in (None, solve.Newton(tol=1e-12), solve.QuasiDEER(atol=1e-12, rtol=0)):
        if kind is nets.ParaLSTM and isinstance(method, solve.QuasiDEER):
            continue
        x = torch.randn(30, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        h = net(x, parallel=method)
        found.append((h, *torch.autograd.grad((h.sin() * h.detach().cos()).sum(), [x, *net.parameters()])))
    for other in found[1:]:
        assert torch.allclose(other[0], found[0][0], atol=1e-10)
        assert all(torch.allclose(mine, loops, atol=1e-8) for mine, loops in zip(other[1:], found[0][1:]))


@pytest.mark.parametrize("kind", NETS)
def test_an_ordinary_training_loop(kind: Any) -> None:
    """A few steps of Adam come to the same weights, and the residual says what three sweeps left."""
    after = []
    for method in (None, solve.Newton(tol=1e-13)):
        net = net_of(kind)
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        x = torch.randn(20, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        for _ in range(4):
            optimizer.zero_grad()
            (net(x, parallel=method)[1:, :, 0] - x[:-1, :, 0]).pow(2).mean().backward()
            optimizer.step()
        after.append([p.detach() for p in net.parameters()])
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(*after))
    net(x)
    assert 0 < net.residual_ < 1e-4


@pytest.mark.parametrize("T", [64, 512])
def test_three_sweeps(T: int) -> None:
    """Few calls and a small error where the recurrent weights are small, a large residual where they are not."""
    worst = {}
    for bound in (0.5, 2.0):
        net = net_of(nets.ParaGRU, 32, 32, 1, bound)
        with torch.no_grad():
            net.recurrent.normal_()
            net.weight.copy_(torch.eye(32).expand_as(net.weight))
            problem = solve.CellSequence(net, torch.randn(T, 1, 32, dtype=torch.float64))
            loop = core.run(problem, problem.reference)
            run = core.run(problem, solve.Newton(), against=loop)
        assert run.ledger.longest("f") == 4
        assert run.kept is None
        worst[bound] = run.distance
        assert (problem.columns(run)["residual"] > 1e-3) == (bound == 2.0)
    assert worst[0.5] < 2e-5 < worst[2.0]


def test_bad_input() -> None:
    with pytest.raises(core.AbreastError, match="multiples of heads"):
        nets.ParaGRU(5, 6, 2)
    with pytest.raises(core.AbreastError, match="steps, batch, 4"):
        nets.ParaLSTM(4, 6)(torch.zeros(3, 4))
    with pytest.raises(core.AbreastError, match="max_recurrent"):
        nets.ParaGRU(4, 6, max_recurrent=0)
