"""`abreast calibrate`: what a call of a model costs here, by its rows; kept for the commands that can use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from abreast.cli import inputs
from abreast.core.errors import AbreastError
from abreast.machine.calibrate import Calibration, calibrate, cpu_name, fingerprint, measure_bandwidth, measure_flops
from abreast.machine.machine import Curve
from abreast.web.files import to_json


def run_calibrate(
    name: str, dtypes: str, rows: str, context: int, repeats: int, device: str, threads: int | None, as_json: bool
) -> None:
    """The command."""
    sizes, kinds = _sizes(rows), [kind.strip() for kind in dtypes.split(",") if kind.strip()]
    if not kinds:
        raise AbreastError("--dtype names no type of weights: float32, bfloat16.")
    inputs.set_threads(threads)
    console = Console(stderr=True, highlight=False)
    found: dict[str, Calibration] = {}
    for kind in kinds:
        with console.status(f"measuring {name} in {kind}"):
            model, _ = inputs.load_model(name, kind, device)
            found[kind] = measured(model, sizes, context, repeats)
    paths = [found[kind].save() for kind in kinds]
    if as_json:
        typer.echo(to_json({"schema": "abreast.calibration", "version": 1, "model": name, "context": context,
                            "curves": {kind: found[kind].curves["target"] for kind in kinds}}))  # fmt: skip
    else:
        _print({kind: found[kind].curves["target"] for kind in kinds}, name, context)
    for path in paths:
        console.print(f"wrote {path}", style="dim", markup=False, soft_wrap=True)


def measured(model: Any, sizes: Sequence[int], context: int = 128, repeats: int = 5) -> Calibration:
    """A model's curve on this machine, and the machine's own rates in its type."""
    import torch

    from abreast.decode.adapter import adapt

    rows = adapt(model)
    curve = measure(rows, sizes, context, repeats)
    dtype = str(rows.dtype).removeprefix("torch.")
    flops = measure_flops(size=512, dtype=rows.dtype if rows.dtype != torch.float16 else torch.float32, repeats=3)
    return Calibration(fingerprint(model), dtype, {"target": curve}, flops, measure_bandwidth(1 << 27, repeats=3))


def measure(model: Any, sizes: Sequence[int], context: int = 128, repeats: int = 5) -> Curve:
    """Seconds of a call of n rows, a chain after `context` tokens. model: the engine's face of one (`decode.adapt`)."""
    import torch

    if context + max(sizes) > model.context:
        raise AbreastError(
            f"{context} tokens and {max(sizes)} rows do not fit the model's context of {model.context}: "
            "give smaller --context or --rows."
        )
    device, total = model.device, context + max(sizes)
    ids = torch.randint(model.vocab, (total,), generator=torch.Generator().manual_seed(0)).to(device)
    cache = model.cache(total)

    def forward(start: int, stop: int) -> None:
        at = torch.arange(start, stop, device=device)
        see = torch.arange(stop, device=device)[None] <= at[:, None]
        model.forward(cache, ids[start:stop], at, torch.zeros_like(at), see, slice(None))

    forward(0, context)

    def call(n: int) -> None:
        forward(context, context + n)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cache.crop(context)

    return calibrate(call, sizes, repeats)


def faster(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """The type whose single row is cheaper."""
    return min(curves, key=lambda kind: min(curves[kind])[1])


def _print(curves: Mapping[str, Sequence[tuple[float, float]]], name: str, context: int) -> None:
    import torch

    title = f"{name}: one call after {context} tokens; threads: {torch.get_num_threads()}, {cpu_name()}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    table.add_column("rows", justify="right")
    for kind in curves:
        table.add_column(f"{kind} ms", justify="right")
        table.add_column("to 1 row", justify="right", style="dim")
    for points in zip(*curves.values()):
        cells = [f"{points[0][0]:g}"]
        for kind, (_, seconds) in zip(curves, points):
            cells += [f"{1e3 * seconds:.2f}", f"{seconds / curves[kind][0][1]:.2f}"]
        table.add_row(*cells)
    console = Console(highlight=False)
    console.print(table)
    if len(curves) > 1:
        best = faster(curves)
        others = {kind: curves[kind][0][1] / curves[best][0][1] for kind in curves if kind != best}
        said = ", ".join(f"{ratio:.2f} times as fast as {kind}" for kind, ratio in others.items())
        console.print(f"[bold]{best} is the faster type for one token at a time: {said}.[/]")


def _sizes(rows: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in rows.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise AbreastError(f"--rows wants numbers from 1 on, separated by commas, not {rows!r}.")
    return sizes
