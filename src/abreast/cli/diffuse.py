"""`abreast compare diffuse`: samplers of a pipeline, beside one step after the other and beside fewer steps."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console

from abreast.cli import inputs
from abreast.cli.pipelines import Asked, Described, build, check
from abreast.cli.show import names_of, show
from abreast.core.errors import AbreastError
from abreast.core.problem import Method, Run, label, run
from abreast.web.files import writable

PICTURES = 26  # of one method on its way
SIDE = 160  # pixels of one sample's longer side on the page
DECODING = 6.0  # seconds that the pictures of one method on its way may take


@dataclass(frozen=True)
class Options:
    """How the methods are run."""

    methods: str | None = None
    devices: int = 1
    threads: int | None = None


def run_compare_diffuse(asked: Asked, options: Options, as_json: bool, out: Path) -> None:
    """The command."""
    check(asked)
    writable(out)
    inputs.set_threads(options.threads)
    console = Console(stderr=True, highlight=False)
    with console.status("loading the room"):
        from abreast.diffuse import lineup

        names = names_of(options.methods, [*lineup.known(), *lineup.NEEDS])
        wanted = [lineup.method(name, options.devices, asked.steps or 50) for name in names or lineup.known()]
    with console.status(f"loading {asked.pipeline}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = build(asked)
        methods = able(described.problem, wanted, options.devices, names is None, console)
    saved = held(described, methods, options.devices, console, asked.seed)
    show(saved, out / "compare-diffuse", as_json, console)


def able(problem: Any, methods: Sequence[Method], devices: int, lenient: bool, console: Console) -> list[Method]:
    """The methods that can run on this problem, found out on a few steps; what cannot is left out in a sentence if
    nobody asked for it by name. Raises AbreastError where nothing is left."""
    from abreast.workers import World

    short, found = head(problem), []
    for method in methods:
        try:
            run(short, method, World(devices))
            found.append(method)
        except AbreastError as error:
            if not lenient:
                raise AbreastError(f"{label(method)}: {error}") from error
            console.print(f"Without {type(method).__name__}: {error}", style="yellow", markup=False)
    if not found:
        raise AbreastError("none of the methods runs on this pipeline.")
    return found


def head(problem: Any, steps: int = 3) -> Any:
    """The same sampler with a few steps: what is compiled or loaded at first use is paid for there."""
    from dataclasses import replace

    from abreast.diffuse.spacing import fewer

    if problem.length <= steps:
        return problem
    return replace(problem, scheduler=fewer(problem.scheduler, steps), steps=None, start=None)


def held(
    described: Described, methods: Sequence[Method], devices: int, console: Console, seed: int = 0
) -> dict[str, Any]:
    """The methods beside the sequential sampler, as plain values."""
    from abreast.cli.watching import Seen, watched
    from abreast.core.compare import compare
    from abreast.diffuse.forecast import operations, weigh
    from abreast.web import runs
    from abreast.web.saved import DIFFUSE, here
    from abreast.workers import World

    seen = Seen()
    problem = watched(described.problem, seen)
    with console.status("one evaluation") as status, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = described.facts()
        run(head(problem), problem.reference)
        states: dict[int, Any] = {}

        def world() -> World:
            made = World(devices)
            seen.begin(made.ledger)
            return made

        def ended(done: Run[Any]) -> None:
            weigh(done.ledger, facts["cost"], done.method)
            states[id(done)] = seen.taken(PICTURES)
            status.update(f"{label(done.method)}: done")

        def step(_: Any, method: Method, commit: Any) -> None:
            status.update(f"{label(method)}: {commit[0]} of {problem.length} steps")

        table = compare(problem, methods, world=world, on_run=ended, on_step=step)
        status.update("pictures")
        levels = _levels(problem, table.reference.runs[0].value)

        def more(done: Run[Any]) -> dict[str, Any]:
            return {
                "operations": operations(facts["cost"], done.method),
                "images": _images(problem, done, states[id(done)], levels) if levels is not None else [],
            }

        known = {"title": described.name, "scheduler": described.scheduler, "dtype": described.dtype,
                 "devices": devices, "seed": seed, "machine": here()}  # fmt: skip
        return runs.comparison(DIFFUSE, table, known, [facts], more)


def _levels(problem: Any, value: Any) -> tuple[float, float] | None:
    """The values that are black and white: of the reference's picture; None where samples are no pictures."""
    if not problem.pictures:
        return None
    picture = problem.picture(value)
    if picture.ndim not in (4, 5) or picture.shape[-3] not in (1, 3):
        return None
    low, high = float(picture.min()), float(picture.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high) if isfinite(high - low) else None


def _images(problem: Any, done: Run[Any], states: Sequence[Any], levels: tuple[float, float]) -> list[list[Any]]:
    """[span, settled steps, data URI] of pictures on the way, and of the answer."""
    began = time.perf_counter()
    last = [done.ledger.span, problem.length, _drawn(problem, done.value, levels)]
    each = time.perf_counter() - began
    if each > DECODING:
        return [last]
    count = min(len(states), int(DECODING / max(each, 1e-9)))
    stride = max(1, -(-len(states) // max(count, 1)))
    found = [
        [span, index, _drawn(problem, state, levels)]
        for span, index, state in states[::stride]
        if index < problem.length
    ]
    return [*found, last]


def _drawn(problem: Any, state: Any, levels: tuple[float, float]) -> str:
    import torch
    from torch.nn.functional import interpolate

    from abreast.web.png import data_uri, sheet

    with torch.no_grad():
        picture = problem.picture(state).float().cpu()
    side = max(picture.shape[-2:])
    if side > SIDE:
        flat = picture.flatten(0, -4)
        tall, wide = (max(1, round(n * SIDE / side)) for n in picture.shape[-2:])
        picture = interpolate(flat, (tall, wide), mode="area").view(*picture.shape[:-2], tall, wide)
    return data_uri(sheet(picture.numpy(), *levels))
