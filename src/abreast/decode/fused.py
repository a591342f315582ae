"""The small steps between a Llama's matrix products, by torch or, on a CPU with numba, a kernel each.

Between two products an operation of torch costs more in calls than in numbers, and more again once the weights that
stream by have pushed its code out of the caches. Here a step is one call that reads a product's result where it lies.
Both ways round where the library rounds, so they differ by the order of a sum.

Axes: m rows, H query heads in G groups of R that share keys, D head width, d model width, P positions, S slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import rms_norm, silu

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
    """The steps for m rows in torch: any device, any dtype."""

    def __init__(self, m: int, G: int, R: int, D: int, width: int, like: torch.Tensor):
        self.m, self.G, self.R, self.D, self.width = m, G, R, D, width
        self.x = like.new_zeros(m, width)

    def begin(self, tables: tuple[torch.Tensor, torch.Tensor], positions: torch.Tensor) -> None:
        """Start a call: an empty residual stream, rows at these positions of the rotary tables [P, D]."""
        self.x.zero_()
        self.cos, self.sin = (table[positions][:, None] for table in tables)

    def norm(self, y: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Add y to the residual stream; the stream's RMS norm, [m, d]."""
        self.x += y
        return norm(self.x, weight, eps)

    def turn(self, y: torch.Tensor, kv: torch.Tensor, start: int) -> torch.Tensor:
        """Rotate queries and keys of y [m, (H + 2G) D], write keys and values into kv [2, G, S, D] from slot `start`
        on; the queries, [G, R m, D]."""
        m, G, R, D, half = self.m, self.G, self.R, self.D, self.D // 2
        y = y.view(m, G * R + 2 * G, D)
        qk = y[:, :-G]
        qk = torch.addcmul(qk * self.cos, torch.cat((qk[..., half:], qk[..., :half]), -1), self.sin)
        kv[0, :, start : start + m] = qk[:, -G:].transpose(0, 1)
        kv[1, :, start : start + m] = y[:, -G:].transpose(0, 1)
        return qk[:, :-G].view(m, G, R, D).permute(1, 2, 0, 3).reshape(G, R * m, D)

    def gate(self, y: torch.Tensor) -> torch.Tensor:
        """silu(a) b of y = a, b [m, 2 f]."""
        return gate(y)


def steps(m: int, G: int, R: int, D: int, width: int, like: torch.Tensor) -> Plain:
    """The steps for m rows of models with weights like this one."""
    compiled = numba and like.device.type == "cpu" and like.dtype in (torch.float32, torch.bfloat16)
    return (Compiled if compiled else Plain)(m, G, R, D, width, like)


def raw(t: torch.Tensor) -> Any:
    """The tensor's memory as numpy's; bfloat16, which numpy lacks, as its bits."""
    return t.view(torch.uint16).numpy() if t.dtype == torch.bfloat16 else t.numpy()


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
    def _turn(y, cos, sin, positions, kv, start, q):
        m, (G, rows, D) = len(positions), q.shape
        R = rows // m
        H = G * R
        new = carray(_pointer(y), (m, H + 2 * G, D), q.dtype)
        for i in range(m):
            at = positions[i]
            for g in range(G):
                for r in range(R):
                    _rotate(new, i, g * R + r, cos, sin, at, q[g, r * m + i])
                _rotate(new, i, H + g, cos, sin, at, kv[0, g, start + i])
                kv[1, g, start + i] = new[i, H + G + g]

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
            self.h, self.q = torch.empty_like(self.x), like.new_empty(G, R * m, D)
            self.raw_x, self.raw_h, self.raw_q = raw(self.x), raw(self.h), raw(self.q)
            self.s: torch.Tensor | None = None
            self.known: dict[int, Any] = {}

        def begin(self, tables: tuple[torch.Tensor, torch.Tensor], positions: torch.Tensor) -> None:
            self.x.zero_()
            self.tables, self.positions = [self._raw(table) for table in tables], positions.numpy()

        def norm(self, y: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
            _norm(y.data_ptr(), self.raw_x, self._raw(weight), self.raw_h, eps)
            return self.h

        def turn(self, y: torch.Tensor, kv: torch.Tensor, start: int) -> torch.Tensor:
            _turn(y.data_ptr(), *self.tables, self.positions, raw(kv), start, self.raw_q)
            return self.q

        def gate(self, y: torch.Tensor) -> torch.Tensor:
            if self.s is None:
                self.s = y.new_empty(self.m, y.shape[1] // 2)
                self.raw_s = raw(self.s)
            _gate(y.data_ptr(), self.raw_s)
            return self.s

        def _raw(self, t: torch.Tensor) -> Any:
            """Weights as numpy's, made once: they outlive these steps."""
            got = self.known.get(id(t))
            if got is None:
                got = self.known[id(t)] = raw(t)
            return got
