"""The strips of a picture each on its own: what exchanging activations is held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from abreast.core import Method, Run
from abreast.diffuse.patches.engine import Planned
from abreast.diffuse.patches.strip import Plan
from abreast.diffuse.sequential import Sequential, fewer_steps


@dataclass(frozen=True)
class NaivePatch(Planned):
    """Denoise each strip as if it were the picture; only the outputs are gathered.

    A transformer's tokens keep their positions in the whole picture, which flatters it a little. patches, split,
    branches: as of `DisplacedPatch`. Source: the baseline in Li et al., DistriFusion, 2024.
    """

    patches: int
    split: Literal["rows"] | tuple[int, ...] = "rows"
    branches: int = 1

    def plan(self) -> Plan:
        rows = None if self.split == "rows" else tuple(self.split)
        return Plan(self.patches, exchange=False, rows=rows, branches=self.branches)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one strip is the whole picture", replace(self, patches=1, split="rows"), Sequential()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        return fewer_steps(run.ledger.span)
