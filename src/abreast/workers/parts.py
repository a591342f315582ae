"""Ledgers that processes kept, put into the world's as if its ranks had recorded there themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import nan

from abreast.core.ledger import Lane, Ledger
from abreast.core.merging import merge

from .team import exposure

MARK = "joint"


def mark(lane: Lane) -> None:
    """Mark where a lane of a part joins the whole: at its begin, and where it ends waiting for something."""
    lane.add(MARK, 0.0, span=0.0)


def adopt(whole: Ledger, parts: Sequence[Ledger], links: Iterable[str]) -> None:
    """Add the events of `parts`, one for each rank, to `whole`; on `links`, bytes that nobody noted are hidden.

    Marks become waits. A lane `link #k` is the k-th event of that link. What two ranks noted of one transfer is
    exposed if either says so. Raises AbreastError where the parts do not fit together.
    """
    merged = merge(parts)
    whole.kinds.update(merged.kinds)
    whole.clocked |= merged.clocked
    place: list[tuple[int, ...]] = []
    links = set(links)
    for i, e in enumerate(merged.events):
        link = e.lane.partition(" #")[0]
        lane = whole.lane(link if link in links else e.lane)
        after = sorted({j for before in e.after for j in place[before]})
        if e.kind == MARK:
            place.append(lane.wait(*after).waits)
            continue
        start, end = (e.start, e.end) if e.start == e.start else (nan, nan)
        here = lane.add(
            e.kind, e.size, after=after, span=e.span, bytes=e.bytes, memory=e.memory, start=start, end=end
        )  # fmt: skip
        place.append((here,))
        facts = merged.notes.get(i)
        if facts:
            whole.note(here, **facts)
        if e.bytes and lane.name in links:
            exposure(whole, here, "exposed" in whole.notes.get(here, {}))
