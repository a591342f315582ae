"""A ledger as JSON, by columns: some 17 bytes an event where it has no times.

A column that is constant is one value; nan is null; an `after` that is only the lane's own order is 0, another is a
list of how many events back. Notes are pairs, because JSON turns integer keys into strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import repeat
from math import nan
from typing import Any

from .errors import AbreastError
from .ledger import Event, Kind, Ledger

NUMBERS = ("start", "end", "size", "span", "bytes", "memory")


def dump(ledger: Ledger) -> str:
    """JSON text of a ledger; its machine is left out."""
    events = ledger.events
    kinds, lanes = list(dict.fromkeys(e.kind for e in events)), list(ledger.lanes)
    kind_at, lane_at = {k: i for i, k in enumerate(kinds)}, {k: i for i, k in enumerate(lanes)}
    columns: dict[str, Any] = {
        "kind": _squeeze([kind_at[e.kind] for e in events]),
        "lane": _squeeze([lane_at[e.lane] for e in events]),
        "after": _squeeze(_offsets(events)),
    }
    for name in NUMBERS:
        index = Event._fields.index(name)
        columns[name] = _squeeze([_number(e[index]) for e in events])
    whole = {
        "count": len(events),
        "clocked": ledger.clocked,
        "kinds": kinds,
        "lanes": lanes,
        "units": {name: [k.unit, k.flops, k.reads] for name, k in ledger.kinds.items()},
        "events": columns,
        "notes": [[i, _plain(facts)] for i, facts in sorted(ledger.notes.items())],
    }
    return json.dumps(whole, separators=(",", ":"), allow_nan=False)


def load(text: str) -> Ledger:
    """The ledger that `dump` wrote. Raises AbreastError where `text` is something else."""
    try:
        whole = json.loads(text)
        ledger = Ledger()
        ledger.clocked = bool(whole["clocked"])
        ledger.kinds = {name: Kind(*map(float, units)) for name, units in whole["units"].items()}
        ledger.notes = {int(i): facts for i, facts in whole["notes"]}
        for name in whole["lanes"]:
            ledger.lane(name)
        _fill(ledger, whole)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise AbreastError(f"this is no ledger in JSON: {type(error).__name__} {error}.") from error
    return ledger


def _fill(ledger: Ledger, whole: dict[str, Any]) -> None:
    kinds, lanes, columns = whole["kinds"], list(ledger.lanes.values()), whole["events"]
    rows = zip(range(whole["count"]), *(_spread(columns[name]) for name in ("kind", "lane", "after", *NUMBERS)))
    for here, kind, at, offsets, start, end, size, span, volume, memory in rows:
        lane = lanes[at]
        after = lane.waits if offsets == 0 else tuple(here - back for back in offsets)
        times = (nan if start is None else float(start)), (nan if end is None else float(end))
        event = Event(kinds[kind], lane.name, *times, after, float(size), float(span), float(volume), float(memory))
        ledger.events.append(event)
        lane.last, lane.waits = here, (here,)


def _offsets(events: list[Event]) -> list[Any]:
    last: dict[str, tuple[int, ...]] = {}
    offsets: list[Any] = []
    for here, e in enumerate(events):
        offsets.append(0 if e.after == last.get(e.lane, ()) else [here - i for i in e.after])
        last[e.lane] = (here,)
    return offsets


def _squeeze(column: list[Any]) -> Any:
    """A column as one value where it is constant (a list in it is never squeezed: a list is a column)."""
    first = column[0] if column else 0
    return first if not isinstance(first, list) and column.count(first) == len(column) else column


def _spread(column: Any) -> Iterator[Any]:
    return iter(column) if isinstance(column, list) else repeat(column)


def _number(x: Any) -> float | int | None:
    """A number that JSON takes, whole ones without a point."""
    if x != x:
        return None
    return int(x) if x == int(x) else float(x)


def _plain(fact: Any) -> Any:
    """A fact that JSON takes: numpy's and torch's numbers and arrays as Python's, nan as None."""
    if hasattr(fact, "tolist"):
        fact = fact.tolist()
    if isinstance(fact, (list, tuple)):
        return [_plain(item) for item in fact]
    if isinstance(fact, dict):
        return {str(key): _plain(item) for key, item in fact.items()}
    return None if isinstance(fact, float) and fact != fact else fact
