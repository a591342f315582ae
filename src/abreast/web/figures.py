"""What the ledgers of a comparison say about why a method is fast: curves and a picture, as plain values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from abreast.core.ledger import Ledger
from abreast.web import race
from abreast.web.saved import ledger_of


def drawn(saved: dict[str, Any]) -> dict[str, Any]:
    """What the page's scripts draw of a comparison of decoding methods."""
    ledgers = {i: ledger_of(row) for i, row in enumerate(saved["rows"])}
    return {
        "clocks": race.clocks(saved),
        "races": race.lanes(saved, ledgers),
        "acceptance": acceptance(saved, ledgers),
        "cost": cost(saved, ledgers),
        "jacobi": jacobi(saved, ledgers),
    }


def static(saved: dict[str, Any]) -> dict[str, Any]:
    """What the page's template writes of one."""
    temperature = saved["sampling"]["temperature"]
    return {
        "said": f"temperature {temperature}" if temperature else "greedy",
        "clocks": race.clocks(saved),
        "jacobi": any("guess" in note for row in saved["rows"] for _, note in row["ledger"]["notes"]),
    }


def acceptance(saved: dict[str, Any], ledgers: Mapping[int, Ledger]) -> list[dict[str, Any]]:
    """For each method that drafts: the share of drafts of at least d tokens whose first d were accepted."""
    calls: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for i, row in enumerate(saved["rows"]):
        notes = (note for note in ledgers[i].notes.values() if note.get("drafted"))
        calls[row["method"]] += [(note.get("depth", note["drafted"]), note["accepted"]) for note in notes]
    order = [method["method"] for method in saved["methods"]]
    return [
        {"method": order.index(name), "points": survival(pairs)} for name, pairs in calls.items() if survival(pairs)
    ]


def survival(calls: Iterable[tuple[int, int]]) -> list[list[float]]:
    """[depth, share, drafts] from pairs (depth, accepted)."""
    pairs = list(calls)
    deepest = max((depth for depth, _ in pairs), default=0)
    points = []
    for d in range(1, deepest + 1):
        tried = [accepted for depth, accepted in pairs if depth >= d]
        points.append([d, sum(accepted >= d for accepted in tried) / len(tried), len(tried)])
    return points


def cost(saved: dict[str, Any], ledgers: Mapping[int, Ledger]) -> dict[str, Any]:
    """Seconds of a call of the model by its rows: means over the runs, and the calibrated curve where there is one."""
    seconds: defaultdict[int, list[float]] = defaultdict(list)
    for ledger in ledgers.values():
        for event in ledger.events:
            if event.kind == "target" and event.end == event.end:
                seconds[int(event.size)].append(event.end - event.start)
    means = [[rows, sum(took) / len(took), len(took)] for rows, took in sorted(seconds.items())]
    return {"means": means, "curve": saved["curve"] or []}


def jacobi(saved: dict[str, Any], ledgers: Mapping[int, Ledger]) -> list[dict[str, Any] | None]:
    """For each problem the picture of its fixed-point run: one line a call."""
    pictures: list[dict[str, Any] | None] = [None for _ in saved["problems"]]
    for i, row in enumerate(saved["rows"]):
        notes = [note for _, note in sorted(ledgers[i].notes.items())]
        if pictures[row["problem"]] is None and any("guess" in note for note in notes):
            start = saved["problems"][row["problem"]]["prompt_tokens"]
            pictures[row["problem"]] = {
                "method": row["method"],
                "lines": picture(notes, row["ids"], start),
                "tokens": len(row["ids"]),
            }
    return pictures


FINAL, RIGHT, FIRST, WRONG, UNKNOWN = "frgw."


def picture(notes: Sequence[Mapping[str, Any]], final: Sequence[int], start: int) -> list[str]:
    """One text a call with a guess, one letter a position: committed before (f), the guess is what the text will say
    for the first time (g) or again (r), a wrong guess (w), not guessed yet (.). start: position of the first token."""
    lines: list[str] = []
    known: set[int] = set()
    for note in notes:
        if "guess" not in note:
            continue
        at = note["at"] - start
        line = [FINAL] * min(at, len(final)) + [UNKNOWN] * max(len(final) - at, 0)
        for p, token in enumerate(note["guess"], at):
            if 0 <= p < len(final):
                right = token == final[p]
                line[p] = (RIGHT if p in known else FIRST) if right else WRONG
                known = known | {p} if right else known - {p}
        lines.append("".join(line))
    return lines
