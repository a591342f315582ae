"""A saved comparison summed over its problems, and its last line: what pays here, or that nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abreast.web.shown import Column, Line, Shown, named

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
            )
        )
    return found


COLUMNS = (
    Column("guarantee", "guarantee", number=False),
    Column("kept", "kept", number=False),
    Column("tok/call", "tokens a call"),
    Column("calls", "calls"),
    Column("rows", "rows"),
    Column("work", "work", spare=True),
    Column("span", "span", spare=True),
    Column("tok/s", "tokens a second"),
    Column("ratio", "speed, × reference", bar=True),
)


def shown(saved: dict[str, Any]) -> Shown:
    """The table, its heading and its last line."""
    rows = totals(saved)
    top = best(rows)
    lines = [
        Line(*named(row.method), _cells(row), row.ratio, bool(row.control_of), row is top, row.kept == "broken")
        for row in rows
    ]
    return Shown(heading(saved), verdict(rows), COLUMNS, lines)


def _cells(row: Total) -> tuple[str, ...]:
    return (
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


def best(rows: Sequence[Total]) -> Total | None:
    """The fastest method with the reference's text, if it is faster than the reference beyond noise."""
    able = [row for row in rows if row.identical and not row.reference]
    top = max(able, key=lambda row: row.ratio, default=None)
    return top if top is not None and top.ratio > NOISE else None


def verdict(rows: Sequence[Total]) -> str:
    """The last line."""
    top = best(rows)
    if len(rows) == 1:
        return "Nothing was run beside one token at a time."
    if top is None:
        return "Nothing beats one token at a time here."
    same = "the same text, near ties aside," if "tie" in top.kept else "the same text"
    return f"{_short(top, rows)} writes {same} {top.ratio:.2f} times as fast as one token at a time here."


def _short(row: Total, rows: Sequence[Total]) -> str:
    """A method's name, with its settings only where another has the same."""
    name = row.method.partition("(")[0]
    alone = sum(other.method.partition("(")[0] == name for other in rows) == 1
    return name if alone else row.method


def heading(saved: dict[str, Any]) -> str:
    """What was run, on what."""
    machine = saved["machine"]
    return (
        f"{saved['title']}; prompts: {len(saved['problems'])}, up to {saved['max_new_tokens']} tokens, "
        f"{saved['dtype']}; threads: {machine['threads']}, {machine['cpu']}"
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
