"""The inverse of a corner convolution: a dense triangular solve's answer, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import core, solve

CORNERS = ("TL", "TR", "BL", "BR")


def picture(B: int, C: int, H: int, W: int, k: int, seed: int, gain: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(B, C, H, W, generator=g, dtype=torch.float64)
    return y, gain * torch.randn(C, C, k, k, generator=g, dtype=torch.float64)


def matrix(weight: torch.Tensor, C: int, H: int, W: int, corner: Any) -> torch.Tensor:
    """The convolution as a matrix on flattened pictures."""
    basis = torch.eye(C * H * W, dtype=weight.dtype).view(-1, C, H, W)
    return solve.corner_conv2d(basis, weight, corner).flatten(1).T


shapes = st.builds(
    picture, st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4),
    st.integers(0, 10**6),
)  # fmt: skip


@given(shapes, st.sampled_from(CORNERS))
def test_it_is_the_dense_solve(given: Any, corner: Any) -> None:
    y, weight = given
    C, H, W = y.shape[1:]
    A = matrix(weight, C, H, W, corner)
    assert abs(float(torch.linalg.slogdet(A)[1])) < 1e-8
    dense = torch.linalg.solve(A, y.flatten(1).T).T.view_as(y)
    x = solve.inverse_conv2d(y, weight, corner)
    assert torch.allclose(x, dense, atol=1e-9 * max(1.0, float(dense.abs().max())))


@given(shapes, st.sampled_from(CORNERS))
def test_it_is_the_system_in_any_order(given: Any, corner: Any) -> None:
    problem = solve.InverseConvolution(*given, corner)
    H, W = problem.y.shape[2:]
    loop = core.run(problem, problem.reference)
    for method in (solve.AntiDiagonal(), solve.Jacobi(), solve.GaussSeidel(), solve.GSJacobi(3)):
        run = core.run(problem, method, against=loop)
        assert run.kept, method
    assert loop.ledger.span == H * W
    assert core.run(problem, solve.AntiDiagonal()).ledger.span == H + W - 1 == problem.L
    assert core.run(problem, solve.GaussSeidel()).ledger.span == H + W - 1
    assert core.run(problem, solve.Jacobi()).ledger.span <= H + W - 1


@pytest.mark.parametrize("corner", CORNERS)
def test_gradients(corner: Any) -> None:
    y, weight = picture(2, 2, 4, 3, 3, 0)
    lane = core.Ledger().lane("0")
    y.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda y, w: solve.inverse_conv2d(y, w, corner), (y, weight))
    x = solve.inverse_conv2d(y, weight, corner, lane)
    x.sin().sum().backward()
    assert lane.ledger.span == 2 * (4 + 3 - 1)
    masked = weight.grad[:, :, 0, 0]
    assert torch.equal(masked.triu(), torch.zeros_like(masked))


def test_laws_and_triangularity() -> None:
    problem = solve.InverseConvolution(*picture(1, 2, 4, 4, 3, 1), "BR")
    problem.check_triangular(samples=1)
    for method in (solve.AntiDiagonal(), solve.GaussSeidel()):
        assert all(holds for _, holds in core.laws(method, problem))


def test_bad_input_is_named() -> None:
    y, weight = picture(1, 2, 4, 4, 3, 0)
    for match, bad in (
        ("a corner is one of", lambda: solve.inverse_conv2d(y, weight, "top")),  # type: ignore[arg-type]
        ("pictures are", lambda: solve.inverse_conv2d(y[0], weight)),
        (r"for 2 channels is \[2, 2, k, k\]", lambda: solve.inverse_conv2d(y, weight[:, :1])),
        ("convert one of them", lambda: solve.inverse_conv2d(y.float(), weight)),
        ("InverseConvolution is wanted", lambda: core.run(
            solve.TriangularSystem(lambda x: x, y[0]), solve.AntiDiagonal())),
    ):  # fmt: skip
        with pytest.raises(core.AbreastError, match=match):
            bad()
