"""The scan of a damped sweep: a chain that is pulled to zero as a Kalman filter would, which sees it there.

d_{i+1} = (I - K_i) (A_i d_i + b_i), K_i = P_i (P_i + s I)^-1, P_{i+1} = A_i (I - K_i) P_i A_i^T + I, P_1 = I: the means
of a filter with unit noise in each step and observations 0 of variance s. Axes: n steps, B batch, d state entries.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abreast.solve import kernels
from abreast.solve.operators import Family
from abreast.solve.scan import associative_scan

Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # A, b, C, J, eta


def kalman_scan(family: Family, A: Tensor, b: Tensor, variance: float, parallel: bool | None = None) -> Tensor:
    """d_1 .. d_n from d_0 = 0, b [n, *state]; A diagonal [n, *state], dense [n, B, d, d] or blocks [n, B, *, m, m].

    parallel: None takes the fused serial pass on a CPU, the associative scan of five-tuples (Sarkka and
    Garcia-Fernandez, 2021) elsewhere; both give the same up to rounding.
    """
    if parallel is None:
        parallel = not kernels.fits(A, b)
    if not parallel:
        flat_A, flat_b = family.flat(A, b)
        out = torch.empty_like(flat_b, memory_format=torch.contiguous_format)
        kernel = _kernels()["dense" if flat_A.dim() == 4 else "diagonal"]
        kernel(flat_A.contiguous().numpy(), flat_b.contiguous().numpy(), variance, out.numpy())
        return out.view(b.shape)
    if family.name == "diagonal":
        return associative_scan(_then_diagonal, _elements_diagonal(A.expand_as(b), b, variance))[1]
    return associative_scan(_then, _elements(A, b, variance))[1]


def _elements(A: Tensor, b: Tensor, s: float) -> Five:
    """One filter step from a known state: the gain of a unit covariance is 1 / (1 + s). The first starts from d_0 = 0,
    so that nothing of a state before it is left."""
    kept = 1 - 1 / (1 + s)
    eye = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device)
    At = A.transpose(-1, -2)
    first = torch.ones(len(b), *[1] * (A.dim() - 1), dtype=b.dtype, device=b.device)
    first[0] = 0
    C = (kept * eye).expand_as(A)
    J, eta = At @ A / (1 + s), -_times(At, b) / (1 + s)
    return kept * A * first, kept * b, C, J * first, eta * first[..., 0]


def _then(earlier: Five, later: Five) -> Five:
    """Both as one. M = (I + C_1 J_2)^-1."""
    (A1, b1, C1, J1, e1), (A2, b2, C2, J2, e2) = earlier, later
    eye = torch.eye(b1.shape[-1], dtype=b1.dtype, device=b1.device)
    solved = torch.linalg.solve(eye + C1 @ J2, torch.cat((A1, C1, (b1 + _times(C1, e2))[..., None]), -1))
    d = b1.shape[-1]
    MA, MC, Mb = solved[..., :d], solved[..., d : 2 * d], solved[..., 2 * d]
    pulled = MA.transpose(-1, -2)  # A_1^T (I + J_2 C_1)^-1
    return (
        A2 @ MA,
        _times(A2, Mb) + b2,
        A2 @ MC @ A2.transpose(-1, -2) + C2,
        pulled @ J2 @ A1 + J1,
        _times(pulled, e2 - _times(J2, b1)) + e1,
    )


def _elements_diagonal(A: Tensor, b: Tensor, s: float) -> Five:
    kept = 1 - 1 / (1 + s)
    first = torch.ones(len(b), *[1] * (b.dim() - 1), dtype=b.dtype, device=b.device)
    first[0] = 0
    return kept * A * first, kept * b, torch.full_like(b, kept), A * A / (1 + s) * first, -A * b / (1 + s) * first


def _then_diagonal(earlier: Five, later: Five) -> Five:
    (A1, b1, C1, J1, e1), (A2, b2, C2, J2, e2) = earlier, later
    M = 1 / (1 + C1 * J2)
    return (
        A2 * M * A1,
        A2 * M * (b1 + C1 * e2) + b2,
        A2 * M * C1 * A2 + C2,
        A1 * M * J2 * A1 + J1,
        A1 * M * (e2 - J2 * b1) + e1,
    )


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x[..., None])[..., 0]


@cache
def _kernels() -> dict[str, Any]:
    """Compiled at first use: one pass over time for each lane. (I - K) v = s (P + s I)^-1 v, by a Cholesky factor."""
    import numba

    @numba.njit(fastmath=False, nogil=True, cache=True)
    def diagonal(A, b, s, out):
        n, lanes = b.shape
        for j in range(lanes):
            p, d = 1.0, 0.0
            for i in range(n):
                if i:
                    p = A[i, j] * (s / (p + s) * p) * A[i, j] + 1
                d = s / (p + s) * (A[i, j] * d + b[i, j])
                out[i, j] = d

    @numba.njit(fastmath=False, nogil=True, cache=True)
    def dense(A, b, s, out):
        n, lanes, m = b.shape
        L, Q, R, P = np.empty((m, m)), np.empty((m, m)), np.empty((m, m)), np.empty((m, m))
        for j in range(lanes):
            for i in range(n):
                if i == 0:
                    for r in range(m):
                        for c in range(m):
                            P[r, c] = 1.0 if r == c else 0.0
                else:
                    # Q = s (P + s I)^-1 P of the step before, which L still factors; then P = A Q A^T + I.
                    for c in range(m):
                        for r in range(m):
                            total = P[r, c]
                            for k in range(r):
                                total -= L[r, k] * Q[k, c]
                            Q[r, c] = total / L[r, r]
                        for r in range(m - 1, -1, -1):
                            total = Q[r, c]
                            for k in range(r + 1, m):
                                total -= L[k, r] * Q[k, c]
                            Q[r, c] = total / L[r, r]
                    for r in range(m):
                        for c in range(m):
                            total = 0.0
                            for k in range(m):
                                total += A[i, j, r, k] * Q[k, c]
                            R[r, c] = s * total
                    for r in range(m):
                        for c in range(r + 1):
                            total = 1.0 if r == c else 0.0
                            for k in range(m):
                                total += R[r, k] * A[i, j, c, k]
                            P[r, c] = total
                            P[c, r] = total
                for r in range(m):
                    for c in range(r + 1):
                        total = P[r, c]
                        if r == c:
                            total += s
                        for k in range(c):
                            total -= L[r, k] * L[c, k]
                        L[r, c] = total**0.5 if r == c else total / L[c, c]
                for r in range(m):
                    total = b[i, j, r]
                    if i:
                        for c in range(m):
                            total += A[i, j, r, c] * out[i - 1, j, c]
                    for k in range(r):
                        total -= L[r, k] * out[i, j, k]
                    out[i, j, r] = total / L[r, r]
                for r in range(m - 1, -1, -1):
                    total = out[i, j, r]
                    for k in range(r + 1, m):
                        total -= L[k, r] * out[i, j, k]
                    out[i, j, r] = total / L[r, r]
                for r in range(m):
                    out[i, j, r] *= s

    return {"diagonal": diagonal, "dense": dense}
