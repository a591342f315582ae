"""`abreast compare solve` and `abreast advise solve`: solvers of a recurrence, beside its loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from abreast.cli import inputs
from abreast.cli.recurrences import Asked, Described, build, check
from abreast.cli.show import names_of, show
from abreast.core.errors import AbreastError
from abreast.core.problem import Method, Run, label
from abreast.web.files import writable


@dataclass(frozen=True)
class Options:
    """How the methods are run. tol, window: None is each method's own."""

    methods: str | None = None
    tol: float | None = None
    window: int | None = None
    grad: bool = False
    workers: int = 1
    threads: int | None = None


def run_compare_solve(asked: Asked, options: Options, as_json: bool, out: Path) -> None:
    """The command."""
    from abreast.web.saved import SOLVE

    check(asked)
    if options.tol is not None and not 0 <= options.tol < float("inf"):
        raise AbreastError(f"--tol is a change from 0 on, not {options.tol:g}.")
    if options.grad and options.workers > 1:
        raise AbreastError("--grad looks at one process: leave --workers out.")
    writable(out)
    inputs.set_threads(options.threads)
    console = Console(stderr=True, highlight=False)
    with console.status("loading"):
        from abreast.solve import lineup

        names = names_of(options.methods, lineup.known())
        described = build(asked)
    wanted = lineup.Wanted(options.tol, options.window)
    methods = [lineup.method(name, wanted) for name in names or lineup.lineup(described.problem.steps)]
    saved = held(described, methods, options, console, asked.seed)
    assert saved["schema"] == SOLVE
    show(saved, out / "compare-solve", as_json, console)


def held(
    described: Described, methods: Sequence[Method], options: Options, console: Console, seed: int = 0
) -> dict[str, Any]:
    """The methods beside the loop, as plain values."""
    import torch

    from abreast.core.compare import compare
    from abreast.solve.forecast import operations, weigh
    from abreast.web import runs
    from abreast.web.saved import SOLVE, here
    from abreast.workers import World

    problem = described.problem
    fits(problem, methods)
    with console.status("one step") as status:
        facts = described.facts()
        _warm(problem, methods)
        gradients: dict[int, float] = {}
        waiting = [label(method) for method in (problem.reference, *methods)]

        def ended(run: Run[Any]) -> None:
            weigh(run.ledger, facts["cost"], problem, run.method)
            if options.grad and run.against is not None:
                gradients[id(run)] = apart(problem, run.method)
            left = waiting[waiting.index(label(run.method)) + 1 :] if label(run.method) in waiting else []
            status.update(f"running {left[0]}" if left else "done")

        status.update(f"running {waiting[0]}")
        with torch.no_grad():
            table = compare(problem, methods, world=lambda: World(options.workers), on_run=ended)

    def more(run: Run[Any]) -> dict[str, Any]:
        graded = {"columns": {"gradient": gradients[id(run)]}} if id(run) in gradients else {}
        return {"operations": operations(problem, run.method), **graded}

    known = {"title": described.name, "dtype": described.dtype, "workers": options.workers, "seed": seed,
             "machine": here()}  # fmt: skip
    return runs.comparison(SOLVE, table, known, [facts], more)


def fits(problem: Any, methods: Sequence[Method], share: float = 0.8) -> None:
    """Raise AbreastError where a method would hold more Jacobians than memory is free."""
    from abreast.solve.diagnosis import memory
    from abreast.solve.forecast import held as bytes_of

    free = memory()
    for method in methods:
        needed = bytes_of(problem, method)
        if free and needed > share * free:
            window = max(1, int(problem.steps * share * free / needed))
            raise AbreastError(
                f"{label(method)} would hold {needed / 1e9:.3g} GB of Jacobians and {free / 1e9:.3g} GB are free: "
                f"give --window {window} or less, or leave it out."
            )


def _warm(problem: Any, methods: Sequence[Method]) -> None:
    """What is compiled or loaded at first use is not part of any method's seconds."""
    import torch

    from abreast.core.problem import run

    with torch.no_grad():
        for method in (problem.reference, *methods):
            run(problem.head(3), method)


def apart(problem: Any, method: Method) -> float:
    """The largest difference of a gradient from autograd's through the loop, by the largest entry of that one."""
    import torch

    from abreast.core.problem import run

    found = []
    for each in (problem.reference, method):
        graded, leaves = _leaves(problem)
        with torch.enable_grad():
            states = run(graded, each).value
            pull = torch.randn(states.shape, generator=torch.Generator().manual_seed(0), dtype=states.dtype)
            found.append(torch.autograd.grad(states, leaves, pull.to(states.device), allow_unused=True))
    pairs = [(a, b) for a, b in zip(*found) if a is not None and b is not None]
    scale = max(float(a.abs().max()) for a, _ in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / (scale or 1.0)


def _leaves(problem: Any) -> tuple[Any, list[Any]]:
    """The problem with a first state that gradients reach, and all that they are taken to."""
    from abreast.solve import CellSequence

    x0 = problem.x0.detach().clone().requires_grad_()
    if isinstance(problem, CellSequence):
        graded: Any = CellSequence(problem.cell, problem.inputs, x0, problem.bounds)
        return graded, [x0, *(p for p in problem.cell.parameters() if p.requires_grad)]
    from abreast.solve import Recurrence

    return Recurrence(problem.f, x0, problem.steps, problem.bounds, problem.structure, problem.jacobian), [x0]
