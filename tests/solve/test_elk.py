"""The damped sweep: its two scans, its law, its prefix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import core, solve
from abreast.solve.kalman import kalman_scan
from abreast.solve.operators import DENSE, DIAGONAL

from .conftest import cell_sequence, plain, recurrences


def filtered(A: torch.Tensor, b: torch.Tensor, s: float) -> torch.Tensor:
    """The filter as it is written down."""
    eye = torch.eye(b.shape[-1], dtype=b.dtype)
    kept, d, out = torch.zeros_like(A[0]), torch.zeros_like(b[0]), []
    for i in range(len(b)):
        P = A[i] @ kept @ A[i].mT + eye
        K = P @ torch.linalg.inv(P + s * eye)
        kept = P - K @ P
        d = ((eye - K) @ (A[i] @ d[..., None] + b[i][..., None]))[..., 0]
        out.append(d)
    return torch.stack(out)


@given(
    st.integers(1, 30), st.sampled_from([0.1, 1.0, 1e3, 1e8, 1e30]), st.booleans(), st.booleans(), st.integers(0, 99)
)
def test_kalman_scan(n: int, s: float, parallel: bool, diagonal: bool, seed: int) -> None:
    torch.manual_seed(seed)
    b = torch.randn(n, 2, 3, dtype=torch.float64)
    A = torch.randn(n, 2, 3, dtype=torch.float64) if diagonal else torch.randn(n, 2, 3, 3, dtype=torch.float64) / 2
    wanted = filtered(torch.diag_embed(A) if diagonal else A, b, s)
    got = kalman_scan(DIAGONAL if diagonal else DENSE, A, b, s, parallel)
    assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


METHODS = [solve.ELK(), solve.ELK(sigma2=1.0), solve.ELK(linearization=solve.Diagonal(), sigma2=10.0),
           solve.ELK(sigma2=10.0, window=7)]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_laws(method: Any) -> None:
    for name, holds in core.laws(method, plain(20)):
        assert holds, name


@given(recurrences(), st.sampled_from([0.01, 1.0, 1e4]))
def test_equality_is_the_loop_and_a_bound_is_kept(problem: Any, sigma2: float) -> None:
    loop = core.run(problem, problem.reference)
    exact = core.run(problem, solve.ELK(atol=0.0, rtol=0.0, sigma2=sigma2), against=loop)
    assert torch.equal(exact.value, loop.value)
    assert core.run(problem, solve.ELK(sigma2=sigma2), against=loop).kept


def test_blocks_and_gradients() -> None:
    problem = cell_sequence("gru", 20)
    grads = []
    for method in (problem.reference, solve.ELK(atol=1e-13, rtol=0, sigma2=100.0)):
        value = core.run(problem, method).value
        grads.append(torch.autograd.grad(value.sin().sum(), list(problem.cell.parameters())))
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(*grads))


def test_bad_input() -> None:
    with pytest.raises(core.AbreastError, match="variance above 0"):
        solve.ELK(sigma2=0.0)
    with pytest.raises(core.AbreastError, match="filters along a Jacobian"):
        core.run(plain(5), solve.ELK(linearization=solve.Zero()))


def test_a_sweep_is_damped_by_its_sigma() -> None:
    """One sweep from zeros, against the filter as it is written down."""
    problem, i = plain(10, batch=1), torch.arange(10)
    f, A = solve.Dense().at(problem, i, torch.zeros(10, 1, 3, dtype=torch.float64))
    seen = []
    for sigma2 in (0.5, 1e4):
        method = solve.ELK(atol=0.0, rtol=0.0, max_sweeps=1, sigma2=sigma2)
        seen.append(core.run(problem, method).value)
        wanted = filtered(A, f, sigma2)  # the old states are zeros, so that what is missing is f
        assert torch.allclose(seen[-1][1:], wanted[1:], atol=1e-12)
    assert float((seen[0] - seen[1]).abs().max()) > 0.1
