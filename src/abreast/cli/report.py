"""`abreast report`: what a saved run says, as tables, a page and a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from abreast.cli.tables import print_comparison
from abreast.core.errors import AbreastError, nearest
from abreast.core.ledger import Ledger, Priced
from abreast.machine import MACHINES, replay
from abreast.web.drawings import priced
from abreast.web.files import read_json, to_json, write
from abreast.web.page import page
from abreast.web.saved import ledger_of, load
from abreast.web.trace import trace


def show_report(saved: Path, html: Path | None, to: Path | None, machine: str | None) -> None:
    """The command. A ledger alone has a table of its kinds and a trace, and no page."""
    console, stderr = Console(highlight=False), Console(stderr=True, highlight=False)
    facts = read_json(saved)
    if isinstance(facts, dict) and "schema" not in facts and "events" in facts:
        ledger = Ledger.from_json(json.dumps(facts))
        ledgers = {saved.stem: _on(ledger, machine)}
        _print(ledger, console)
        if html is not None:
            raise AbreastError(f"{saved} is a ledger alone: a page is made of what compare or demo wrote.")
    else:
        found = load(saved)
        for one in found:
            print_comparison(one, console)
        path = write(html or saved.with_suffix(".html"), page(found))
        stderr.print(f"wrote {path}", style="dim", markup=False, soft_wrap=True)
        ledgers = _named(found, machine) if to is not None else {}
    if to is not None:
        path = write(to, to_json(trace(ledgers)))
        stderr.print(f"wrote {path}", style="dim", markup=False, soft_wrap=True)


def _named(found: list[dict[str, Any]], machine: str | None) -> dict[str, Ledger]:
    """Every run's ledger, as it is or timed on a described machine."""
    ledgers = {}
    for one in found:
        for row in one["rows"]:
            name = f"{one['title']}: {row['method']}, {one['problems'][row['problem']]['name']}"
            ledgers[name] = _on(ledger_of(row), machine, partial(priced, row))
    return ledgers


def _on(ledger: Ledger, machine: str | None, prices: Callable[[str], Priced] = MACHINES.__getitem__) -> Ledger:
    """A ledger as it is, or timed on a described machine."""
    if machine is None:
        return ledger
    if machine not in MACHINES:
        raise AbreastError(f"no machine is described as {machine!r}: {nearest(machine, MACHINES)}")
    return replay(ledger, prices(machine))


def _print(ledger: Ledger, console: Console) -> None:
    table = Table("kind", "events", "rows", "bytes", header_style="dim", box=None)
    for kind in dict.fromkeys(event.kind for event in ledger.events):
        volume = sum(event.bytes for event in ledger.events if event.kind == kind)
        table.add_row(kind, f"{ledger.calls(kind)}", f"{ledger.rows(kind):g}", f"{volume:g}")
    console.print(table)
    seconds = f", {ledger.makespan:.4g} s" if ledger.timed else ""
    console.print(f"[bold]work {ledger.work:g}, span {ledger.span:g}{seconds}[/]")
