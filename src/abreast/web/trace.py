"""Ledgers as a trace that Perfetto and chrome://tracing open: one process a run, one thread a lane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abreast.core.errors import AbreastError
from abreast.core.ledger import Event, Ledger

MICRO = 1e6


def trace(runs: Mapping[str, Ledger]) -> dict[str, Any]:
    """The trace events of timed ledgers, by name. Arrows go where an event waited for another lane. Raises AbreastError
    for a ledger without times: replay it on a machine first."""
    events: list[dict[str, Any]] = []
    for pid, (name, ledger) in enumerate(runs.items(), 1):
        if not ledger.timed:
            raise AbreastError(f"the ledger of {name} has no times: give --machine, and it is replayed there.")
        events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}})
        tids = {lane: tid for tid, lane in enumerate(ledger.lanes, 1)}
        for lane, tid in tids.items():
            events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": f"lane {lane}"}})
        for i, event in enumerate(ledger.events):
            if event.kind != "end":
                events.append(_slice(i, event, ledger, pid, tids[event.lane]))
                events += _arrows(i, event, ledger, pid, tids)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _slice(i: int, event: Event, ledger: Ledger, pid: int, tid: int) -> dict[str, Any]:
    facts: dict[str, Any] = {"event": i, "size": event.size, "span": event.span}
    if event.bytes:
        facts["bytes"] = event.bytes
    facts |= {name: value for name, value in ledger.notes.get(i, {}).items() if isinstance(value, (int, float, str))}
    return {
        "ph": "X", "name": event.kind, "cat": "transfer" if event.bytes else "compute", "pid": pid, "tid": tid,
        "ts": event.start * MICRO, "dur": (event.end - event.start) * MICRO, "args": facts,
    }  # fmt: skip


def _arrows(i: int, event: Event, ledger: Ledger, pid: int, tids: Mapping[str, int]) -> list[dict[str, Any]]:
    arrows = []
    for j in event.after:
        before = ledger.events[j]
        if before.lane != event.lane and before.kind != "end":
            same = {"name": "waits", "cat": "waits", "id": f"{pid}.{j}.{i}", "pid": pid}
            arrows.append({**same, "ph": "s", "tid": tids[before.lane], "ts": before.end * MICRO})
            arrows.append({**same, "ph": "f", "bp": "e", "tid": tids[event.lane], "ts": event.start * MICRO})
    return arrows
