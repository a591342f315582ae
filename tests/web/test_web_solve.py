"""The page and the last line of the solve room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from abreast.web import costs, drawings
from abreast.web.page import page
from abreast.web.saved import ledger_of
from tests.web.browser import BROWSER, drive, read

NAMES = ("deer", "quasi-deer", "jacobi")


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    """A GRU of 40 steps on two ranks."""
    from abreast.cli.recurrences import Asked, build
    from abreast.cli.solve import Options, held
    from abreast.solve.lineup import method

    described = build(Asked(width=4, inputs=3, steps=40, batch=2))
    found = held(described, [method(name) for name in NAMES], Options(workers=2), Console(quiet=True))
    return json.loads(json.dumps(found, allow_nan=False))


def test_rows(compared: dict[str, Any]) -> None:
    loop, deer, *_ = compared["rows"]
    assert (loop["span"], loop["outcome"], loop["trace"]) == (40, "reference", [])
    assert deer["kept"] is True and deer["bytes"] > 0
    prefixes = [entry["prefix"] for entry in deer["trace"]]
    assert prefixes == sorted(set(prefixes)) and prefixes[-1] == 40 and deer["columns"]["sweeps"] == len(prefixes)
    assert all("change" in entry for entry in deer["trace"])
    assert all(ledger_of(row).timed for row in compared["rows"])


def test_schedules_hold_every_event_and_machine(compared: dict[str, Any]) -> None:
    data = drawings.drawn(compared)
    names = [machine["id"] for machine in data["machines"]]
    assert names[0] == "here" and len(names) > 3
    for schedule, row in zip(data["schedules"], compared["rows"]):
        assert sum(block[4] for block in schedule["blocks"]) == sum(e.span > 0 for e in ledger_of(row).events)
        for starts, ends in (schedule["times"][name] for name in names):
            assert len(starts) == len(schedule["blocks"]) and all(s <= e for s, e in zip(starts, ends))
    loop, deer = (schedule["times"]["A100 80GB"][1] for schedule in data["schedules"][:2])
    assert max(deer) < max(loop) and max(loop) > 40 * 5e-6


def test_long_runs_are_thinned(compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawings, "MOST", 20)
    jacobi = drawings.drawn(compared)["schedules"][-1]
    whole = sum(event.span > 0 for event in ledger_of(compared["rows"][-1]).events)
    assert len(jacobi["blocks"]) <= 30 < whole == sum(block[4] for block in jacobi["blocks"])


def cost(method: str, **facts: Any) -> costs.Cost:
    plain = {
        "kind": method, "settings": {}, "guarantee": "identical", "control_of": None, "reference": False,
        "kept": "within rounding",
        "span": 100.0, "work": 100.0, "bytes": 0.0, "rounds": 0.0, "seconds": 1.0, "distance": 0.0, "columns": {},
        "quality": {}, "shorter": 1.0, "faster": 1.0,
    }  # fmt: skip
    return costs.Cost(method, **(plain | facts))


def test_the_last_line_is_honest() -> None:
    loop = cost("Loop", reference=True, kept="reference")
    assert "Nothing was run" in costs.solve_verdict([loop], 100)
    jacobi = cost("Jacobi", columns={"sweeps": 100}, faster=0.02)
    assert "deer" in costs.solve_verdict([loop, jacobi], 100)
    chaotic = cost("DEER", columns={"sweeps": 80}, span=80.0, shorter=1.25)
    assert costs.solve_verdict([loop, jacobi, chaotic], 100).startswith("Inherently serial: DEER needs 80 sweeps")
    quick = cost("DEER", columns={"sweeps": 5}, span=5.0, shorter=20.0, faster=0.25, work=1000.0)
    said = costs.solve_verdict([loop, jacobi, quick], 100)
    assert said.startswith("DEER: span 5 of 100 in 5 sweeps (20.0 times shorter)")
    assert "the loop is 4.0 times as fast" in said
    far = cost("DEER", columns={"sweeps": 5}, span=5.0, shorter=20.0, distance=1.5)
    assert "1.5 away" in costs.solve_verdict([loop, far], 100)
    broken = cost("DEER", columns={"sweeps": 5}, span=5.0, shorter=20.0, kept="broken")
    assert "did not keep" in costs.solve_verdict([loop, broken], 100)


DRIVE = """
const panel = document.getElementById("model-0"), schedule = panel.querySelector(".schedule");
const pressed = (key) => new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
const press = (key) => document.body.dispatchEvent(pressed(key));
const now = () => schedule.querySelector(".now").textContent;
seen.figures = panel.querySelectorAll("figure svg[role=img]").length;
seen.bands = schedule.querySelectorAll(".bands li").length;
seen.drawn = [...schedule.querySelectorAll(".bands svg")].every((svg) => svg.querySelector("path"));
seen.end = now();
press("ArrowLeft");
seen.back = now();
press("ArrowRight");
seen.again = now();
const machine = schedule.querySelector(".machine");
machine.value = "A100 80GB";
machine.dispatchEvent(new Event("change"));
seen.note = schedule.querySelector(".clock-note").textContent;
const scale = schedule.querySelector(".scale");
scale.value = "reference";
scale.dispatchEvent(new Event("change"));
const seek = schedule.querySelector(".seek");
seek.value = 1;
seek.dispatchEvent(new Event("input"));
seen.early = now();
seen.narrow = document.documentElement.scrollWidth <= innerWidth;
"""


def test_the_page_is_whole(compared: dict[str, Any]) -> None:
    html = page([compared])
    reader = read(html)
    assert reader.loaded == ["data:,"] and len(set(reader.ids)) == len(reader.ids)
    assert all(method["method"].partition("(")[0] in html for method in compared["methods"])


@pytest.mark.skipif(not BROWSER, reason="no chromium")
def test_the_page_lives(compared: dict[str, Any], tmp_path: Path) -> None:
    seen = drive(page([compared]), DRIVE, tmp_path)
    assert seen["figures"] == 2 and seen["bands"] == 4 and seen["drawn"] and seen["narrow"]
    assert seen["end"].endswith("all done") and seen["back"] != seen["end"] == seen["again"]
    assert "bounds" in seen["note"] and "Loop f of 1 row;" in seen["early"]
