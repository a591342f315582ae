"""Comparisons as plain values, whatever their room: what `--json` prints, what is written, what `report` reads.

    {"schema": "abreast.decode" | "abreast.solve" | "abreast.diffuse", "version": 1,
     "title", "seed", "machine": {"cpu", "threads", "torch"}, "interrupted": bool,
     "problems": [{"name", ...}],
     "methods": [{"method", "settings", "guarantee", "control_of", "reference"}],
     "rows": [{"method", "problem", "guarantee", "kept", "outcome", "distance", "span", "work", "seconds", "ledger"}]}

One row is one method on one problem; `problem` is an index, `method` a label. kept: whether the promise was kept, null
where one run cannot show it. outcome: that in words. work and span: in the problem's own unit. ledger: as
`Ledger.from_json` reads it. What a room adds to each of these is said where its rows are made (`record.py`: decode,
`runs.py`: solve and diffuse). Printed JSON leaves out what only drawings need. A file of several comparisons is
{"schema": "abreast.demo", "version": 1, "comparisons": [...]}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from abreast.core.compare import Row, Table
from abreast.core.errors import AbreastError
from abreast.core.ledger import Ledger
from abreast.core.problem import Run, settings
from abreast.web.files import read_json

VERSION = 1
DECODE, SOLVE, DIFFUSE = "abreast.decode", "abreast.solve", "abreast.diffuse"
SEVERAL = "abreast.demo"
UNPRINTED = ("ids", "pieces", "ledger", "images")


def comparison(
    schema: str, table: Table, facts: dict[str, Any], problems: Sequence[dict[str, Any]],
    row: Callable[[Run[Any]], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """A table as plain values. facts: what the caller knows (title, ...); problems: one for each problem; row: what
    the room says of a run beside what all rooms say."""
    done = len(table.reference.runs)
    names = _unique([each.label for each in table])
    return {
        "schema": schema,
        "version": VERSION,
        **facts,
        "interrupted": table.interrupted,
        "problems": list(problems)[:done],
        "methods": [_method(name, each, table) for name, each in zip(names, table)],
        "rows": [_row(name, i, run) | row(run) | {"ledger": json.loads(run.ledger.to_json())}
                 for name, each in zip(names, table) for i, run in enumerate(each.runs)],
    }  # fmt: skip


def here() -> dict[str, Any]:
    """This machine, as a comparison names it."""
    import torch

    from abreast.machine.calibrate import cpu_name

    return {"cpu": cpu_name(), "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def several(comparisons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A file of several comparisons."""
    return {"schema": SEVERAL, "version": VERSION, "comparisons": list(comparisons)}


def bare(saved: dict[str, Any]) -> dict[str, Any]:
    """The same without what only drawings need."""
    if saved["schema"] == SEVERAL:
        return {**saved, "comparisons": [bare(one) for one in saved["comparisons"]]}
    rows = [{key: value for key, value in row.items() if key not in UNPRINTED} for row in saved["rows"]]
    return {**saved, "rows": rows}


def load(path: Path) -> list[dict[str, Any]]:
    """The comparisons in a file. Raises AbreastError where it holds none, or those of another version."""
    saved = read_json(path)
    schema = saved.get("schema") if isinstance(saved, dict) else None
    if schema not in (DECODE, SOLVE, DIFFUSE, SEVERAL):
        raise AbreastError(f"{path} is no saved run: abreast compare and abreast demo write one.")
    if saved.get("version") != VERSION:
        raise AbreastError(
            f"{path} is of version {saved.get('version')}, and this abreast reads version {VERSION}: run it again."
        )
    found = saved["comparisons"] if schema == SEVERAL else [saved]
    if any("ledger" not in row for one in found for row in one["rows"]):
        raise AbreastError(f"{path} has no ledgers: give the file that was written, not the JSON that was printed.")
    return found


def ledger_of(row: dict[str, Any]) -> Ledger:
    """The ledger of a saved row."""
    return Ledger.from_json(json.dumps(row["ledger"]))


def _unique(labels: list[str]) -> list[str]:
    """Labels with a number where they say the same of different methods (settings that are no text are left out)."""
    return [name if labels[:i].count(name) == 0 else f"{name} {labels[:i].count(name) + 1}"
            for i, name in enumerate(labels)]  # fmt: skip


def _method(name: str, row: Row, table: Table) -> dict[str, Any]:
    return {
        "method": name,
        "settings": settings(row.method),
        "guarantee": str(row.method.promise(row.runs[0].problem)),
        "control_of": row.control_of,
        "reference": row is table.reference,
    }


def _row(name: str, index: int, run: Run[Any]) -> dict[str, Any]:
    return {
        "method": name,
        "problem": index,
        "guarantee": str(run.method.promise(run.problem)),
        "kept": run.kept,
        "distance": run.distance,
        "span": run.ledger.span,
        "work": run.ledger.work,
        "seconds": run.seconds,
    }
