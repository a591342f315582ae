"""PCPP: a strip attends to itself and to a fraction of its neighbours only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from abreast.core import Method, Run
from abreast.diffuse.patches.displaced import DisplacedPatch
from abreast.diffuse.patches.engine import Planned
from abreast.diffuse.patches.naive import NaivePatch
from abreast.diffuse.patches.strip import Norm, Plan
from abreast.diffuse.sequential import Sequential, fewer_steps


@dataclass(frozen=True)
class PartialPatch(Planned):
    """`DisplacedPatch` whose attention, after the warm-up, sees beyond its strip by `portion` of the strip's own tokens
    on either side: messages go point to point, and carry only the tokens that the receiver needs.

    portion: from 0 (the own strip alone) on; above 1 it reaches farther ranks, and from patches - 1 on everything, when
    it is `DisplacedPatch`. The range may end inside a row. Other fields as of `DisplacedPatch`.

    Source: Zhang et al., Partially Conditioned Patch Parallelism, 2024.
    """

    patches: int
    portion: float = 0.3
    warmup: float = 5
    norm: Norm = "corrected"
    split: Literal["rows"] | tuple[int, ...] = "rows"
    branches: int = 1

    def plan(self) -> Plan:
        rows = None if self.split == "rows" else tuple(self.split)
        return Plan(self.patches, self.warmup, self.norm, self.portion, rows=rows, branches=self.branches)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one strip is the whole picture", replace(self, patches=1, split="rows"), Sequential()
        yield "never late is the whole picture", replace(self, warmup=math.inf), Sequential()
        yield "a portion of everything is DisplacedPatch", replace(self, portion=self.patches - 1.0), self._whole()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        yield from fewer_steps(run.ledger.span)
        yield replace(self._whole(), refresh=False, norm="separate")
        yield NaivePatch(self.patches, self.split, self.branches)

    def _whole(self) -> DisplacedPatch:
        return DisplacedPatch(self.patches, self.warmup, self.norm, self.split, branches=self.branches)
