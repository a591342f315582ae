"""Attention confined to the part of a picture that moves; elsewhere what it gave at the last key state stays.

Axes: B samples, C channels, F frames, H and W; N rows, S tokens (frames first, then rows of the picture).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from abreast.core import AbreastError
from abreast.diffuse.levels import held

Spread = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Mask:
    """A foreground that is given, as a value. share: how much of the picture it is."""

    cells: tuple[tuple[bool, ...], ...] = field(repr=False)
    share: float

    @classmethod
    def of(cls, mask: Tensor) -> Mask:
        """From a tensor [H, W]. Raises AbreastError for another shape, or where it is false everywhere."""
        if mask.ndim != 2 or not bool(mask.any()):
            raise AbreastError(f"a foreground is a mask [H, W] that is true somewhere, not one of {list(mask.shape)}.")
        cells = tuple(tuple(map(bool, row)) for row in mask.tolist())
        return cls(cells, float(mask.bool().double().mean()))


def moving(video: Tensor, share: float) -> Tensor:
    """Where a video [B, C, F, H, W] changes most over its frames: a mask [H, W], true for about this share of the
    positions, of all samples together."""
    spread = video.double().var(2).mean((0, 1))
    if share >= 1:
        return torch.ones_like(spread, dtype=torch.bool)
    return spread > spread.flatten().quantile(1 - share)


class ForegroundAttention:
    """Self-attention of some blocks, foreground queries on foreground keys.

    mask: [H, W], true in the foreground; or a number, the share of positions that is taken for it: where the picture
    that a key state's output predicts changes most from frame to frame. Raises AbreastError where the states are no
    videos and no mask is given, or a mask is of another size.
    """

    def __init__(self, mask: Mask | float, shape: Sequence[int]):
        self.share: float | None = None
        self.mask: Tensor | None = None
        if isinstance(mask, Mask):
            self.mask = torch.tensor(mask.cells)
            if self.mask.shape != tuple(shape[-2:]):
                raise AbreastError(f"the foreground is {list(self.mask.shape)}, the states {list(shape)}.")
        else:
            if not 0 < mask <= 1:
                raise AbreastError(f"the foreground is a share of the picture above 0 and up to 1, not {mask}.")
            if len(shape) != 5 and mask < 1:
                raise AbreastError(f"what moves is seen in videos, not in states of {list(shape)}: give a mask.")
            self.share = float(mask)
        self.height, self.width = shape[-2:]
        self.frames = shape[2] if len(shape) == 5 else 1
        self.patch = (1, 1, 1)
        self.sites: dict[str, Any] = {}
        self.kept: dict[tuple[Any, str], Tensor] = {}

    @property
    def size(self) -> int:
        """Positions in the foreground."""
        return -1 if self.mask is None else int(self.mask.sum())

    def find(self, module: nn.Module, units: Sequence[str]) -> None:
        """Take charge of the self-attention in these modules."""
        for unit in units:
            attention = getattr(module.get_submodule(unit), "attn1", None)
            if attention is not None:
                self.sites[unit] = attention
        patch = getattr(getattr(module, "config", None), "patch_size", None)
        if not self.sites or patch is None:
            raise AbreastError(f"{type(module).__name__} has no transformer block among its shallow layers.")
        self.patch = (1, patch, patch) if isinstance(patch, int) else tuple(patch)

    def look(self, scheduler: Any, i: int, x: Tensor, out: Tensor) -> None:
        """Choose the foreground by what output `out` at state x [B, C, F, H, W] predicts."""
        if self.share is None:
            return
        if self.share == 1:
            self.mask = torch.ones(self.height, self.width, dtype=torch.bool)
            return
        self.mask = moving(held(scheduler, i, out, x, "output", "x0"), self.share)

    def tokens(self) -> Tensor:
        """The indices of tokens in whose patch there is foreground."""
        assert self.mask is not None
        grid = max_pool2d(self.mask[None, None].float(), self.patch[1:])[0, 0].bool()
        return grid.flatten().repeat(self.frames // self.patch[0]).nonzero()[:, 0]

    @contextmanager
    def within(self, mode: str, group: Any, spread: Spread) -> Iterator[None]:
        """Within the block attention answers to this object: it is kept ("keep") or confined ("use")."""
        plain = {unit: site.processor for unit, site in self.sites.items()}
        try:
            for unit, site in self.sites.items():
                site.processor = _Processor(self, plain[unit], (group, unit), mode, spread)
            yield
        finally:
            for unit, site in self.sites.items():
                site.processor = plain[unit]


class _Processor:
    def __init__(self, owner: ForegroundAttention, plain: Any, key: Any, mode: str, spread: Spread):
        self.owner, self.plain, self.key, self.mode, self.spread = owner, plain, key, mode, spread

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None,
        *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if self.mode == "keep":
            out = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
            self.owner.kept[self.key] = out
            return out
        count, seen = hidden_states.shape[1], self.owner.tokens()
        args = tuple(_rows_of(value, seen, count) for value in args)
        kwargs = {name: _rows_of(value, seen, count) for name, value in kwargs.items()}
        part = self.plain(attn, hidden_states[:, seen], encoder_hidden_states, attention_mask, *args, **kwargs)
        out = self.spread(self.owner.kept[self.key]).clone()
        out[:, seen] = part
        return out


def _rows_of(value: Any, seen: Tensor, count: int) -> Any:
    """Of rotations [1, S, 1, d] those of the tokens that are seen."""
    if isinstance(value, tuple):
        return tuple(_rows_of(v, seen, count) for v in value)
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == count:
        return value[:, seen]
    return value
