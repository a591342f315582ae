"""The inverse of a convolution that looks in one corner only, and its gradients, one anti-diagonal at a time.

y_ij = L x_ij + sum over (p, q) != (0, 0) of W_pq x_{i-p, j-q}, L unit lower triangular: pixels of one anti-diagonal
i + j depend on earlier ones only. Axes: B pictures, C channels, H x W pixels, k taps each way, D = H + W - 1 diagonals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from abreast.core import IDENTICAL, AbreastError, Guarantee, Lane, Method
from abreast.solve.loop import Loop
from abreast.solve.triangular import TriangularSystem
from abreast.workers import World

Corner = Literal["TL", "TR", "BL", "BR"]
_FLIPS: dict[str, tuple[int, ...]] = {"TL": (), "TR": (3,), "BL": (2,), "BR": (2, 3)}


def corner_conv2d(x: Tensor, weight: Tensor, corner: Corner = "TL") -> Tensor:
    """y [B, C, H, W] = W * x, padded at one corner only, so that a pixel sees those towards the corner. The tap (0, 0)
    of weight [C, C, k, k] counts as unit lower triangular: its strict lower triangle, and ones. log |det| = 0."""
    check(x, weight, corner)
    taps, k = unit_lower(weight), weight.shape[-1]
    x = x.flip(_FLIPS[corner])
    y = F.conv2d(F.pad(x, (k - 1, 0, k - 1, 0)), taps.flip(2, 3))
    return y.flip(_FLIPS[corner])


def inverse_conv2d(y: Tensor, weight: Tensor, corner: Corner = "TL", lane: Lane | None = None) -> Tensor:
    """The x [B, C, H, W] whose `corner_conv2d` is y: H + W - 1 rounds, each one product over an anti-diagonal.

    Differentiable once, in y and weight [C, C, k, k], by as many rounds the other way. corner: the two sides that are
    padded, "TL" top and left. lane: records the rounds, forward and backward ("diagonal": size pixels, span rounds).
    Source: Nagar and Varma, "Parallel Backpropagation for Inverse of a Convolution with Application to Normalizing
    Flows", 2024. Raises AbreastError for shapes that do not fit or an unknown corner.
    """
    check(y, weight, corner)
    flips = _FLIPS[corner]
    return _Inverse.apply(y.flip(flips), unit_lower(weight), lane).flip(flips)


def unit_lower(weight: Tensor) -> Tensor:
    """weight [C, C, k, k] with its tap (0, 0) unit lower triangular; what is masked gets no gradient."""
    C = len(weight)
    first = weight[:, :, 0, 0].tril(-1) + torch.eye(C, dtype=weight.dtype, device=weight.device)
    keep = torch.ones_like(weight[0, 0])
    keep[0, 0] = 0
    return weight * keep + first[:, :, None, None] * (1 - keep)


class _Inverse(torch.autograd.Function):
    """x = W^-1 y; then dy = W^-T dx, and dW_pq = - sum over pixels of dy_ij x_{i-p, j-q}^T."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, taps: Tensor, lane: Lane | None) -> Tensor:
        x = sweep(y, taps, upper=False, lane=lane)
        ctx.save_for_backward(x, taps)
        ctx.lane = lane
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dx: Tensor) -> Any:
        x, taps = ctx.saved_tensors
        k = taps.shape[-1]
        dy = sweep(dx.flip(2, 3), taps.transpose(0, 1), upper=True, lane=ctx.lane).flip(2, 3)
        dW = None
        if ctx.needs_input_grad[1]:
            before = F.pad(x, (k - 1, 0, k - 1, 0))
            dW = -conv2d_weight(before, taps.shape, dy).flip(2, 3)
        return dy, dW, None


def sweep(y: Tensor, taps: Tensor, upper: bool, lane: Lane | None = None) -> Tensor:
    """Solve towards the bottom right: x_ij = L^-1 (y_ij - sum of W_pq x_{i-p, j-q}), L being upper or lower triangular.

    Skewed layout: row i of diagonal d is pixel (i, d - i), so that tap (p, q) is row i - p of diagonal d - p - q, and
    the last 2 k - 2 diagonals, unfolded along their rows, are all that a diagonal needs.
    """
    B, C, H, W = y.shape
    k, D = taps.shape[-1], H + W - 1
    L = taps[:, :, 0, 0]
    wide = 2 * k - 1
    coming = taps.new_zeros(wide, k, C, C)
    for p in range(k):
        for q in range(k):
            if p + q:
                coming[wide - 1 - p - q, k - 1 - p] = taps[:, :, p, q]
    given = skew(y)
    inside = skew(torch.ones_like(y[:1, :1])).bool()
    found = y.new_zeros(D + wide - 1, B, C, H + k - 1)
    if lane is not None:
        lane.add("diagonal", float(B * H * W), span=float(D))
    for d in range(D):
        seen = found[d : d + wide].unfold(3, k, 1)
        total = given[d] - torch.einsum("sbihk,skoi->boh", seen, coming)
        x = torch.linalg.solve_triangular(L, total.transpose(0, 1).reshape(C, -1), upper=upper, unitriangular=True)
        found[d + wide - 1, :, :, k - 1 :] = x.view(C, B, H).transpose(0, 1) * inside[d]
    return unskew(found[wide - 1 :, :, :, k - 1 :], W)


def skew(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [D, B, C, H]: anti-diagonals, zero outside the picture."""
    H, W = x.shape[2:]
    rows = F.pad(x, (0, H)).flatten(2)[:, :, : H * (W + H - 1)]
    return rows.unflatten(2, (H, W + H - 1)).permute(3, 0, 1, 2)


def unskew(x: Tensor, W: int) -> Tensor:
    """The inverse of `skew`."""
    H = x.shape[3]
    rows = F.pad(x.permute(1, 2, 3, 0).flatten(2), (0, H))
    return rows.unflatten(2, (H, W + H))[..., :W].contiguous()


def check(x: Tensor, weight: Tensor, corner: str) -> None:
    """Raise AbreastError where a picture and a weight do not fit, or there is no such corner."""
    if corner not in get_args(Corner):
        raise AbreastError(f"a corner is one of {', '.join(get_args(Corner))}, not {corner!r}.")
    if x.dim() != 4:
        raise AbreastError(f"pictures are [batch, channels, height, width], not {list(x.shape)}.")
    C = x.shape[1]
    if weight.dim() != 4 or weight.shape[:2] != (C, C) or weight.shape[2] != weight.shape[3]:
        raise AbreastError(f"a weight for {C} channels is [{C}, {C}, k, k], not {list(weight.shape)}.")
    if weight.dtype != x.dtype:
        raise AbreastError(f"the weight is {weight.dtype} and the picture {x.dtype}: convert one of them.")


@dataclass(frozen=True)
class InverseConvolution(TriangularSystem):
    """The pixels [B, H W, C] of the picture whose corner convolution is y [B, C, H, W]; anti-diagonals are levels.

    weight [C, C, k, k]. The reference takes one pixel after the other. Raises AbreastError for shapes that do not fit.
    """

    y: Tensor = field(default=None, kw_only=True, repr=False, compare=False)  # type: ignore[assignment]
    weight: Tensor = field(default=None, kw_only=True, repr=False, compare=False)  # type: ignore[assignment]
    corner: Corner = field(default="TL", kw_only=True)

    def __init__(self, y: Tensor, weight: Tensor, corner: Corner = "TL"):
        check(y, weight, corner)
        H, W = y.shape[2:]
        taps, k = unit_lower(weight.detach()), weight.shape[-1]
        own = torch.arange(H)[:, None] + torch.arange(W)
        levels = own.flip([axis - 2 for axis in _FLIPS[corner]]).flatten()
        taps_P = taps.flip(2, 3).flatten(2)[:, :, :-1]  # [C, C, k * k - 1], the taps before the pixel itself

        def part(x: Tensor, nodes: Tensor, y: Tensor) -> Tensor:
            picture = x.transpose(1, 2).unflatten(2, (H, W)).flip(_FLIPS[corner])
            at = torch.arange(H * W).view(H, W).flip([axis - 2 for axis in _FLIPS[corner]]).flatten()
            place = torch.argsort(at)[nodes]
            near = F.pad(picture, (k - 1, 0, k - 1, 0)).unfold(2, k, 1).unfold(3, k, 1)
            near = near.flatten(4)[:, :, place // W, place % W, :-1]
            total = y[:, nodes] - torch.einsum("oit,bint->bno", taps_P, near)
            L = taps[:, :, 0, 0]
            return torch.linalg.solve_triangular(L, total.transpose(1, 2), upper=False, unitriangular=True).mT

        pixels = y.detach().flatten(2).transpose(1, 2).contiguous()
        for name, value in (
            ("y", y.detach()), ("weight", weight.detach()), ("corner", corner), ("levels", levels), ("part", part),
            ("f", lambda x, y: part(x, torch.arange(H * W), y)), ("x0", torch.zeros_like(pixels)), ("given", (pixels,)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        self.__post_init__()

    def picture(self, value: Tensor) -> Tensor:
        """The solution as [B, C, H, W]."""
        return value.transpose(1, 2).unflatten(2, tuple(self.y.shape[2:]))


@dataclass(frozen=True)
class AntiDiagonal(Method):
    """`inverse_conv2d` on the problem's picture. Source: Nagar and Varma, 2024."""

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL

    def run(self, problem: InverseConvolution, world: World) -> Tensor:
        if not isinstance(problem, InverseConvolution):
            raise AbreastError(f"an InverseConvolution is wanted, not a {type(problem).__name__}.")
        with torch.no_grad():
            x = inverse_conv2d(problem.y, problem.weight, problem.corner, world.lane())
        return x.flatten(2).transpose(1, 2)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "anti-diagonals in order are pixels in order", self, Loop()
