"""`abreast papers`: the catalog as a table, or one paper."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import typer

from abreast.core.catalog import Paper, paper, papers
from abreast.core.errors import AbreastError

MARKS = {"holds": "✓", "short": "~", "planned": "·"}


def show_papers(slug: str | None, room: str | None, state: str | None, as_json: bool) -> None:
    """Print them. Plain text, because a table of rich alone would take half of the time that help may take."""
    if slug is not None and (room or state):
        raise AbreastError("one paper, or the papers of a room and state: give either a slug or --room and --state.")
    found = [paper(slug)] if slug is not None else papers(room, state)
    if as_json:
        facts = [asdict(row) for row in found]
        typer.echo(json.dumps(facts[0] if slug is not None else facts, ensure_ascii=False, indent=1))
    elif slug is not None:
        _one(found[0])
    else:
        _table(found)


def _table(found: list[Paper]) -> None:
    from shutil import get_terminal_size

    slugs, rooms = (max((len(getattr(row, name)) for row in found), default=0) for name in ("slug", "room"))
    width = max(get_terminal_size((120, 24)).columns - slugs - rooms - 12, 20)
    for row in found:
        title = row.title if len(row.title) <= width else row.title[: width - 1].rstrip() + "…"
        typer.echo(f"{row.number:>4} {MARKS[row.state]} {row.slug:<{slugs}}  {row.room:<{rooms}}  {title}")
    counts = Counter(row.state for row in found)
    said = ", ".join(f"{counts[state]} {state} {mark}" for state, mark in MARKS.items() if counts[state])
    typer.echo(f"{len(found)} papers: {said}" if found else "no papers")


def _one(row: Paper) -> None:
    typer.echo(f"{row.title}\n")
    facts = asdict(row) | {"methods": ", ".join(row.methods)}
    for name in ("number", "slug", "room", "group", "state", "methods", "guarantee", "claim", "realness", "measured"):
        if facts[name]:
            typer.echo(f"{name:>10}  {facts[name]}")
    if row.claim or row.methods:
        typer.echo(f"\nRun its claim: abreast try {row.slug}")
