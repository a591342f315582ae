"""What comparisons of the solve and diffuse rooms have beside what all comparisons have (`saved.py`).

    {"schema": "abreast.solve", "dtype", "workers",
     "problems": [{"name", "source", "steps", "batch", "state": [...],
                   "cost": {"flops", "reads", "operations"}}],      of one step of all members
     "rows": [...]}
    {"schema": "abreast.diffuse", "pipeline", "scheduler", "dtype", "devices",
     "problems": [{"name", "source", "steps", "batch", "state": [...], "cost": {...}}],
     "rows": [{"images": [[calls, PNG data URI], ...]}]}            all samples in one picture, the last one the answer

Both have of each row

     {"outcome", "bytes", "rounds", "columns": {...}, "quality": {...},
      "operations",                                                 started by one evaluation of this method
      "trace": [{"event", "prefix", "change", ...}]}                an entry a sweep, as its method noted it

bytes and rounds: of transfers. columns: what the room's problem counts (sweeps, scan_rounds, residual, status, psnr,
...); gradient: the largest difference from the loop's gradient, where it was asked for. event: index in the ledger.
prefix: final states after the sweep. change: the largest of a state in it. images are left out of printed JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from abreast.core.compare import Table
from abreast.core.ledger import Ledger
from abreast.core.problem import Run
from abreast.web import saved


def comparison(
    schema: str, table: Table, facts: dict[str, Any], problems: Sequence[dict[str, Any]],
    more: Callable[[Run[Any]], Mapping[str, Any]] = lambda run: {},
) -> dict[str, Any]:  # fmt: skip
    """A table as plain values. more: what the caller knows of a run; its "columns" are added to the problem's."""

    def row(run: Run[Any]) -> dict[str, Any]:
        known = dict(more(run))
        fill(run.ledger)
        sweeps = trace(run.ledger)
        columns = dict(run.problem.columns(run)) | ({"sweeps": len(sweeps)} if sweeps else {})
        return {
            "outcome": outcome(run),
            "bytes": run.ledger.bytes,
            "rounds": run.ledger.rounds,
            "columns": plain(columns | known.pop("columns", {})),
            "quality": plain(run.problem.quality(run.value)),
            "trace": sweeps,
            **known,
        }

    return saved.comparison(schema, table, facts, problems, row)


def fill(ledger: Ledger) -> None:
    """Give times to events that nobody timed: none taken, after what they waited for."""
    for i, event in enumerate(ledger.events):
        if event.start != event.start:
            at = max((ledger.events[j].end for j in event.after), default=0.0)
            ledger.events[i] = event._replace(start=at, end=at)


def outcome(run: Run[Any]) -> str:
    """How the answer stands to the reference's, in a word or two."""
    if run.against is None:
        return "reference"
    if run.distance == 0:
        return "identical"
    if run.kept is None:
        near = run.distance is not None and run.distance <= run.problem.rounding
        return "within rounding" if near else "differs"
    if not run.kept:
        return "broken"
    return "within bound" if run.method.promise(run.problem).tolerance > 0 else "within rounding"


def trace(ledger: Ledger) -> list[dict[str, Any]]:
    """The notes of every sweep. Of several ranks that all note the same, the first's."""
    first, found = None, []
    for event, facts in sorted(ledger.notes.items()):
        lane = ledger.events[event].lane
        if "prefix" in facts and first in (None, lane):
            first = lane
            found.append({"event": event, **{name: value for name, value in plain(facts).items() if value is not None}})
    return found


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that JSON takes: numbers, texts and truth values; what is not finite is null."""
    return {name: _plain(value) for name, value in facts.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
