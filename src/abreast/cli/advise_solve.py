"""`abreast advise solve`: whether a recurrence can be had in parallel over time, what that needs, and where it pays."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from abreast.cli import inputs
from abreast.cli.advise import chosen, duration, printed, size
from abreast.cli.recurrences import Asked, Described, build, check
from abreast.core.problem import label, settings

PAYS = 1.1  # a gain below it is noise


def run_advise_solve(asked: Asked, machine: str | None, threads: int | None, as_json: bool) -> None:
    """The command."""
    check(asked)
    names = chosen(machine)
    inputs.set_threads(threads)
    with Console(stderr=True, highlight=False).status("solving the first steps"):
        advice = advise(build(asked), names)
    held = (
        f"Jacobians of all {advice['problem']['steps']} steps; {size(advice['available'])} are free",
        ("linearization", "bytes", "states at a time"),
        [(row["name"], size(row["bytes"]), "all" if row["window"] is None else f"{row['window']}")
         for row in advice["memory"]],
    )  # fmt: skip
    replayed = (
        f"{advice['candidate']} on the first {advice['probed']} steps, replayed: bounds, no forecasts",
        ("machine", "loop", "method", "× the loop"),
        [(row["name"], duration(row["reference"]), duration(row["seconds"]), f"{row['faster']:.2g}")
         for row in advice["machines"]],
    )  # fmt: skip
    printed(advice, [held, *([replayed] if advice["machines"] else [])], as_json)


def advise(described: Described, machines: list[str]) -> dict[str, Any]:
    """As plain values. machines: the described ones that the run on the first steps is replayed on."""
    from abreast.solve import DEER, diagnose
    from abreast.solve.linearize import Diagonal
    from abreast.web.saved import here

    problem = described.problem
    found = diagnose(problem)
    line = found.linearization
    method = None
    if line is not None:
        method = DEER(line, window=found.window)
    facts = described.facts()
    rows = _replayed(problem.head(found.probed), method, facts["cost"], machines) if method is not None else []
    gain = found.seconds["loop"] / found.seconds[type(line).__name__] if line is not None else 0.0
    named = "" if method is None else "QuasiDEER" if isinstance(line, Diagonal) else label(method)
    if method is not None and found.window:
        named = label(method)
    return {
        "room": "solve",
        "title": described.name,
        "machine": here(),
        "problem": facts,
        "verdict": found.verdict[:1].upper() + found.verdict[1:] + ".",
        "advice": _advice(named, gain, rows, found.serial and found.probed >= 32),
        "candidate": named,
        "method": settings(method) if method is not None and gain > PAYS else None,
        "lyapunov": found.lyapunov,
        "probed": found.probed,
        "sweeps": dict(found.sweeps),
        "seconds": dict(found.seconds),
        "available": found.available,
        "memory": _memory(problem, found.available),
        "machines": rows,
    }


def _memory(problem: Any, available: float) -> list[dict[str, Any]]:
    """What each linearization holds over all steps, and the window that half of the free memory takes."""
    from abreast.solve.diagnosis import COPIES
    from abreast.solve.linearize import BlockDiagonal, Dense, Diagonal

    rows = []
    for line in (Dense(), *([BlockDiagonal()] if problem.structure == "blocks" else []), Diagonal()):
        a_step = COPIES * line.entries(problem) * len(problem.x0) * problem.x0.element_size()
        room = max(1, int(available / 2 / a_step))
        rows.append({"name": type(line).__name__, "bytes": a_step * problem.steps,
                     "window": room if room < problem.steps else None})  # fmt: skip
    return rows


def _replayed(head: Any, method: Any, cost: dict[str, float], machines: list[str]) -> list[dict[str, Any]]:
    """The loop and the method on the same steps, run here and timed on described machines."""
    import torch

    from abreast.core.problem import run
    from abreast.machine import MACHINES, replay
    from abreast.machine.forecast import Forecast
    from abreast.solve.forecast import operations, weigh

    runs = []
    with torch.no_grad():
        for each in (head.reference, method):
            done = run(head, each)
            weigh(done.ledger, cost, head, each)
            runs.append((done.ledger, operations(head, each)))
    rows = []
    for name in machines:
        loop, seconds = (replay(ledger, Forecast(MACHINES[name], started)).makespan for ledger, started in runs)
        rows.append({"name": name, "reference": loop, "seconds": seconds, "faster": loop / seconds})
    return rows


def _advice(named: str, gain: float, rows: list[dict[str, Any]], serial: bool) -> str:
    """The last line."""
    if not named:
        why = "no sweep shortens this recurrence" if serial else "it is too short for sweeps to pay"
        return f"Keep the loop, here and elsewhere: {why}."
    here = f"Here use {named}" if gain > PAYS else "Keep the loop here"
    there = max(rows, key=lambda row: row["faster"], default=None)
    if there is None:
        return f"{here}."
    if there["faster"] <= PAYS:
        return f"{here}; none of the described machines would make {named} faster than its loop."
    return f"{here}; on {there['name']} {named} would be up to {there['faster']:.2g} times as fast as the loop."
