"""The same events on another machine."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping

from abreast.core.ledger import PLAIN, Ledger, Priced, price


def replay(ledger: Ledger, machine: Priced, place: Mapping[str, Hashable] | None = None) -> Ledger:
    """The events of `ledger` timed on `machine` by list scheduling: first ready, first served, ties by id.

    place: lane -> device; a lane not named is its own device. Without it, and with fewer devices than lanes, lanes are
    pinned modulo devices, in lane order. Transfers keep their lane for a link. A ledger whose method read the clock
    (`clocked`) would decide differently there: run it again instead.
    """
    events = ledger.events
    device = _devices(ledger, machine, place)
    missing = [len(e.after) for e in events]
    followers: list[list[int]] = [[] for _ in events]
    for i, e in enumerate(events):
        for j in e.after:
            followers[j].append(i)
    ready, begin, end = [0.0] * len(events), [0.0] * len(events), [0.0] * len(events)
    free: dict[Hashable, float] = {}
    queue = [(0.0, i) for i, n in enumerate(missing) if not n]
    while queue:
        at, i = heapq.heappop(queue)
        e = events[i]
        where: Hashable = device.get(e.lane, e.lane) if e.size and not e.bytes else ("itself", e.lane)
        if where in free and free[where] > at:
            at = free[where]
        moved = e._replace(lane=str(where)) if e.lane in device and not e.bytes else e
        begin[i] = at
        free[where] = end[i] = done = at + price(machine, moved, ledger.kinds.get(e.kind, PLAIN))
        for j in followers[i]:
            missing[j] -= 1
            if done > ready[j]:
                ready[j] = done
            if not missing[j]:
                heapq.heappush(queue, (ready[j], j))
    return _timed(ledger, begin, end)


def _devices(ledger: Ledger, machine: Priced, place: Mapping[str, Hashable] | None) -> Mapping[str, Hashable]:
    devices = getattr(machine, "devices", None)
    if place is not None or devices is None:
        return place or {}
    lanes = dict.fromkeys(e.lane for e in ledger.events if e.size and not e.bytes)
    return {lane: i % devices for i, lane in enumerate(lanes)}


def _timed(ledger: Ledger, begin: list[float], end: list[float]) -> Ledger:
    """A copy of the ledger with these times."""
    copy = Ledger()
    copy.kinds, copy.clocked = dict(ledger.kinds), ledger.clocked
    copy.notes = {i: dict(facts) for i, facts in ledger.notes.items()}
    copy.events = [e._replace(start=s, end=t) for e, s, t in zip(ledger.events, begin, end)]
    for name, lane in ledger.lanes.items():
        same = copy.lane(name)
        same.last, same.waits = lane.last, lane.waits
    return copy
