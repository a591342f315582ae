"""How a finished comparison is shown: files, and the table or JSON; and what comparisons of all rooms ask for alike."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from abreast.cli import INTERRUPTED
from abreast.core.errors import AbreastError, nearest
from abreast.web.files import to_json, write
from abreast.web.saved import bare


def show(saved: dict[str, Any], where: Path, as_json: bool, console: Console) -> None:
    """Write JSON and page to `where`; print the table, or the JSON. Exits as interrupted where the run was."""
    from abreast.cli.tables import print_comparison
    from abreast.web.page import page

    facts = to_json(saved)
    found = saved.get("comparisons", [saved])
    paths = [write(where.with_suffix(".json"), facts), write(where.with_suffix(".html"), page(found))]
    if as_json:
        typer.echo(to_json(bare(saved)))
    else:
        for one in found:
            print_comparison(one, Console(highlight=False))
    for path in paths:
        console.print(f"wrote {path}", style="dim", markup=False, soft_wrap=True)
    if any(one["interrupted"] for one in found):
        raise typer.Exit(INTERRUPTED)


def names_of(methods: str | None, known: Iterable[str]) -> list[str] | None:
    """The names in a comma-separated text, None where there is none. Raises AbreastError for one that is not known."""
    if methods is None:
        return None
    known = list(known)
    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise AbreastError(f"--methods names none: {nearest('', known)}")
    for name in names:
        if name not in known:
            raise AbreastError(f"no method is called {name!r}: {nearest(name, known)}")
    return names
