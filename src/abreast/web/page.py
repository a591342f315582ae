"""Comparisons as one page that needs nothing beside itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abreast.web import drawings, figures
from abreast.web.saved import DECODE, DIFFUSE, SOLVE
from abreast.web.shown import shown

STATIC = Path(__file__).with_name("static")
SECTIONS = {DECODE: "decode.html", SOLVE: "solve.html", DIFFUSE: "diffuse.html"}
SCRIPTS = {
    DECODE: ("race.js", "decode.js"),
    SOLVE: ("convergence.js", "schedule.js", "solve.js"),
    DIFFUSE: ("convergence.js", "schedule.js", "pictures.js", "diffuse.js"),
}


def page(comparisons: Sequence[dict[str, Any]]) -> str:
    """The HTML of saved comparisons."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    scripts = dict.fromkeys(name for one in comparisons for name in SCRIPTS[one["schema"]])
    return environment.get_template("page.html").render(
        comparisons=[_static(one) for one in comparisons],
        data=embedded([drawn(one) for one in comparisons]),
        style=(STATIC / "page.css").read_text(encoding="utf-8"),
        script="\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("charts.js", *scripts, "page.js")),
    )


def drawn(saved: dict[str, Any]) -> dict[str, Any]:
    """What the page's scripts draw of a comparison."""
    lines = shown(saved).lines
    common = {
        "schema": saved["schema"],
        "methods": [
            {"name": line.name, "fields": line.fields, "control": line.control, "reference": method["reference"]}
            for line, method in zip(lines, saved["methods"])
        ],
        "problems": saved["problems"],
    }
    return common | (figures.drawn(saved) if saved["schema"] == DECODE else drawings.drawn(saved))


def embedded(facts: Any) -> str:
    """JSON that can stand inside a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _static(saved: dict[str, Any]) -> dict[str, Any]:
    """What the template writes of a comparison: it is read without scripts, too."""
    what = shown(saved)
    # The bar comes first, beside the method's name.
    order = sorted(range(len(what.columns)), key=lambda i: not what.columns[i].bar)
    return {
        "title": saved["title"],
        "section": SECTIONS[saved["schema"]],
        "shown": what,
        "columns": [what.columns[i] for i in order],
        "cells": [[line.cells[i] for i in order] for line in what.lines],
        "most": max(1.0, *(line.bar for line in what.lines)),
        "interrupted": saved["interrupted"],
        "machine": saved["machine"],
        **(figures.static(saved) if saved["schema"] == DECODE else drawings.static(saved)),
    }
