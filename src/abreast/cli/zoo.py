"""`abreast zoo`: what there is, fetching it, and whether it is whole."""

from __future__ import annotations

import typer

from abreast.core.errors import AbreastError, nearest
from abreast.zoo.diffusion import DENOISERS
from abreast.zoo.manifest import SOURCES, fetch
from abreast.zoo.models import EMBEDDED, NAMES, resolve, weights
from abreast.zoo.models import check as states

_OURS = {
    "code": "a language model of Python source code, trained by abreast.zoo.train",
    "code-draft": "a smaller one with the same tokens, to draft for it",
}
_PAINTERS = {
    "digits-unet": "a diffusion UNet of handwritten digits",
    "digits-dit": "a diffusion transformer of handwritten digits",
    "carphone-dit": "a video diffusion transformer of a talking head",
    "photos-unet": "a diffusion UNet of patches of photographs",
}


def get(name: str) -> None:
    """Fetch a model or a source; print its path."""
    if name not in NAMES and name not in SOURCES:
        raise AbreastError(f"the zoo has nothing named {name!r}: {nearest(name, (*NAMES, *SOURCES))}")
    typer.echo(str(resolve(name) if name in NAMES else fetch(name)))


def show() -> None:
    """Print what there is."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what", "from", "licence", "MB", "here", box=None, header_style="bold")
    for source in SOURCES.values():
        here = "yes" if source.path.exists() else "no"
        table.add_row(source.name, source.what, source.requirement, source.licence, f"{source.megabytes:g}", here)
    for name in EMBEDDED:
        table.add_row(name, _OURS[name], "abreast", "Apache-2.0", "–", "yes" if _embedded(name) else "no")
    for name in DENOISERS:
        there = (weights(name) / "config.json").is_file()
        table.add_row(name, _PAINTERS[name], "abreast", "Apache-2.0", "–", "yes" if there else "no")
    Console().print(table)


def check() -> None:
    """Print every model's state. Raises AbreastError where one is broken."""
    found = states()
    for name, state in found.items():
        typer.echo(f"{name}: {state}")
    broken = [name for name, state in found.items() if state != "ready"]
    if broken:
        raise AbreastError(f"{len(broken)} of {len(found)} models are not ready: {', '.join(broken)}.")


def _embedded(name: str) -> bool:
    try:
        return bool(resolve(name))
    except AbreastError:
        return False
