"""`abreast try SLUG`: one paper's claim, its checks as they come."""

from __future__ import annotations

from pathlib import Path

import typer

from abreast.core import catalog
from abreast.core.claims import Check, Figure, Grid, Item, Result, claim_of, try_claim
from abreast.core.compare import Table
from abreast.core.errors import AbreastError


def run_claim(slug: str, as_json: bool, record: bool, threads: int | None) -> int:
    """Run it; 0 if it holds, else 1. record: write what it showed into the catalog of this checkout."""
    if record and not _in_checkout():
        raise AbreastError("--record writes into a source checkout, and this abreast is installed from a package.")
    row = catalog.paper(slug)
    claim_of(slug)
    if threads:
        from abreast.cli.inputs import set_threads

        set_threads(threads)
    if as_json:
        result = try_claim(slug)
        typer.echo(result.to_json())
    else:
        result = _shown(row)
    if record:
        catalog.record(slug, "holds" if result.holds else "short", result.measured)
    return 0 if result.holds else 1


def _shown(row: catalog.Paper) -> Result:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(f"[bold]{row.slug}[/]  {escape(row.title)}")
    if row.claim:
        console.print(row.claim, style="dim", markup=False)

    def show(item: Item) -> None:
        if isinstance(item, Check):
            console.print(f"  {'[green]✓[/]' if item.holds else '[red]✗[/]'} {escape(str(item))}")
        else:
            console.print(_drawn(item))

    with console.status("running"):
        result = try_claim(row.slug, show)
    said = "[green]holds[/]" if result.holds else "[yellow]falls short[/]"
    console.print(f"{said} [dim]({result.real}, {result.seconds:.1f} s)[/]")
    return result


def _drawn(item: Table | Grid | Figure) -> object:
    """What stands beside the checks, as a table."""
    from rich.table import Table as RichTable

    if isinstance(item, Figure):
        drawn = RichTable(title=item.title, title_justify="left")
        for name in ("curve", item.x, item.y):
            drawn.add_column(name)
        for name, points in item.series.items():
            for x, y in points:
                drawn.add_row(name, _cell(x), _cell(y))
        return drawn
    if isinstance(item, Grid):
        drawn = RichTable(*map(str, item.columns), title=item.title, title_justify="left")
        for cells in item.rows:
            drawn.add_row(*map(_cell, cells))
        return drawn
    drawn = RichTable("method", "promise", "kept", "work", "span", "seconds")
    for row in item:
        facts = row.facts()
        drawn.add_row(*(_cell(facts[name]) for name in ("label", "promise", "kept", "work", "span", "seconds")))
    return drawn


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _in_checkout() -> bool:
    """Whether this package lies in the repository's own source tree."""
    return (Path(__file__).parents[3] / "pyproject.toml").is_file() and Path(__file__).parents[2].name == "src"
