"""Skipping a transformer's blocks while its input barely changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from abreast.core import AbreastError, Method, Run
from abreast.diffuse.patches.engine import Planned
from abreast.diffuse.patches.strip import Plan
from abreast.diffuse.sequential import Sequential, fewer_steps


@dataclass(frozen=True)
class StepCache(Planned):
    """Sample one step at a time, and skip the transformer's blocks while the relative L1 change of the first block's
    input (as the timestep modulates it), summed since they last ran, is below `tau`; what they added then is added.

    The first `warmup` steps and the last always run; each branch of guidance decides for itself, all samples of a batch
    together. polynomial: coefficients, highest power first, that turn the change of the input into one of the output;
    none is the change itself. Every decision is noted in the ledger as cache="hit" or "miss". Takes transformers of
    diffusers. Raises AbreastError for a negative tau or warm-up. Source: Liu et al., TeaCache, 2025, as the inference
    engine of Aquarius describes it.
    """

    tau: float = 0.1
    warmup: int = 2
    polynomial: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.tau >= 0 or self.warmup < 1:
            raise AbreastError(f"tau is from 0 on and warmup from 1 on, not {self.tau} and {self.warmup}.")

    def change(self, relative: float) -> float:
        """What a relative change of the input counts."""
        if not self.polynomial:
            return relative
        total = 0.0
        for coefficient in self.polynomial:
            total = total * relative + coefficient
        return abs(total)

    def plan(self) -> Plan:
        return Plan(1, cache=self)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no change is small enough", replace(self, tau=0.0), Sequential()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        return fewer_steps(run.ledger.span)


def hit_rate(run: Run[Any]) -> float:
    """The portion of a run's cache decisions that skipped the blocks."""
    said = run.ledger.series("cache")
    return said.count("hit") / len(said) if said else 0.0
