"""Aquarius: one video or image transformer over many devices, exactly, with a cache over steps on top."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from abreast.core import Method, Run
from abreast.diffuse.patches.engine import Planned
from abreast.diffuse.patches.step_cache import StepCache
from abreast.diffuse.patches.strip import Plan
from abreast.diffuse.sequential import Sequential, fewer_steps


@dataclass(frozen=True)
class Aquarius(Planned):
    """Split the tokens over `patches` ranks and the branches of guidance over `branches` teams of them; attention sees
    all tokens in every step, so only the cache changes the sample.

    attention: "ulysses" trades tokens for heads by two all-to-alls (4 (n-1)/n² of an activation per rank and layer);
    "gather" collects keys and values (2 (n-1)/n). cache: skips the blocks where their input barely changes; all ranks
    of a branch decide alike. split: "rows" as equal as they can be, or the rows of each strip. Decode what comes out
    with `StripDecode`. Takes transformers of diffusers with plain attention.

    Source: Aquarius (2025), of which only the abstract is public; the parts are the field's own.
    """

    patches: int = 2
    branches: int = 1
    cache: StepCache | None = None
    attention: Literal["ulysses", "gather"] = "ulysses"
    split: Literal["rows"] | tuple[int, ...] = "rows"

    def plan(self) -> Plan:
        rows = None if self.split == "rows" else tuple(self.split)
        return Plan(self.patches, rows=rows, branches=self.branches, attention=self.attention, cache=self.cache)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "without a cache it is the plain sample", replace(self, cache=None), Sequential()
        if self.cache is not None:
            yield "no change is small enough", replace(self, cache=replace(self.cache, tau=0.0)), Sequential()
            yield "one rank is the cache alone", replace(self, patches=1, branches=1, split="rows"), self.cache

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        return fewer_steps(run.ledger.span)
