"""What `abreast advise` has in common in all rooms: tables, and advice as plain values.

    {"schema": "abreast.advice", "version": 1, "room", "title", "machine": {...}, "problem": {...},
     "verdict": one sentence, "advice": one sentence,
     "method": {"class", ...} or null,                       what to use, null where nothing pays
     "machines": [{"name", "reference": seconds, "seconds", "faster"}, ...]}    replayed: bounds, no forecasts

and what the room adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from abreast.core.errors import AbreastError, nearest
from abreast.web.files import to_json

SCHEMA, VERSION = "abreast.advice", 1


def chosen(machine: str | None) -> list[str]:
    """Names of the described machines to ask about. Raises AbreastError for an unknown one."""
    from abreast.machine import MACHINES
    from abreast.web.race import machines

    if machine is None:
        return list(machines())
    if machine not in MACHINES:
        raise AbreastError(f"no machine is described as {machine!r}: {nearest(machine, MACHINES)}")
    return [machine]


Cells = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # a title, columns, rows


def printed(advice: dict[str, Any], tables: Sequence[Cells], as_json: bool) -> None:
    """Advice as JSON, or as tables between two sentences."""
    if as_json:
        typer.echo(to_json({"schema": SCHEMA, "version": VERSION, **advice}))
        return
    console = Console(highlight=False)
    console.print(Text(advice["title"], style="bold"))
    console.print(Text(f"{advice['verdict']}\n"))
    for title, columns, rows in tables:
        console.print(Text(title, style="dim"))
        console.print(_table(columns, rows))
        console.print()
    console.print(Text(advice["advice"], style="bold"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    made = Table(header_style="dim", box=None)
    for i, name in enumerate(columns):
        made.add_column(name, justify="right" if i else "left", no_wrap=bool(i))
    for row in rows:
        made.add_row(*row)
    return made


def size(amount: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if amount >= unit:
            return f"{amount / unit:.3g} {name}"
    return f"{amount:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-6:.3g} µs"
