"""DistriFusion: each device computes a strip with what the other strips knew one step ago."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from abreast.core import Method, Run
from abreast.diffuse.patches.engine import Planned
from abreast.diffuse.patches.naive import NaivePatch
from abreast.diffuse.patches.strip import Norm, Plan
from abreast.diffuse.sequential import Sequential, fewer_steps


@dataclass(frozen=True)
class DisplacedPatch(Planned):
    """Cut the picture into strips, one for each rank; after a warm-up use the other strips' activations of the step
    before, so that their transfer hides behind computing.

    At every convolution wider than a row, group norm and self-attention: own part fresh, the others' one step late. The
    first `warmup` steps wait for the parts of the same step. patches: strips. warmup: steps; inf is never late. norm:
    of group norms after it: the step before's statistics "corrected" by what the own strip's have changed by, or
    "stale" for the others' part, of the own strip alone ("separate"), or waited for in every step ("sync"). split:
    "rows" as equal as they can be, or the rows of each strip. refresh: False keeps the others' parts as they were at
    the end of the warm-up. branches: 2 gives each branch of guidance ranks of its own. Takes UNets and transformers of
    diffusers. Raises AbreastError where a network mixes rows in an unknown way, or cannot be cut so.

    Source: Li et al., DistriFusion, 2024.
    """

    patches: int
    warmup: float = 5
    norm: Norm = "corrected"
    split: Literal["rows"] | tuple[int, ...] = "rows"
    refresh: bool = True
    branches: int = 1

    def plan(self) -> Plan:
        rows = None if self.split == "rows" else tuple(self.split)
        return Plan(self.patches, self.warmup, self.norm, refresh=self.refresh, rows=rows, branches=self.branches)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one strip is the whole picture", replace(self, patches=1, split="rows"), Sequential()
        yield "never late is the whole picture", replace(self, warmup=math.inf), Sequential()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        yield from fewer_steps(run.ledger.span)
        if self.refresh:
            yield replace(self, refresh=False, norm="separate")
        yield NaivePatch(self.patches, self.split, self.branches)
