"""Comparisons as one page that needs nothing beside itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abreast.web import figures, race
from abreast.web.record import ledger_of
from abreast.web.totals import best, heading, totals, verdict

STATIC = Path(__file__).with_name("static")
SCRIPTS = ("charts.js", "race.js", "page.js")


def page(comparisons: Sequence[dict[str, Any]]) -> str:
    """The HTML of saved comparisons."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    return environment.get_template("page.html").render(
        comparisons=[_static(one) for one in comparisons],
        data=embedded([drawn(one) for one in comparisons]),
        style=(STATIC / "page.css").read_text(encoding="utf-8"),
        script="\n".join((STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS),
    )


def drawn(saved: dict[str, Any]) -> dict[str, Any]:
    """What the page's scripts draw of a comparison."""
    ledgers = {i: ledger_of(row) for i, row in enumerate(saved["rows"])}
    return {
        "methods": [
            _named(method["method"]) | {"reference": method["reference"], "control": bool(method["control_of"])}
            for method in saved["methods"]
        ],
        "problems": saved["problems"],
        "clocks": race.clocks(saved),
        "races": race.lanes(saved, ledgers),
        "acceptance": figures.acceptance(saved, ledgers),
        "cost": figures.cost(saved, ledgers),
        "jacobi": figures.jacobi(saved, ledgers),
    }


def embedded(facts: Any) -> str:
    """JSON that can stand inside a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _static(saved: dict[str, Any]) -> dict[str, Any]:
    """What the template writes of a comparison: it is read without scripts, too."""
    rows = totals(saved)
    return {
        "title": saved["title"],
        "heading": heading(saved),
        "verdict": verdict(rows),
        "interrupted": saved["interrupted"],
        "rows": [(_named(row.method), row) for row in rows],
        "best": best(rows),
        "most": max(1.0, *(row.ratio for row in rows)),
        "machine": saved["machine"],
        "steady": saved["steady"],
        "sampling": saved["sampling"],
        "clocks": race.clocks(saved),
        "jacobi": any("guess" in note for row in saved["rows"] for _, note in row["ledger"]["notes"]),
    }


def _named(label: str) -> dict[str, str]:
    """A label as its class and what is set: "Jacobi", "window=7"."""
    name, _, fields = label.partition("(")
    return {"name": name, "fields": fields.removesuffix(")")}
