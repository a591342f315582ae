"""One ledger out of those that several processes kept."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from math import nan

from .errors import AbreastError
from .ledger import Event, Ledger

Node = tuple[int, int]  # (part, id in that part)


def merge(parts: Sequence[Ledger]) -> Ledger:
    """The ledgers of several processes as one, in an order that respects every wait.

    A lane that stands in several of them is a link they share: its first event there is the same transfer everywhere,
    and so on; it waits for whatever it waited for in any of them, starts with the last and ends with the last.
    Raises AbreastError where processes disagree about a shared event, or wait for each other in a circle.
    """
    copies = _copies(parts)
    chief = {node: nodes[0] for nodes in copies for node in nodes}
    waits = {n[0]: {chief[p, i] for p, e in n for i in parts[p].events[e].after} for n in copies}
    whole, place = Ledger(), dict[Node, int]()
    group = {nodes[0]: nodes for nodes in copies}
    for part in parts:
        whole.kinds.update(part.kinds)
        whole.clocked |= part.clocked
    for node in _ordered(waits):
        event = _same([parts[p].events[i] for p, i in group[node]])
        place[node] = whole.add(
            event.kind, event.size, lane=event.lane, after=[place[w] for w in waits[node]], span=event.span,
            bytes=event.bytes, memory=event.memory, start=event.start, end=event.end,
        )  # fmt: skip
        for p, i in group[node]:
            if i in parts[p].notes:
                whole.note(place[node], **parts[p].notes[i])
    return whole


def _copies(parts: Sequence[Ledger]) -> list[list[Node]]:
    """Every event once, as the nodes that stand for it."""
    matched: defaultdict[tuple[str, int], list[Node]] = defaultdict(list)
    for p, part in enumerate(parts):
        seen: defaultdict[str, int] = defaultdict(int)
        for i, e in enumerate(part.events):
            matched[e.lane, seen[e.lane]].append((p, i))
            seen[e.lane] += 1
    return list(matched.values())


def _same(events: list[Event]) -> Event:
    first = events[0]
    for other in events[1:]:
        if (other.kind, other.size, other.span, other.bytes) != (first.kind, first.size, first.span, first.bytes):
            raise AbreastError(
                f"two processes disagree about an event of lane {first.lane!r}: {first.kind} of {first.bytes:g} bytes, "
                f"and {other.kind} of {other.bytes:g} bytes; a lane of one process only needs its own name."
            )
    starts, ends = [e.start for e in events], [e.end for e in events]
    timed = all(t == t for t in (*starts, *ends))
    return first._replace(start=max(starts) if timed else nan, end=max(ends) if timed else nan)


def _ordered(waits: dict[Node, set[Node]]) -> list[Node]:
    """The nodes, each after those it waits for; else by their place in their own ledger."""
    missing = {node: len(before) for node, before in waits.items()}
    followers: defaultdict[Node, list[Node]] = defaultdict(list)
    for node, before in waits.items():
        for other in before:
            followers[other].append(node)
    ready = [(i, p) for (p, i), n in missing.items() if not n]
    heapq.heapify(ready)
    order = []
    while ready:
        i, p = heapq.heappop(ready)
        order.append((p, i))
        for node in followers[p, i]:
            missing[node] -= 1
            if not missing[node]:
                heapq.heappush(ready, node[::-1])
    stuck = len(waits) - len(order)
    if stuck:
        raise AbreastError(f"{stuck} events wait for each other in a circle: collectives in different orders.")
    return order
