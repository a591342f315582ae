"""What ranks tell each other at one site of a network: at once while warming up, then one step late.

A *part* is what a rank's own strip gives there: keys, values, border rows, statistics. A route says which rank gets
what of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from abreast.workers import Team

Parts = dict[int, Tensor]


class Route(Protocol):
    """Who gets what of a rank's part. axis: along which parts are as long as strips are high; 0 where all parts have
    one shape."""

    @property
    def axis(self) -> int: ...

    def post(self, team: Team, own: Tensor) -> Callable[[], Parts]:
        """Send, and say how to wait for what the others send: by rank, without oneself."""
        ...

    def trim(self, parts: Mapping[int, Tensor]) -> Parts:
        """Of whole parts what this route would have brought."""
        ...


@dataclass(frozen=True)
class Everyone:
    """The whole part to every rank, by one all-gather."""

    axis: int = 0

    def post(self, team: Team, own: Tensor) -> Callable[[], Parts]:
        handle = team.post_all_gather(own)
        return lambda: {rank: part for rank, part in enumerate(handle.wait()) if rank != team.rank}

    def trim(self, parts: Mapping[int, Tensor]) -> Parts:
        return dict(parts)


@dataclass(frozen=True)
class Pieces:
    """Along an axis of the part only what a rank needs, point to point. gives: for each rank that needs some of this
    rank's part, from where to where in it; takes: the same of the others' parts, in their own coordinates."""

    axis: int
    gives: Mapping[int, tuple[int, int]]
    takes: Mapping[int, tuple[int, int]]

    def post(self, team: Team, own: Tensor) -> Callable[[], Parts]:
        # Receives first: two neighbours that both send first would wait for each other on a back end without buffers.
        handles = {source: team.post_recv(source) for source in self.takes}
        for to, (start, stop) in self.gives.items():
            team.post_send(own.narrow(self.axis, start, stop - start), to)
        return lambda: {source: handle.wait() for source, handle in handles.items()}

    def trim(self, parts: Mapping[int, Tensor]) -> Parts:
        return {s: parts[s].narrow(self.axis, start, stop - start) for s, (start, stop) in self.takes.items()}


class StaleExchange:
    """The exchange at one site, as one rank sees it.

    team: the ranks that share the picture. warmup: so many steps wait for the parts of the same step. first, reach: the
    route while warming up, and after (Everyone, or Pieces within some reach). refresh: False freezes the others' parts
    as they were in the last of the warm-up's steps. last: the last step, whose parts nobody will read, so it sends none
    once the exchange is late. Source: Li et al., DistriFusion, 2024.
    """

    def __init__(
        self,
        team: Team,
        warmup: float,
        first: Route,
        reach: Route | None = None,
        refresh: bool = True,
        last: float = math.inf,
    ):
        self.team, self.warmup, self.refresh, self.last = team, warmup, refresh, last
        self.first, self.reach = first, first if reach is None else reach
        self.kept: Parts = {}
        self.coming: Callable[[], Parts] | None = None

    def __call__(self, step: int, own: Tensor) -> Parts:
        """The others' parts by rank: of this step while warming up, then of the step before."""
        if step < self.warmup:
            parts = self.first.post(self.team, own)()
            self.kept = parts if self.reach is self.first else self.reach.trim(parts)
            return parts
        if self.coming is not None:
            self.kept, self.coming = self.coming(), None
        if self.refresh and step < self.last:
            self.coming = self.reach.post(self.team, own)
        return self.kept
