"""Fused passes over an affine chain d_{i+1} = A_i d_i + b_i, d_0 = 0, one for each kind of processor.

Axes: n steps, L lanes (batch and state entries, or blocks), m entries of a block. On a CPU the pass goes through time
once and does all lanes of a step (numba); on a GPU every lane scans its own time in chunks (Triton), all lanes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHUNK = 1024  # steps that a GPU's program scans at once


def chain(A: Tensor, b: Tensor) -> Tensor | None:
    """d of A and b [n, L], or of A [n, L, m, m] and b [n, L, m]; None where nothing fused runs on these."""
    diagonal = A.dim() == 2
    if (A.device.type == "cuda" or forced()) and (diagonal or A.shape[-1] <= 2):
        return on_gpu(A[..., None, None], b[..., None]) if diagonal else on_gpu(A, b)
    if not fits(A, b):
        return None
    kernel = compiled()
    return None if kernel is None else _run(kernel["diagonal" if diagonal else "blocks"], A, b)


def fits(A: Tensor, b: Tensor) -> bool:
    """Whether a pass compiled for CPUs takes these."""
    return (
        A.device.type == "cpu"
        and A.dtype == b.dtype
        and A.dtype in (torch.float32, torch.float64)
        and compiled() is not None
    )


def _run(kernel: Callable[..., Any], A: Tensor, b: Tensor) -> Tensor:
    out = torch.empty_like(b, memory_format=torch.contiguous_format)
    kernel(A.detach().contiguous().numpy(), b.detach().contiguous().numpy(), out.numpy())
    return out


@cache
def compiled() -> dict[str, Callable[..., Any]] | None:
    """The passes for CPUs, compiled at first use; None without numba."""
    try:
        import numba
    except ImportError:
        return None

    @numba.njit(nogil=True, cache=True)
    def diagonal(A, b, out):
        n, lanes = b.shape
        for j in range(lanes):
            out[0, j] = b[0, j]
        for i in range(1, n):
            for j in range(lanes):
                out[i, j] = A[i, j] * out[i - 1, j] + b[i, j]

    @numba.njit(nogil=True, cache=True)
    def blocks(A, b, out):
        n, lanes, m = b.shape
        out[0] = b[0]
        for i in range(1, n):
            for j in range(lanes):
                for r in range(m):
                    total = b[i, j, r]
                    for c in range(m):
                        total += A[i, j, r, c] * out[i - 1, j, c]
                    out[i, j, r] = total

    return {"diagonal": diagonal, "blocks": blocks}


def forced() -> bool:
    """Whether Triton interprets its programs on the CPU (TRITON_INTERPRET=1): how they are tested without a GPU."""
    import os

    return os.environ.get("TRITON_INTERPRET") == "1" and programs() is not None


def on_gpu(A: Tensor, b: Tensor) -> Tensor | None:
    """A [n, L, m, m], b [n, L, m] with m of 1 or 2 by Triton; None without it."""
    found = programs()
    if found is None:
        return None
    n, lanes, m = b.shape
    A, b = A.detach().expand(n, lanes, m, m).contiguous(), b.detach().contiguous()
    out = torch.empty_like(b)
    chunk = min(CHUNK, 1 << max(n - 1, 0).bit_length())
    found[m][(lanes,)](A, b, out, n, lanes, CHUNK=chunk)
    return out.view(n, lanes) if m == 1 and out.shape[-1] == 1 else out


@cache
def programs() -> dict[int, Any] | None:
    """The Triton programs by block size; None where Triton is not installed."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return None
    from abreast.solve import gpu

    return {1: gpu.diagonal, 2: gpu.blocks}
