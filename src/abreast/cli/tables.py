"""A saved comparison as a table of rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from abreast.web.totals import Total, best, heading, totals, verdict

WIDE = 110
COLUMNS = ("method", "guarantee", "kept", "tok/call", "calls", "rows", "work", "span", "tok/s", "ratio")


def print_comparison(saved: dict[str, Any], console: Console) -> None:
    """The table, one row a method, and the last line. A narrow terminal is spared the columns that few need."""
    rows = totals(saved)
    top = best(rows)
    spared = ("work", "span") if console.width < WIDE else ()
    table = Table(title=heading(saved), title_justify="left", title_style="bold", header_style="dim", box=None)
    for name in (name for name in COLUMNS if name not in spared):
        number = name not in ("method", "guarantee", "kept")
        table.add_column(name, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        cells = [cell for name, cell in zip(COLUMNS, _cells(row)) if name not in spared]
        table.add_row(*cells, style="bold green" if row is top else "")
    console.print(table)
    left = " The run was interrupted: only what was finished counts." if saved["interrupted"] else ""
    console.print(Text(verdict(rows) + left, style="bold"))


def _cells(row: Total) -> tuple[Text | str, ...]:
    name, _, fields = row.method.partition("(")
    method = Text(f"└ {name}" if row.control_of else name)
    if fields:
        method.append(f"\n  {fields.removesuffix(')')}", style="dim not bold")
    return (
        method,
        "–" if row.reference else row.guarantee,
        row.kept,
        f"{row.tokens / row.calls:.2f}",
        f"{row.calls}",
        f"{row.rows}",
        f"{row.work:.0f}",
        f"{row.span:.0f}",
        f"{row.tokens / row.seconds:.1f}",
        f"{row.ratio:.2f}",
    )
