"""A comparison as a race: for every problem one lane a method, with the times of its calls by several clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from abreast.core.ledger import Ledger
from abreast.machine import MACHINES, Machine, replay

HERE = "here"


def clocks(saved: dict[str, Any]) -> list[dict[str, str]]:
    """The clocks that every run of a comparison can be shown by: this machine's own, then described machines."""
    cpu = saved["machine"]["cpu"]
    threads = saved["machine"]["threads"]
    here = {"id": HERE, "name": "this machine, measured", "source": f"{cpu}, threads: {threads}"}
    if any(row["ledger"].get("clocked") for row in saved["rows"]):
        return [here]
    return [here, *({"id": m.name, "name": m.name, "source": m.source} for m in machines().values())]


def machines() -> dict[str, Machine]:
    """Described machines, one of those whose devices are the same: a run on one device cannot tell them apart."""
    found: dict[tuple[float, float], Machine] = {}
    for machine in MACHINES.values():
        found.setdefault((machine.flops, machine.bandwidth), machine)
    return {machine.name: machine for machine in found.values()}


def lanes(saved: dict[str, Any], ledgers: Mapping[int, Ledger]) -> list[list[dict[str, Any]]]:
    """For each problem its lanes, in the order of the methods. ledgers: by index of the row."""
    known = machines() if len(clocks(saved)) > 1 else {}
    order = [method["method"] for method in saved["methods"]]
    reference = {row["problem"]: row["ids"] for row in saved["rows"] if row["method"] == order[0]}
    races: list[list[dict[str, Any]]] = [[] for _ in saved["problems"]]
    for i, row in enumerate(saved["rows"]):
        races[row["problem"]].append(lane(row, ledgers[i], known, reference[row["problem"]], order))
    return races


def lane(
    row: dict[str, Any], ledger: Ledger, known: Mapping[str, Machine], reference: Sequence[int], order: Sequence[str]
) -> dict[str, Any]:
    """One method on one problem. events: columns of what was done; steps: the text by the event that committed it."""
    shown = [i for i, event in enumerate(ledger.events) if event.kind != "end"]
    kinds = list(dict.fromkeys(ledger.events[i].kind for i in shown))
    notes = [ledger.notes.get(i, {}) for i in shown]
    times = {HERE: ledger} | {name: replay(ledger, machine) for name, machine in known.items()}
    return {
        "method": order.index(row["method"]),
        "outcome": row["outcome"],
        "kinds": kinds,
        "events": {
            "kind": [kinds.index(ledger.events[i].kind) for i in shown],
            "rows": [int(ledger.events[i].size) for i in shown],
            "drafted": [note.get("drafted", 0) for note in notes],
        },
        "times": {
            name: [[_short(timed.events[i].start) for i in shown], [_short(timed.events[i].end) for i in shown]]
            for name, timed in times.items()
        },
        "steps": steps(row["pieces"], [note.get("committed", 0) for note in notes]),
        "differs": differs(row["ids"], reference),
    }


def steps(pieces: Sequence[str], committed: Sequence[int]) -> list[list[Any]]:
    """[event, tokens, text] of every event that committed something; what no event claims goes to the last."""
    found: list[list[Any]] = []
    at = 0
    for event, count in enumerate(committed):
        taken = pieces[at : at + count]
        if taken:
            found.append([event, len(taken), "".join(taken)])
            at += len(taken)
    if at < len(pieces) and found:
        found[-1][1] += len(pieces) - at
        found[-1][2] += "".join(pieces[at:])
    return found


def differs(ids: Sequence[int], reference: Sequence[int]) -> int | None:
    """The token from which on two answers differ; None where they do not."""
    if list(ids) == list(reference):
        return None
    return next((i for i, (a, b) in enumerate(zip(ids, reference)) if a != b), min(len(ids), len(reference)))


def _short(seconds: float) -> float:
    """As many digits as a screen can show."""
    return float(f"{seconds:.6g}")
