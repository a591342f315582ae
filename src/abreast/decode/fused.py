"""The small steps between a Llama's matrix products, by torch or, on a CPU with numba, a kernel each.

Between two products an operation of torch costs more in calls than in numbers, and more again once the weights that
stream by have pushed its code out of the caches. Here a step is one call that reads a product's result where it lies.
Both ways round where the library rounds, so they differ by the order of a sum.

Axes: m rows, H query heads in G groups of R that share keys, A = R m rows of attention rounded up, D head width,
d model width, P positions, S slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad, rms_norm, silu

numba: Any
if TYPE_CHECKING:  # its decorators are opaque to the checker
    carray: Any
    njit: Any
    types: Any
    intrinsic: Any
    overload: Any
else:
    try:
        import numba
        from numba import carray, njit, types
        from numba.extending import intrinsic, overload
    except ImportError:
        numba = None


ROUND = 4  # attention has other kernels, with other orders of summation, for a block's last one to three rows


def compiled(like: torch.Tensor) -> bool:
    """Whether there are kernels for tensors like this one."""
    return bool(numba) and like.device.type == "cpu" and like.dtype in (torch.float32, torch.bfloat16)


def raw(t: torch.Tensor) -> Any:
    """The tensor's memory as numpy's; bfloat16, which numpy lacks, as its bits."""
    return t.view(torch.uint16).numpy() if t.dtype == torch.bfloat16 else t.numpy()


def ready(t: torch.Tensor) -> Any:
    """A tensor that outlives many calls, as the steps take it."""
    return raw(t) if compiled(t) else t


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm over the last axis."""
    if x.dtype != torch.float64:
        return rms_norm(x, weight.shape, weight, eps)
    single = x.float()  # the library norms in float32, whatever the dtype
    return weight * (single * torch.rsqrt(single.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def gate(y: torch.Tensor) -> torch.Tensor:
    """silu(a) b of y = a, b [m, 2 f]."""
    a, b = y.chunk(2, -1)
    return silu(a).mul_(b)


class Plain:
    """The steps for m rows in torch: any device, any dtype. Weights, tables and caches come as `ready` makes them."""

    def __init__(self, m: int, G: int, R: int, D: int, width: int, like: torch.Tensor):
        self.m, self.G, self.R, self.D = m, G, R, D
        self.A = -(-R * m // ROUND) * ROUND
        self.x = like.new_zeros(m, width)

    def begin(self, tables: Any, positions: torch.Tensor) -> None:
        """Start a call: an empty residual stream, rows at these positions of the rotary tables [P, D]."""
        self.x.zero_()
        self.cos, self.sin = (table[positions][:, None] for table in tables)

    def norm(self, y: torch.Tensor, weight: Any, eps: float) -> torch.Tensor:
        """Add y to the residual stream; the stream's RMS norm, [m, d]."""
        self.x += y
        return norm(self.x, weight, eps)

    def turn(self, y: torch.Tensor, kv: Any, start: int) -> torch.Tensor:
        """Rotate queries and keys of y [m, (H + 2G) D], write keys and values into kv [2, G, S, D] from slot `start`
        on; the queries, [G, 1, A, D]."""
        m, G, R, D, half = self.m, self.G, self.R, self.D, self.D // 2
        y = y.view(m, G * R + 2 * G, D)
        qk = y[:, :-G]
        qk = torch.addcmul(qk * self.cos, torch.cat((qk[..., half:], qk[..., :half]), -1), self.sin)
        kv[0, :, start : start + m] = qk[:, -G:].transpose(0, 1)
        kv[1, :, start : start + m] = y[:, -G:].transpose(0, 1)
        q = qk[:, :-G].view(m, G, R, D).permute(1, 2, 0, 3).reshape(G, 1, R * m, D)
        return pad(q, (0, 0, 0, self.A - R * m))

    def unturn(self, a: torch.Tensor) -> torch.Tensor:
        """What attention made of `turn`'s queries, by row: [m, H D]."""
        return a[:, 0, : self.R * self.m].unflatten(1, (self.R, self.m)).permute(2, 0, 1, 3).reshape(self.m, -1)

    def gate(self, y: torch.Tensor) -> torch.Tensor:
        return gate(y)


def steps(m: int, G: int, R: int, D: int, width: int, like: torch.Tensor) -> Plain:
    """The steps for m rows of models with weights like this one."""
    return (Compiled if compiled(like) else Plain)(m, G, R, D, width, like)


if numba:

    @intrinsic
    def _pointer(typing, address):
        def code(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

        return types.voidptr(types.int64), code

    def wide(v):
        """A stored number as one to compute with."""

    def narrow(v, like):
        """A computed number, rounded to nearest even, as one to store in `like`."""

    @overload(wide, inline="always")
    def _wide(v):
        if v == types.uint16:
            return lambda v: np.uint32(np.uint32(v) << np.uint32(16)).view(np.float32)
        return lambda v: v

    @overload(narrow, inline="always")
    def _narrow(v, like):
        if like.dtype != types.uint16:
            return lambda v, like: v

        def bits(v, like):
            b = np.float32(v).view(np.uint32)
            return np.uint16((b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

        return bits

    @njit(cache=True, fastmath={"reassoc"}, error_model="numpy")
    def _norm(y, x, weight, h, eps):
        m, d = x.shape
        new = carray(_pointer(y), (m, d), x.dtype)
        for i in range(m):
            total = np.float32(0)
            for k in range(d):
                x[i, k] = narrow(wide(x[i, k]) + wide(new[i, k]), x)
                total += wide(x[i, k]) * wide(x[i, k])
            scale = np.float32(1) / np.sqrt(total / np.float32(d) + np.float32(eps))
            for k in range(d):
                h[i, k] = narrow(wide(narrow(wide(x[i, k]) * scale, x)) * wide(weight[k]), x)

    @njit(cache=True, inline="always")
    def _rotate(new, i, head, cos, sin, at, out):
        half = cos.shape[1] // 2
        for k in range(half):
            a, b = wide(new[i, head, k]), wide(new[i, head, k + half])
            ac, bs = wide(narrow(a * wide(cos[at, k]), out)), wide(narrow(b * wide(sin[at, k]), out))
            bc, as_ = wide(narrow(b * wide(cos[at, k + half]), out)), wide(narrow(a * wide(sin[at, k + half]), out))
            out[k], out[k + half] = narrow(ac + bs, out), narrow(bc + as_, out)

    @njit(cache=True, error_model="numpy")
    def _turn(y, cos, sin, positions, kv, start, R, q):
        m, G, D = len(positions), len(q), cos.shape[1]
        H = G * R
        new = carray(_pointer(y), (m, H + 2 * G, D), q.dtype)
        for i in range(m):
            at = positions[i]
            for g in range(G):
                for r in range(R):
                    _rotate(new, i, g * R + r, cos, sin, at, q[g, 0, r * m + i])
                _rotate(new, i, H + g, cos, sin, at, kv[0, g, start + i])
                for k in range(D):
                    kv[1, g, start + i, k] = new[i, H + G + g, k]

    @njit(cache=True)
    def _unturn(a, A, rows):
        m, G, R, D = rows.shape
        new = carray(_pointer(a), (G, A, D), rows.dtype)
        for i in range(m):
            for g in range(G):
                for r in range(R):
                    for k in range(D):
                        rows[i, g, r, k] = new[g, r * m + i, k]

    @njit(cache=True, inline="always", error_model="numpy")
    def _exp(v):
        """e^v by its binary exponent and a polynomial (Moshier, Cephes): as a formula it runs in vector lanes."""
        v = min(max(v, np.float32(-87)), np.float32(88))
        n = np.floor(v * np.float32(1.44269504) + np.float32(0.5))
        v = v - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4) * v + np.float32(1.3981999507e-3)
        p = p * v + np.float32(8.3334519073e-3)
        p = p * v + np.float32(4.1665795894e-2)
        p = p * v + np.float32(1.6666665459e-1)
        p = p * v + np.float32(5.0000001201e-1)
        return (p * v * v + v + np.float32(1)) * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(
            np.float32
        )

    @njit(cache=True, error_model="numpy")
    def _gate(y, s):
        m, f = s.shape
        new = carray(_pointer(y), (m, 2, f), s.dtype)
        for i in range(m):
            for k in range(f):
                a = wide(new[i, 0, k])
                s[i, k] = narrow(wide(narrow(a / (np.float32(1) + _exp(-a)), s)) * wide(new[i, 1, k]), s)

    class Compiled(Plain):
        """The steps as kernels that write into buffers of their own, each valid until the step is taken again."""

        def __init__(self, m: int, G: int, R: int, D: int, width: int, like: torch.Tensor):
            super().__init__(m, G, R, D, width, like)
            self.h, self.q = torch.empty_like(self.x), like.new_zeros(G, 1, self.A, D)
            self.a = like.new_empty(m, G, R, D)
            self.raw_x, self.raw_h, self.raw_q, self.raw_a = raw(self.x), raw(self.h), raw(self.q), raw(self.a)
            self.flat, self.s = self.a.view(m, -1), like.new_empty(m, 0)

        def begin(self, tables: Any, positions: torch.Tensor) -> None:
            self.raw_x[:] = 0
            self.cos, self.sin = tables
            self.positions = positions.numpy()

        def norm(self, y: torch.Tensor, weight: Any, eps: float) -> torch.Tensor:
            _norm(y.data_ptr(), self.raw_x, weight, self.raw_h, eps)
            return self.h

        def turn(self, y: torch.Tensor, kv: Any, start: int) -> torch.Tensor:
            _turn(y.data_ptr(), self.cos, self.sin, self.positions, kv, start, self.R, self.raw_q)
            return self.q

        def unturn(self, a: torch.Tensor) -> torch.Tensor:
            _unturn(a.data_ptr(), self.A, self.raw_a)
            return self.flat

        def gate(self, y: torch.Tensor) -> torch.Tensor:
            if 2 * self.s.shape[1] != y.shape[1]:
                self.s = y.new_empty(self.m, y.shape[1] // 2)
                self.raw_s = raw(self.s)
            _gate(y.data_ptr(), self.raw_s)
            return self.s
