"""What is saved, and what is read off it."""

from __future__ import annotations

import pytest

from abreast.core import AbreastError, Event, Kind, Ledger
from abreast.web import figures
from abreast.web.race import differs, steps
from abreast.web.record import pieces
from abreast.web.totals import Total, best, verdict
from abreast.web.trace import trace
from tests.cli import tiny


@pytest.mark.parametrize("text", ["def f(x):\n    return x\n", "naïve ☕ 日本", "", "\n\n\n", "🙂"])
def test_pieces_add_up(text: str) -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer(text)["input_ids"]
    found = pieces(tokenizer, ids)
    assert "".join(found) == text and len(found) == len(ids)
    assert all("\ufffd" not in piece for piece in found)


def test_steps_hold_every_token() -> None:
    letters = list("abcdef")
    assert steps(letters, [1, 0, 3, 2]) == [[0, 1, "a"], [2, 3, "bcd"], [3, 2, "ef"]]
    assert steps(letters, [1, 9]) == [[0, 1, "a"], [1, 5, "bcdef"]]
    assert steps(letters, [1, 2]) == [[0, 1, "a"], [1, 5, "bcdef"]]
    assert steps([], [1]) == []


def test_where_texts_part() -> None:
    assert differs([1, 2], [1, 2]) is None
    assert differs([1, 3, 2], [1, 2, 2]) == 1
    assert differs([1], [1, 2]) == 1


def test_survival_counts_drafts_that_are_deep_enough() -> None:
    assert figures.survival([(2, 2), (2, 0), (1, 1)]) == [[1, 2 / 3, 3], [2, 1 / 2, 2]]


def test_the_picture_of_a_fixed_point() -> None:
    notes = [{"guess": [5, 6, 9], "at": 11}, {"drafted": 1}, {"guess": [6, 7, 8], "at": 12}]
    assert figures.picture(notes, [4, 5, 6, 7], start=10) == ["fggw", "ffrg"]


def ledger() -> Ledger:
    made = Ledger()
    made.kinds["f"] = Kind(flops=1e9)
    first = made.lane("a").add("f", 2, start=0.0, end=1.0)
    made.note(first, committed=2, guess=[1])
    made.lane("b").add("f", 1, after=[first], start=1.0, end=1.5)
    return made


def test_trace_has_slices_and_arrows() -> None:
    events = trace({"run": ledger()})["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert [(event["ts"], event["dur"]) for event in slices] == [(0.0, 1e6), (1e6, 5e5)]
    assert slices[0]["args"] == {"event": 0, "size": 2, "span": 1.0, "committed": 2}
    start, finish = (event for event in events if event["ph"] in "sf")
    assert start["id"] == finish["id"] and start["tid"] != finish["tid"]


def test_trace_needs_times() -> None:
    made = Ledger()
    made.lane("a").add("f")
    with pytest.raises(AbreastError, match="--machine"):
        trace({"run": made})
    assert isinstance(made.events[0], Event)


def total(method: str, guarantee: str, kept: str, ratio: float, reference: bool = False) -> Total:
    return Total(method, guarantee, None, reference, kept, 10, 10, 10, 10.0, 10.0, 1.0, ratio)


def test_the_last_line_is_honest() -> None:
    rows = [total("Autoregressive", "identical", "reference", 1.0, reference=True)]
    assert "Nothing was run" in verdict(rows)
    rows += [total("A(n=1)", "identical", "identical", 1.02), total("B", "measured", "1 of 2 differ", 3.0)]
    rows += [total("C", "identical", "broken", 2.0)]
    assert verdict(rows) == "Nothing beats one token at a time here." and best(rows) is None
    rows += [total("A(n=2)", "identical", "near tie (1)", 1.5)]
    assert verdict(rows).startswith("A(n=2) writes the same text, near ties aside, 1.50 times")
