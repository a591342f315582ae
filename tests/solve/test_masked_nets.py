"""Sampling and differentiating as triangular systems: the nets' masks hold, and all orders give one answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from abreast import core, nets, solve
from abreast.core.noise import uniform

from .conftest import cell_sequence


def uniforms(members: int, nodes: int) -> torch.Tensor:
    return torch.from_numpy(uniform(7, "pixel", np.arange(members), n=nodes))


def made() -> Any:
    net = nets.MADE(9, 30).double()
    net.weight_out.data.mul_(4)
    return net.system(uniforms(5, 9))


def pixels() -> Any:
    torch.manual_seed(0)
    return nets.PixelCNN(side=3, values=5, channels=4, depth=1).double().system(uniforms(5, 9))


def tower() -> Any:
    return nets.DenseNetTower(4, 6, 3).double().system(uniforms(5, 4))


@pytest.mark.parametrize("make", [made, pixels, tower])
def test_masks_hold_and_all_orders_agree(make: Any) -> None:
    problem = make()
    problem.check_triangular()
    loop = core.run(problem, problem.reference)
    for method in (solve.Jacobi(), solve.JacobiGS(3), solve.GSJacobi(4), solve.GaussSeidel()):
        assert core.run(problem, method, against=loop).kept, method


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_the_adjoint_chain_is_back_propagation(kind: str) -> None:
    cells = cell_sequence(kind, 7)
    problem = solve.AdjointChain(cells)
    problem.check_triangular(samples=1)
    h0 = cells.h0.clone().requires_grad_()
    states = core.run(solve.CellSequence(cells.cell, cells.inputs, h0), solve.Loop()).value
    wanted = torch.autograd.grad(states[-1].sum(), h0)[0]
    for method in (solve.Loop(), solve.Jacobi(), solve.Anderson(memory=3), solve.GSJacobi(2)):
        found = problem.gradients(core.run(problem, method).value)
        x = cells.h0.clone().requires_grad_()
        first = torch.autograd.grad(cells.f(torch.zeros(1, dtype=torch.long), x[None])[0], x, found[0])[0]
        assert torch.allclose(first, wanted, atol=1e-12), method


def test_a_flow_is_invertible_and_counts_its_rounds() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 17, (3, 1, 8, 8), generator=g)
    for turned, rounds in ((False, 8), (True, 4 * (7 + 3))):
        flow = nets.InverseFlow(2, 1, hidden=4, turned=turned).standardise(x).double()
        for parameter in flow.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
        given, lane = x.double() / 17 - 0.5, core.Ledger().lane("0")
        latents, det = flow(given)
        assert torch.allclose(flow.inverse(latents, lane), given, atol=1e-10)
        assert lane.ledger.longest("diagonal") == rounds
        jacobian = torch.autograd.functional.jacobian(
            lambda v, flow=flow: torch.cat([z.flatten() for z in flow(v.view(1, 1, 8, 8))[0]]), given[0].flatten()
        )
        assert torch.allclose(torch.linalg.slogdet(jacobian)[1], det[0], atol=1e-8)


def test_bad_input_is_named() -> None:
    for match, bad in (
        ("two nodes", lambda: nets.MADE(1)),
        (r"uniforms are \[members, 9\]", lambda: nets.MADE(9).system(uniforms(2, 8))),
        ("not halved 4 times", lambda: nets.InverseFlow(4)),
        ("grad is", lambda: solve.AdjointChain(cell_sequence("rnn", 3), torch.zeros(1))),
    ):
        with pytest.raises(core.AbreastError, match=match):
            bad()
