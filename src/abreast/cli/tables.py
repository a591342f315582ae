"""A saved comparison as a table of rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from abreast.web.shown import Line, shown

WIDE = 110


def print_comparison(saved: dict[str, Any], console: Console) -> None:
    """The table, one row a method, and the last line. A narrow terminal is spared the columns that few need."""
    what = shown(saved)
    kept = [i for i, column in enumerate(what.columns) if console.width >= WIDE or not column.spare]
    table = Table(title=what.heading, title_justify="left", title_style="bold", header_style="dim", box=None)
    table.add_column("method")
    for column in (what.columns[i] for i in kept):
        table.add_column(column.name, justify="right" if column.number else "left", no_wrap=column.number)
    for line in what.lines:
        table.add_row(_method(line), *(line.cells[i] for i in kept), style="bold green" if line.best else "")
    console.print(table)
    left = " The run was interrupted: only what was finished counts." if saved["interrupted"] else ""
    console.print(Text(what.verdict + left, style="bold"))


def _method(line: Line) -> Text:
    method = Text(f"└ {line.name}" if line.control else line.name)
    if line.fields:
        method.append(f"\n  {line.fields}", style="dim not bold")
    return method
