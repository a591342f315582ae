"""A large picture as small ones: coarse views of all of it, and overlapping tiles.

Axes: V views or tiles, B samples, C channels, H and W of the large picture, s times those of a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abreast.core import AbreastError


def interleave(x: Tensor, s: int) -> Tensor:
    """The s² views [V, B, C, H / s, W / s] of x [B, C, H, W]: view (a, b) has every s-th row from a and column from b
    on, so each shows the whole picture. View 0 is the first. Raises AbreastError where s does not divide the sides."""
    if s < 1 or x.shape[-2] % s or x.shape[-1] % s:
        raise AbreastError(f"{s} must divide the sides of a picture of {x.shape[-2]} x {x.shape[-1]}.")
    return torch.stack([x[..., a::s, b::s] for a in range(s) for b in range(s)])


def deinterleave(views: Tensor, s: int) -> Tensor:
    """The inverse of `interleave`."""
    out = views.new_empty(*views.shape[1:-2], s * views.shape[-2], s * views.shape[-1])
    for index, view in enumerate(views):
        out[..., index // s :: s, index % s :: s] = view
    return out


Corner = tuple[int, int]


def tiles(sides: Sequence[int], tile: Sequence[int], overlap: float) -> list[Corner]:
    """Upper left corners of tiles that cover a picture, side by side in rows, evenly spaced so that neighbours share at
    least this portion of a tile. sides, tile: rows and columns. Raises AbreastError where a tile does not fit."""
    if not 0 <= overlap < 1:
        raise AbreastError(f"overlap is a portion of a tile from 0 up to 1, not {overlap}.")
    starts = []
    for side, size in zip(sides, tile):
        if not 1 <= size <= side:
            raise AbreastError(f"a tile of {size} does not fit a picture of {side}.")
        room, stride = side - size, max(1, int(size * (1 - overlap)))
        count = -(-room // stride) + 1
        starts.append([round(k * room / max(count - 1, 1)) for k in range(count)])
    return [(top, left) for top in starts[0] for left in starts[1]]


def crop(x: Tensor, corner: Corner, tile: Sequence[int]) -> Tensor:
    """The tile of x [..., H, W] at this corner."""
    return x[..., corner[0] : corner[0] + tile[0], corner[1] : corner[1] + tile[1]]


def blend(parts: Sequence[Tensor], corners: Sequence[Corner], sides: Sequence[int]) -> Tensor:
    """The picture [..., H, W] of its tiles, which are averaged where they overlap."""
    total = parts[0].new_zeros(*parts[0].shape[:-2], *sides)
    count = parts[0].new_zeros(*sides)
    for part, corner in zip(parts, corners):
        crop(total, corner, part.shape[-2:]).add_(part)
        crop(count, corner, part.shape[-2:]).add_(1)
    return total / count
