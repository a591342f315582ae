"""A saved comparison as a table of rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from abreast.web.shown import Line, Shown, shown


def print_comparison(saved: dict[str, Any], console: Console) -> None:
    """The table, one row a method, and the last line; where not all fits, without the columns that few need."""
    what = shown(saved)
    every = list(range(len(what.columns)))
    kept = every if _width(what, every) <= console.width else [i for i in every if not what.columns[i].spare]
    table = Table(title=what.heading, title_justify="left", title_style="bold", header_style="dim", box=None)
    table.add_column("method")
    for column in (what.columns[i] for i in kept):
        table.add_column(column.name, justify="right" if column.number else "left", no_wrap=column.number)
    for line in what.lines:
        table.add_row(_method(line), *(line.cells[i] for i in kept), style="bold green" if line.best else "")
    console.print(table)
    left = " The run was interrupted: only what was finished counts." if saved["interrupted"] else ""
    console.print(Text(what.verdict + left, style="bold"))


def _width(what: Shown, columns: list[int]) -> int:
    """Characters of a line with these columns, nothing wrapped but settings."""
    method = max(len(line.name) + 2 * line.control for line in what.lines)
    cells = (max(len(what.columns[i].name), *(len(line.cells[i]) for line in what.lines)) for i in columns)
    return method + 2 + sum(2 + width for width in cells)


def _method(line: Line) -> Text:
    method = Text(f"└ {line.name}" if line.control else line.name)
    if line.fields:
        method.append(f"\n  {line.fields}", style="dim not bold")
    return method
