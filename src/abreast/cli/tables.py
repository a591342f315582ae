"""A saved comparison as a table of rich, and its last line: what pays here, or that nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

NOISE = 1.03  # two runs of the same thing differ by as much


@dataclass(frozen=True)
class Total:
    """One method over all problems."""

    method: str
    guarantee: str
    control_of: str | None
    reference: bool
    kept: str
    tokens: int
    calls: int
    rows: int
    work: float
    span: float
    seconds: float
    ratio: float

    @property
    def identical(self) -> bool:
        """Whether it gave the reference's text, as it promised."""
        return self.guarantee == "identical" and self.kept != "broken"


def totals(saved: dict[str, Any], kind: str | None = None) -> list[Total]:
    """The table's rows: sums over the problems (of one kind). ratio: of tokens a second, to the reference's."""
    wanted = {i for i, p in enumerate(saved["problems"]) if kind in (None, p["kind"])}
    found: list[Total] = []
    for method in saved["methods"]:
        rows = [r for r in saved["rows"] if r["method"] == method["method"] and r["problem"] in wanted]
        sums = {name: sum(r[name] for r in rows) for name in ("tokens", "calls", "rows", "work", "span", "seconds")}
        speed = sums["tokens"] / sums["seconds"]
        base = found[0].tokens / found[0].seconds if found else speed
        found.append(
            Total(
                method["method"],
                method["guarantee"],
                method["control_of"],
                method["reference"],
                _kept([r["outcome"] for r in rows]),
                ratio=speed / base,
                **sums,
            )  # fmt: skip
        )
    return found


def best(rows: Sequence[Total]) -> Total | None:
    """The fastest method with the reference's text, if it is faster than the reference beyond noise."""
    able = [row for row in rows if row.identical and not row.reference]
    top = max(able, key=lambda row: row.ratio, default=None)
    return top if top is not None and top.ratio > NOISE else None


def verdict(rows: Sequence[Total]) -> str:
    """The last line."""
    top = best(rows)
    if top is None:
        return "Nothing beats one token at a time here."
    same = "the same text" if "tie" not in top.kept else "the same text but for near ties"
    return f"{top.method} writes {same} {top.ratio:.2f} times as fast as one token at a time here."


def print_comparison(saved: dict[str, Any], console: Console) -> None:
    """The table, one row a method, and the last line."""
    rows = totals(saved)
    top = best(rows)
    table = Table(title=heading(saved), title_justify="left", title_style="bold", header_style="dim", box=None)
    table.add_column("method", overflow="fold")
    table.add_column("guarantee")
    table.add_column("kept")
    for name in ("tok/call", "calls", "rows", "work", "span", "tok/s", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*_cells(row), style="bold green" if row is top else "")
    console.print(table)
    left = " The run was interrupted: only finished problems count." if saved["interrupted"] else ""
    console.print(Text(verdict(rows) + left, style="bold"))


def heading(saved: dict[str, Any]) -> str:
    """What was run, on what."""
    machine, n = saved["machine"], len(saved["problems"])
    return (
        f"{saved['title']}: {n} prompt{'s' if n > 1 else ''}, up to {saved['max_new_tokens']} tokens, {saved['dtype']}, "
        f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''} of {machine['cpu']}"
    )


def _cells(row: Total) -> tuple[str, ...]:
    return (
        f"└ {row.method}" if row.control_of else row.method,
        row.guarantee if not row.reference else "reference",
        row.kept if not row.reference else "–",
        f"{row.tokens / row.calls:.2f}",
        f"{row.calls}",
        f"{row.rows}",
        f"{row.work:.0f}",
        f"{row.span:.0f}",
        f"{row.tokens / row.seconds:.1f}",
        f"{row.ratio:.2f}",
    )


def _kept(outcomes: list[str]) -> str:
    """One word for several problems: the weakest of theirs."""
    for name in ("broken", "near tie", "another text"):
        count = outcomes.count(name)
        if count:
            return {"broken": "broken", "near tie": f"near tie ({count})"}.get(
                name, f"{count} of {len(outcomes)} differ"
            )
    return outcomes[0] if len(set(outcomes)) == 1 else "identical"
