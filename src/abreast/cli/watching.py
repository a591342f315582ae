"""States of a sampler on its way, seen without the methods knowing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from abreast.core import Ledger
from abreast.diffuse import Sampling


class Seen:
    """For every number of events that a run's ledger had when the scheduler stepped: the furthest state by then."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self.states: dict[int, tuple[int, Tensor]] = {}

    def begin(self, ledger: Ledger) -> None:
        """A new run begins, on this ledger."""
        self.ledger, self.states = ledger, {}

    def add(self, index: int, state: Tensor) -> None:
        """State x_index was made."""
        if self.ledger is not None:
            at = len(self.ledger.events)
            if at not in self.states or self.states[at][0] <= index:
                self.states[at] = (index, state)

    def taken(self, most: int) -> list[tuple[float, int, Tensor]]:
        """(span, index, state) of up to `most` of them, evenly, the last among them; the span is what had been
        evaluated one after the other by then."""
        if self.ledger is None or not self.states:
            return []
        depths = spans(self.ledger)
        every = [(depths[at - 1] if at else 0.0, *self.states[at]) for at in sorted(self.states)]
        stride = max(1, -(-len(every) // most))
        return every[::-1][::stride][::-1]


def spans(ledger: Ledger) -> list[float]:
    """For each event the longest dependent chain among it and those recorded before it."""
    depth: list[float] = []
    longest: list[float] = []
    for event in ledger.events:
        unit = ledger.kinds[event.kind].unit if event.kind in ledger.kinds else 1.0
        own = 0.0 if event.bytes else event.span * unit
        depth.append(own + max((depth[i] for i in event.after), default=0.0))
        longest.append(max(depth[-1], longest[-1] if longest else 0.0))
    return longest


@dataclass(frozen=True)
class Watched(Sampling):
    """A problem that tells `seen` of every step of a scheduler."""

    seen: Any = field(default=None, repr=False, compare=False)

    def step(self, scheduler: Any, i: int, out: Tensor, x: Tensor) -> Tensor:
        state = super().step(scheduler, i, out, x)
        if self.seen is not None:
            self.seen.add(i + 1, state)
        return state


def watched(problem: Sampling, seen: Seen) -> Watched:
    """The same problem, watched."""
    return Watched(**{f.name: getattr(problem, f.name) for f in fields(Sampling)}, seen=seen)
