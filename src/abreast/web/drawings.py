"""What the page draws of a comparison of the solve or diffuse room, as plain values: curves, schedules, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from abreast.core.ledger import Event, Ledger, Priced
from abreast.machine import MACHINES, replay
from abreast.machine.forecast import Forecast
from abreast.web.saved import ledger_of

HERE = "here"
MOST = 1200  # blocks of one method that a schedule draws; beyond it, neighbours share a block
POINTS = 400  # of a curve


def drawn(saved: dict[str, Any]) -> dict[str, Any]:
    """Of the first problem: curves over sweeps, schedules on every machine, and pictures where there are some."""
    order = [method["method"] for method in saved["methods"]]
    rows = [row for row in saved["rows"] if row["problem"] == 0]
    ledgers = [ledger_of(row) for row in rows]
    known = [machine["id"] for machine in machines(saved)[1:]]
    return {
        "near": near(saved, rows),
        "steps": saved["problems"][0]["steps"],
        "curves": [curve(order.index(row["method"]), row["trace"]) for row in rows if row["trace"]],
        "machines": machines(saved),
        "schedules": [schedule(order.index(row["method"]), ledger, row, known) for row, ledger in zip(rows, ledgers)],
        "pictures": [{"method": order.index(row["method"]), "images": row["images"]}
                     for row in rows if row.get("images")],
    }  # fmt: skip


def near(saved: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Span and distance of every run but the reference's; kind: of fewer steps, how they are spaced, else null."""
    found = []
    for row in rows:
        at = next(i for i, method in enumerate(saved["methods"]) if method["method"] == row["method"])
        settings = saved["methods"][at]["settings"]
        kind = None
        if settings["class"] == "FewerSteps":
            solver = f", {settings['scheduler']}" if settings.get("scheduler") else ""
            kind = f"fewer steps, {settings.get('spacing', 'even')}{solver}"
        if row["distance"] is not None:
            found.append({"method": at, "kind": kind, "span": _short(row["span"]), "distance": _short(row["distance"])})
    return found


def static(saved: dict[str, Any]) -> dict[str, Any]:
    """What the page's template writes of one."""
    problem = saved["problems"][0]
    return {"said": problem["source"], "machines": machines(saved), "problem": problem,
            "pictures": any(row.get("images") for row in saved["rows"])}  # fmt: skip


def curve(method: int, trace: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """points: [sweep, settled steps, change or residual], of long runs every so many sweeps and the last."""
    stride = -(-len(trace) // POINTS)
    kept = [k for k in range(len(trace)) if k % stride == 0 or k == len(trace) - 1]
    return {
        "method": method,
        "points": [[k + 1, trace[k]["prefix"], trace[k].get("change", trace[k].get("residual"))] for k in kept],
    }


def machines(saved: dict[str, Any]) -> list[dict[str, str]]:
    """This machine's own clock, and the described machines."""
    here = saved["machine"]
    measured = {"id": HERE, "name": "this machine, measured", "source": f"{here['cpu']}, threads: {here['threads']}"}
    if any(row["ledger"].get("clocked") for row in saved["rows"]):
        return [measured]
    return [measured, *({"id": m.name, "name": m.name, "source": m.source} for m in MACHINES.values())]


def priced(row: dict[str, Any], machine: str) -> Priced:
    """A described machine, as this row's events are priced on it."""
    started = row.get("operations")
    return Forecast(MACHINES[machine], started) if started else MACHINES[machine]


def schedule(method: int, ledger: Ledger, row: dict[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """lanes: names; blocks: [lane, kind, size, bytes, events] of each; times: by machine the starts and the ends."""
    groups = grouped([(i, event) for i, event in enumerate(ledger.events) if event.span or event.bytes])
    lanes = list(dict.fromkeys(ledger.events[group[0]].lane for group in groups))
    kinds: dict[str, int] = {}
    blocks = []
    for group in groups:
        events = [ledger.events[i] for i in group]
        kind = " and ".join(dict.fromkeys(event.kind for event in events))
        at = kinds.setdefault(kind, len(kinds))
        size, volume = sum(event.size for event in events), sum(event.bytes for event in events)
        blocks.append([lanes.index(events[0].lane), at, _short(size), _short(volume), len(group)])
    times = {HERE: [(event.start, event.end) for event in ledger.events]}
    for machine in known:
        timed = replay(ledger, priced(row, machine)).events
        times[machine] = [(event.start, event.end) for event in timed]
    return {
        "method": method,
        "lanes": lanes,
        "kinds": list(kinds),
        "blocks": blocks,
        "times": {
            name: [[_short(spans[group[0]][0]) for group in groups], [_short(spans[group[-1]][1]) for group in groups]]
            for name, spans in times.items()
        },
    }


def grouped(events: Sequence[tuple[int, Event]]) -> list[list[int]]:
    """Ids of the events of each block: one event, or so many neighbours on a lane that the blocks are few enough."""
    together = -(-len(events) // MOST)
    open_: dict[str, list[int]] = {}
    groups: list[list[int]] = []
    for i, event in events:
        group = open_.get(event.lane)
        if group is None or len(group) >= together:
            group = open_[event.lane] = []
            groups.append(group)
        group.append(i)
    return groups


def _short(number: float) -> float:
    """As many digits as a screen can show."""
    return float(f"{number:.5g}")
