"""Writes `docs/papers/`: an index of the catalog, and a page for each paper of which something was shown.

What a page says comes from the catalog, from the docstrings of the paper's classes, and from the results of claims in
`evidence/`. The folder is written anew each time.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from abreast.core.catalog import PATH, Paper, papers

ROOT = Path(__file__).parents[1]


def generate(out: Path, evidence: Path, catalog: Path = PATH) -> list[Path]:
    """Write the folder; the pages in it. out: emptied first."""
    found, results = papers(path=catalog), claims(evidence)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "index.md").write_text(index(found), encoding="utf-8")
    pages = [out / "index.md"]
    for paper in found:
        if paper.state != "planned":
            pages.append(out / f"{paper.slug}.md")
            pages[-1].write_text(page(paper, results.get(paper.slug)), encoding="utf-8")
    return pages


def claims(evidence: Path) -> dict[str, dict[str, Any]]:
    """The results of claims in the JSON files of a folder, by slug; other files are passed over."""
    read = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(evidence.rglob("*.json")))
    return {one["slug"]: one for one in read if isinstance(one, dict) and {"slug", "checks", "shown"} <= set(one)}


def index(found: Sequence[Paper]) -> str:
    """All papers, by room."""
    counts = Counter(paper.state for paper in found)
    lines = [
        "# Papers",
        "",
        f"{len(found)} papers on running sequential machine learning in parallel: {counts['holds']} hold, "
        f"{counts['short']} fall short of their claim, {counts['planned']} are planned. A state is written by a run of "
        "the paper's claim; a paper that was run has a page. `abreast papers` prints the same list.",
    ]
    rooms = sorted({paper.room for paper in found}, key=lambda room: (room != "decode", room))
    for room in rooms:
        inside = [paper for paper in found if paper.room == room]
        rows = [[paper.number, linked(paper), f"`{paper.slug}`", paper.group, paper.state] for paper in inside]
        lines += ["", f"## {room}", "", *table(["", "paper", "name", "group", "state"], rows)]
    return "\n".join(lines) + "\n"


def linked(paper: Paper) -> str:
    """The title; with a link where the paper has a page."""
    return cell(paper.title) if paper.state == "planned" else f"[{cell(paper.title)}]({paper.slug}.md)"


def page(paper: Paper, result: dict[str, Any] | None) -> str:
    """One paper."""
    rows = [
        ["state", {"holds": "holds", "short": "falls short of its claim"}.get(paper.state, paper.state)],
        ["room", f"{paper.room}, {paper.group}"],
        ["guarantee", paper.guarantee],
        ["runs on", paper.realness],
        ["try it", f"`abreast try {paper.slug}`"],
    ]
    lines = [f"# {cell(paper.title)}", "", *table(["", ""], [row for row in rows if row[1]])]
    for name in paper.methods:
        lines += ["", *method(paper.room, name)]
    if paper.claim:
        lines += ["", "## Claim", "", paper.claim]
    if result is not None:
        lines += ["", *measured(result)]
    elif paper.measured:
        lines += ["", "## Measured", "", *(f"- {check}" for check in paper.measured.split("; "))]
    return "\n".join(lines) + "\n"


def method(room: str, name: str) -> Iterator[str]:
    """A class with its docstring, and a link to the reference."""
    found = getattr(import_module(f"abreast.{room}"), name)
    yield f"## [`{room}.{name}`][{found.__module__}.{found.__qualname__}]"
    yield ""
    yield inspect.getdoc(found) or ""


def measured(result: dict[str, Any]) -> Iterator[str]:
    """Checks with their limits, then what the claim shows beside them."""
    yield "## Measured"
    yield ""
    rows = [
        [
            check["what"],
            number(check["measured"]),
            f"{check['relation']} {number(check['limit'])}",
            mark(check["holds"]),
        ]
        for check in result["checks"]
    ]
    yield from table(["check", "measured", "limit", "holds"], rows)
    yield ""
    yield f"A run of {number(result['seconds'])} seconds; seconds are those of the machine that it ran on."
    for one in result["shown"]:
        yield ""
        yield from drawn(one)


def drawn(one: dict[str, Any]) -> list[str]:
    """A grid, a figure or a comparison as a table."""
    if one["class"] == "Grid":
        return [f"**{cell(one['title'])}**", "", *table(one["columns"], one["rows"])]
    if one["class"] == "Figure":
        points = [[name, x, y] for name, curve in one["series"].items() for x, y in curve]
        return [f"**{cell(one['title'])}**", "", *table(["curve", one["x"], one["y"]], points)]
    columns = list(dict.fromkeys(name for row in one["rows"] for name in row["columns"]))
    names = ["promise", "kept", "span", "work"]
    rows = [
        [("control: " if row["control_of"] else "") + row["label"], *(row[name] for name in names),
         *(row["columns"].get(name) for name in columns)]
        for row in one["rows"]
    ]  # fmt: skip
    return table(["method", *names, *(name.replace("_", " ") for name in columns)], rows)


def table(head: Iterable[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table in Markdown."""
    titles = [cell(name) for name in head]
    body = ["| " + " | ".join(cell(number(value)) for value in row) + " |" for row in rows]
    return ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles), *body]


def number(value: Any) -> str:
    """A value as readers want it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return mark(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def mark(holds: bool) -> str:
    return "yes" if holds else "no"


def cell(text: Any) -> str:
    """Text that cannot end a cell."""
    return str(text).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    written = generate(ROOT / "docs" / "papers", ROOT / "evidence")
    print(f"wrote {len(written)} pages to docs/papers")
