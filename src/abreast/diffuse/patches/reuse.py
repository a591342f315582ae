"""Skipping the blocks of a transformer in steps where little has changed: what they added before is added again.

Axes: N rows of a call, L tokens of a strip, D their width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from abreast.core import AbreastError
from abreast.diffuse.patches.sites import PatchSite
from abreast.workers import Team


class Rule(Protocol):
    """When to skip: see `StepCache`."""

    @property
    def tau(self) -> float: ...

    @property
    def warmup(self) -> int: ...

    def change(self, relative: float) -> float: ...


class Skipped(Exception):
    """Leaves the first block once its input says that the blocks are skipped."""


class Reuse:
    """What is kept for one branch: the last input m of the first block, as the timestep modulates it, the changes
    summed since the blocks last ran, and what they added then."""

    def __init__(self, rule: Rule):
        self.rule = rule
        self.seen_NLD: Tensor | None = None
        self.sum = 0.0
        self.skipping = False
        self.before_NLD: Tensor | None = None
        self.added_NLD: Tensor | None = None

    def skips(self, step: int, last: int, m_NLD: Tensor, team: Team) -> bool:
        """Whether the blocks are skipped in this step: the summed relative change of m stays under tau. The change is
        that of all ranks' tokens together, so that all decide alike."""
        seen, self.seen_NLD = self.seen_NLD, m_NLD.clone()
        if seen is not None:
            pair = torch.stack([(m_NLD - seen).abs().sum(), seen.abs().sum()]).double()
            moved, size = team.all_reduce(pair).tolist()
            self.sum += self.rule.change(moved / size if size else 0.0)
        self.skipping = self.rule.warmup <= step < last and self.added_NLD is not None and self.sum < self.rule.tau
        if not self.skipping:
            self.sum = 0.0
        return self.skipping

    def through(self, site: PatchSite, plain: Callable[..., Any], x_NLD: Tensor, args: Any, kwargs: Any) -> Any:
        """A block's output, or where it is skipped its input; the last one's with what all had added."""
        if site.first:
            self.before_NLD = x_NLD.clone()
            try:
                out = plain(*args, **kwargs)
            except Skipped:
                out = x_NLD
        else:
            out = x_NLD if self.skipping else plain(*args, **kwargs)
        if not isinstance(out, Tensor):
            raise AbreastError(f"{site.name} returns more than its tokens, so what the blocks add cannot be kept.")
        if site.last:
            assert self.before_NLD is not None
            if not self.skipping:
                self.added_NLD = out - self.before_NLD
            elif self.added_NLD is not None:
                out = out + self.added_NLD
        return out
