"""The page: valid, self-contained, safe; and alive, where there is a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from abreast.web.page import embedded
from tests.web.browser import BROWSER, Reader, drive, read
from tests.web.conftest import PROMPT


@pytest.fixture(scope="module")
def reader(html: str) -> Reader:
    return read(html)


def test_it_is_whole_and_loads_nothing(html: str, reader: Reader) -> None:
    assert html.startswith("<!doctype html>") and reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert reader.loaded == ["data:,"]
    assert not re.search(r"@import|url\(\s*['\"]?http|fetch\(|XMLHttpRequest|import\(", html)
    assert len(reader.scripts) == 2


def test_the_table_stands_without_scripts(html: str, saved: list[dict[str, Any]]) -> None:
    for method in saved[0]["methods"]:
        assert method["method"].partition("(")[0] in html
    assert "times as fast" in html or "Nothing beats" in html


def test_texts_cannot_leave_their_element(html: str, reader: Reader) -> None:
    assert "alert(1)</script>" not in html
    data = json.loads(reader.scripts[0])
    assert data[0]["problems"][0]["prompt"] == PROMPT
    assert json.loads(embedded("</script><!--\u2028&")) == "</script><!--\u2028&"


def test_lanes_spell_the_answers(reader: Reader, saved: list[dict[str, Any]]) -> None:
    data = json.loads(reader.scripts[0])[0]
    assert data["clocks"][0]["id"] == "here" and len(data["clocks"]) > 3
    for problem, lanes in enumerate(data["races"]):
        rows = [row for row in saved[0]["rows"] if row["problem"] == problem]
        assert ["".join(step[2] for step in lane["steps"]) for lane in lanes] == [row["text"] for row in rows]
        for lane in lanes:
            for starts, ends in lane["times"].values():
                assert all(start <= end for start, end in zip(starts, ends)) and sorted(ends) == ends


def test_figures(reader: Reader) -> None:
    data = json.loads(reader.scripts[0])[0]
    assert {data["methods"][curve["method"]]["name"] for curve in data["acceptance"]} >= {"Jacobi"}
    assert data["cost"]["means"] and all(seconds > 0 for _, seconds, _ in data["cost"]["means"])
    for picture in data["jacobi"]:
        assert all(len(line) == picture["tokens"] and set(line) <= set("frgw.") for line in picture["lines"])


DRIVE = """
const pressed = (key) => new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
const press = (key) => document.body.dispatchEvent(pressed(key));
const shown = () => [...document.querySelectorAll("#model-0 .text span")].filter((span) => !span.hidden).length;
const race = document.querySelector("#model-0 .race");
seen.whole = shown();
const seek = race.querySelector(".seek");
seek.value = 0;
seek.dispatchEvent(new Event("input"));
seen.none = shown();
press("ArrowRight");
seen.first = shown();
press("ArrowLeft");
seen.back = shown();
press(" ");
seen.playing = race.querySelector(".play").textContent.includes("Pause");
press(" ");
seen.paused = race.querySelector(".play").textContent.includes("Play");
const clock = race.querySelector(".clock");
clock.selectedIndex = clock.options.length - 1;
clock.dispatchEvent(new Event("change"));
seen.note = race.querySelector(".clock-note").textContent;
seen.clocked = shown();
document.getElementById("tab-1").click();
seen.second = !document.getElementById("model-1").hidden && document.getElementById("model-0").hidden;
seen.figures = document.querySelectorAll("#model-1 figure svg[role=img]").length;
seen.picture = document.querySelector("#model-1 .jacobi canvas").width > 0;
seen.wide = document.documentElement.scrollWidth <= innerWidth;
"""


@pytest.mark.skipif(not BROWSER, reason="no chromium")
def test_it_lives(html: str, tmp_path: Path) -> None:
    seen = drive(html, DRIVE, tmp_path)
    assert seen["none"] == seen["back"] == 0 < seen["first"] < seen["whole"] == seen["clocked"]
    assert seen["playing"] and seen["paused"] and seen["second"] and seen["picture"] and seen["wide"]
    assert seen["figures"] == 2 and "bounds" in seen["note"]
