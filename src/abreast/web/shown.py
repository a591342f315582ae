"""A saved comparison as a heading, a table and a last line: the same in the terminal and on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """name: in the terminal; title: on the page. spare: left out of a narrow terminal. bar: the page draws the number
    beside a bar whose mark is 1."""

    name: str
    title: str
    number: bool = True
    spare: bool = False
    bar: bool = False


@dataclass(frozen=True)
class Line:
    """One method. name and fields: its class, and what is set. bar: the number of the column with a bar."""

    name: str
    fields: str
    cells: tuple[str, ...]
    bar: float
    control: bool = False
    best: bool = False
    broken: bool = False


@dataclass(frozen=True)
class Shown:
    """heading: what was run, on what. verdict: the last line."""

    heading: str
    verdict: str
    columns: tuple[Column, ...]
    lines: list[Line]


def shown(saved: dict[str, Any]) -> Shown:
    """What to show of a comparison of any room."""
    from abreast.web import costs, totals
    from abreast.web.saved import DECODE

    return totals.shown(saved) if saved["schema"] == DECODE else costs.shown(saved)


def named(label: str) -> tuple[str, str]:
    """A label as its class and what is set: "Jacobi", "window=7"."""
    name, _, fields = label.partition("(")
    return name, fields.removesuffix(")")
