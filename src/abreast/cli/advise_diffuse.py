"""`abreast advise diffuse`: which axis and which method would pay, here on one device and on several described ones.

A method pays where it is faster than one step after the other and its sample is nearer to that one's than plain
sampling with as many steps as fit into the same seconds, by any of the plain samplers that were run.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any

from rich.console import Console

from abreast.cli import inputs
from abreast.cli.advise import chosen, duration, printed
from abreast.cli.diffuse import able, head
from abreast.cli.pipelines import Asked, Described, build, check
from abreast.cli.show import names_of
from abreast.core.errors import AbreastError
from abreast.core.problem import Method, Run, label, run, settings

PAYS = 1.1  # a gain below it is noise
SHARES = (0.75, 0.5, 0.35, 0.25, 0.18, 0.12)  # of the steps that plain sampling is tried with
STEPS = 20  # where nothing else is asked for


def run_advise_diffuse(
    asked: Asked, methods: str | None, devices: int, machine: str | None, threads: int | None, as_json: bool
) -> None:
    """The command."""
    check(asked)
    machines = chosen(machine) if machine is not None else ["8 x H100 on NVLink", "RTX 4090"]
    inputs.set_threads(threads)
    console = Console(stderr=True, highlight=False)
    with console.status(f"loading {asked.pipeline}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from abreast.diffuse import lineup

        names = names_of(methods, [*lineup.known(), *lineup.NEEDS])
        several = [lineup.method(name, devices) for name in names or lineup.known() if name != lineup.CONTROL]
        if not several:
            raise AbreastError("--methods names only the control, which is run in any case.")
        described = build(asked if asked.steps is not None else replace(asked, steps=STEPS))
    with console.status("running the methods once") as status, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = able(described.problem, several, devices, names is None, console)
        advice = advise(described, found, devices, machines, lambda name: status.update(f"running {name}"))
    tables = [
        (
            f"{place['name']}, {place['devices']} device{'s' if place['devices'] > 1 else ''}: "
            + ("measured" if place["measured"] else "replayed, bounds and no forecasts"),
            ("method", "axis", "seconds", "× reference", "distance", "plain, in that time", "pays"),
            [_cells(row) for row in place["rows"]],
        )
        for place in advice["machines"]
    ]
    printed(advice, tables, as_json)


def _cells(row: dict[str, Any]) -> list[str]:
    plain = "–" if row["plain"] is None else f"{row['plain']:.2g}"
    return [row["method"], row["axis"] or "", duration(row["seconds"]), f"{row['faster']:.2f}",
            f"{row['distance']:.2g}", plain, "yes" if row["pays"] else "no"]  # fmt: skip


def advise(
    described: Described, methods: Sequence[Method], devices: int, machines: Sequence[str], told: Any = print
) -> dict[str, Any]:
    """As plain values."""
    from abreast.diffuse.forecast import weigh
    from abreast.web.saved import here

    problem, facts = described.problem, described.facts()

    def ran(method: Method, size: int, against: Run[Any] | None = None) -> Run[Any]:
        from abreast.workers import World

        told(label(method))
        done = run(problem, method, World(size), against=against)
        weigh(done.ledger, facts["cost"], method)
        return done

    run(head(problem), problem.reference)
    reference = ran(problem.reference, 1)
    plain = _ladder(ran, reference, problem.length)
    alone = [ran(method, 1, reference) for method in methods]
    shared = [ran(method, devices, reference) for method in methods] if devices > 1 else []
    places = [_measured(alone, reference, plain, problem.length)]
    for name in machines:
        for count, done in ((1, alone), (devices, shared)):
            if done:
                places.append(_replayed(name, count, done, reference, plain, facts["cost"], problem.length))
    top = _top(places[0])
    return {
        "room": "diffuse",
        "title": f"{described.name}: {problem.length} steps, {described.source}",
        "machine": here(),
        "problem": facts,
        "verdict": _one_device(places, problem.length),
        "advice": _several(places, devices),
        "method": None if top is None else top["settings"],
        "plain": [[steps, distance] for steps, distance in plain],
        "machines": places,
    }


def _ladder(ran: Any, reference: Run[Any], steps: int) -> list[tuple[int, float]]:
    """(steps, distance) of plain sampling with fewer steps, the best of its spacings and solvers."""
    from abreast.diffuse import fewer_steps

    found: dict[int, float] = {}
    for count in sorted({max(1, round(share * steps)) for share in SHARES if round(share * steps) < steps}):
        for method in fewer_steps(count):
            with suppress(AbreastError):  # a solver or spacing that this schedule does not have
                found[count] = min(float(ran(method, 1, reference).distance), found.get(count, inf))
    return sorted(found.items())


def affordable(plain: Sequence[tuple[int, float]], steps: float) -> float | None:
    """The least distance of plain sampling with at most so many steps; None where none is so short."""
    return min((distance for count, distance in plain if count <= steps), default=None)


def _place(
    name: str, devices: int, measured: bool, times: Sequence[tuple[Run[Any], float]], whole: float,
    plain: Sequence[tuple[int, float]], steps: int,
) -> dict[str, Any]:  # fmt: skip
    """One machine's rows: pairs of a run and its seconds there; whole: the reference's."""
    from abreast.diffuse.lineup import axis

    rows = []
    for done, seconds in times:
        rival = affordable(plain, steps * seconds / whole)
        distance = float(done.distance)  # type: ignore[arg-type]
        nearer = distance == 0 or rival is None or distance < rival
        rows.append({"method": label(done.method), "settings": settings(done.method), "seconds": seconds,
                     "axis": axis(type(done.method).__name__), "faster": whole / seconds, "distance": distance,
                     "plain": rival, "pays": bool(nearer and whole / seconds > PAYS)})  # fmt: skip
    return {"name": name, "devices": devices, "measured": measured, "reference": whole, "rows": rows}


def _measured(
    alone: Sequence[Run[Any]], reference: Run[Any], plain: Sequence[tuple[int, float]], steps: int
) -> dict[str, Any]:
    times = [(done, done.seconds) for done in alone]
    return _place("this machine", 1, True, times, reference.seconds, plain, steps)


def _replayed(
    name: str, devices: int, runs: Sequence[Run[Any]], reference: Run[Any], plain: Sequence[tuple[int, float]],
    cost: dict[str, float], steps: int,
) -> dict[str, Any]:  # fmt: skip
    from abreast.diffuse.forecast import operations
    from abreast.machine import MACHINES, replay
    from abreast.machine.forecast import Forecast

    machine = replace(MACHINES[name], devices=devices)

    def seconds(done: Run[Any]) -> float:
        return replay(done.ledger, Forecast(machine, operations(cost, done.method))).makespan

    return _place(name, devices, False, [(done, seconds(done)) for done in runs], seconds(reference), plain, steps)


def _top(place: dict[str, Any]) -> dict[str, Any] | None:
    """The fastest method that pays there."""
    return max((row for row in place["rows"] if row["pays"]), key=lambda row: row["faster"], default=None)


def _gain(row: dict[str, Any]) -> str:
    near = "the same sample" if row["distance"] == 0 else f"at distance {row['distance']:.2g}"
    rival = (
        "" if row["plain"] is None or row["distance"] == 0 else f" (plain sampling in that time: {row['plain']:.2g})"
    )
    return f"{row['method']}, {row['faster']:.1f} times as fast {near}{rival}"


def _one_device(places: Sequence[dict[str, Any]], steps: int) -> str:
    """What pays on one device: here, and by replay."""
    here, others = _top(places[0]), [place for place in places[1:] if place["devices"] == 1]
    paying = [(place["name"], _top(place)) for place in others]
    there = "; ".join(f"on one device of {name}: {_gain(row)}" for name, row in paying if row is not None)
    if here is not None:
        return f"On this machine: {_gain(here)}{'; ' + there if there else ''}."
    nothing = "On one device nothing pays here: plain sampling with fewer steps is nearer in the same time"
    return f"{nothing}; {there}." if there else f"{nothing}, and on the described machines, too."


def _several(places: Sequence[dict[str, Any]], devices: int) -> str:
    """What pays on several devices."""
    if devices == 1:
        return "Ask with --devices N for what several would make of it."
    said, none = [], []
    for place in places:
        if place["devices"] == devices:
            top = _top(place)
            if top is None:
                none.append(place["name"])
            else:
                said.append(
                    f"on {devices} devices of {place['name']}: {_gain(top)}, sharing {top['axis'] or 'the work'}"
                )
    lost = f"on {devices} devices of {' and '.join(none)} nothing pays: take fewer steps" if none else ""
    text = "; ".join([*said, *([lost] if lost else [])])
    return f"{text[:1].upper()}{text[1:]}."
