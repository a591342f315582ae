"""Triton programs of the affine chain. A program is one lane; it scans its steps in chunks, and carries the last state.

Triton finds the names in a program among this module's globals, which is why it is imported here; import this module
only where Triton is installed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _then(a1, b1, a2, b2):
    return a1 * a2, a2 * b1 + b2


@triton.jit
def diagonal(A, B, OUT, n, lanes, CHUNK: tl.constexpr):
    """A, B, OUT [n, lanes]."""
    lane = tl.program_id(0)
    step = tl.arange(0, CHUNK)
    state = tl.zeros((1,), dtype=OUT.dtype.element_ty)
    for first in range(0, n, CHUNK):
        i = first + step
        inside = i < n
        a = tl.load(A + i * lanes + lane, mask=inside, other=1.0)
        b = tl.load(B + i * lanes + lane, mask=inside, other=0.0)
        product, local = tl.associative_scan((a, b), 0, _then)
        d = product * state + local
        tl.store(OUT + i * lanes + lane, d, mask=inside)
        state = tl.sum(tl.where(step == CHUNK - 1, d, 0.0), 0, keep_dims=True)


@triton.jit
def _then_blocks(a, b, c, d, x, y, e, f, g, h, u, v):
    """Of (a b / c d) z + (x, y) and then (e f / g h) z + (u, v)."""
    return e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d, e * x + f * y + u, g * x + h * y + v


@triton.jit
def blocks(A, B, OUT, n, lanes, CHUNK: tl.constexpr):
    """A [n, lanes, 2, 2], B and OUT [n, lanes, 2]."""
    lane = tl.program_id(0)
    step = tl.arange(0, CHUNK)
    one = tl.zeros((1,), dtype=OUT.dtype.element_ty)
    two = tl.zeros((1,), dtype=OUT.dtype.element_ty)
    for first in range(0, n, CHUNK):
        i = first + step
        inside = i < n
        at = A + (i * lanes + lane) * 4
        a = tl.load(at, mask=inside, other=1.0)
        b = tl.load(at + 1, mask=inside, other=0.0)
        c = tl.load(at + 2, mask=inside, other=0.0)
        d = tl.load(at + 3, mask=inside, other=1.0)
        x = tl.load(B + (i * lanes + lane) * 2, mask=inside, other=0.0)
        y = tl.load(B + (i * lanes + lane) * 2 + 1, mask=inside, other=0.0)
        a, b, c, d, x, y = tl.associative_scan((a, b, c, d, x, y), 0, _then_blocks)
        p = a * one + b * two + x
        q = c * one + d * two + y
        tl.store(OUT + (i * lanes + lane) * 2, p, mask=inside)
        tl.store(OUT + (i * lanes + lane) * 2 + 1, q, mask=inside)
        one = tl.sum(tl.where(step == CHUNK - 1, p, 0.0), 0, keep_dims=True)
        two = tl.sum(tl.where(step == CHUNK - 1, q, 0.0), 0, keep_dims=True)
