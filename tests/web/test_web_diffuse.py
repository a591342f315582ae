"""The page and the last line of the diffuse room."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from abreast.web import costs, drawings
from abreast.web.page import page
from abreast.web.png import data_uri, sheet
from tests.web.browser import BROWSER, drive, read
from tests.web.test_web_solve import cost


def decoded(uri: str) -> np.ndarray:
    """The bytes of a PNG whose rows are not filtered."""
    data = base64.b64decode(uri.partition(",")[2])
    wide, tall, _, kind = struct.unpack(">IIBB", data[16:26])
    at, length = data.index(b"IDAT") + 4, struct.unpack(">I", data[data.index(b"IDAT") - 4 : data.index(b"IDAT")])[0]
    raw = np.frombuffer(zlib.decompress(data[at : at + length]), np.uint8).reshape(tall, -1)
    assert not raw[:, 0].any()
    return raw[:, 1:].reshape((tall, wide, 3) if kind == 2 else (tall, wide))


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_pictures_survive(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(decoded(data_uri(pixels)), pixels)


def test_sheets() -> None:
    grey = np.stack([np.zeros((1, 2, 2)), np.ones((1, 2, 2))])
    assert sheet(grey, 0, 1).tolist() == [[0, 0, 255, 255]] * 2
    assert sheet(np.full((9, 3, 2, 2), np.nan), 0, 1).shape == (2, 16, 3)
    assert sheet(np.zeros((2, 12, 1, 4, 4)), -1, 1).shape == (8, 32)


@pytest.fixture(scope="module")
def compared() -> dict[str, Any]:
    """An untrained transformer on two ranks, with controls."""
    from abreast import diffuse
    from abreast.cli.diffuse import held
    from abreast.cli.pipelines import Described
    from abreast.diffuse.lineup import method
    from tests.diffuse import tiny

    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    problem = diffuse.Sampling(tiny.unet(), tiny.scheduler("DDIMScheduler"), noise, steps=6)
    described = Described(problem, "tiny", "DDIMScheduler", "DDIMScheduler")
    methods = [method("parastep", 2), method("distrifusion", 2)]
    found = held(described, methods, 2, Console(quiet=True))
    return json.loads(json.dumps(found, allow_nan=False))


def test_drawings(compared: dict[str, Any]) -> None:
    data = drawings.drawn(compared)
    assert len(data["pictures"]) == len(compared["methods"]) and len(data["curves"]) == 1
    near = {point["kind"] for point in data["near"]}
    assert None in near and "fewer steps, even" in near and "fewer steps, quadratic, dpm-solver++" in near
    strips = next(
        s for s in data["schedules"] if compared["methods"][s["method"]]["settings"]["class"] == "DisplacedPatch"
    )
    assert {"rank 0", "rank 1"} <= set(strips["lanes"]) and any(block[3] for block in strips["blocks"])
    for facts in data["pictures"]:
        spans = [span for span, *_ in facts["images"]]
        assert spans == sorted(spans)
    assert decoded(data["pictures"][0]["images"][-1][2]).shape == (8, 16)


def test_the_last_line_is_honest() -> None:
    reference = cost("Sequential", reference=True, kept="reference", span=50.0, distance=None)
    facts = {"guarantee": "measured", "kept": "differs"}
    fewer = cost("FewerSteps(span=10)", kind="FewerSteps", span=10.0, distance=0.04, control_of="A", **facts)
    method = cost("A", span=10.0, shorter=5.0, distance=0.01, faster=0.5, **facts)
    assert "Nothing was run" in costs.diffuse_verdict([reference])
    assert costs.diffuse_verdict([reference, fewer]).endswith("and fewer steps.")
    said = costs.diffuse_verdict([reference, method, fewer])
    assert said.startswith("A: span 10 of 50 (5.0 times shorter), distance 0.01 where as many plain steps are 0.04 off")
    assert "2.0 times the reference's seconds" in said
    worse = cost("A", span=10.0, shorter=5.0, distance=0.05, **facts)
    assert costs.diffuse_verdict([reference, worse, fewer]).startswith("Nothing run here beats")
    bounded = cost("A", span=10.0, shorter=5.0, distance=0.05, guarantee="bounded (0.1)", kept="within bound")
    assert costs.diffuse_verdict([reference, bounded, fewer]).startswith("Nothing run here beats")
    exact = cost("A", span=10.0, shorter=5.0, distance=0.0, faster=2.0, kept="identical")
    assert "identical" in costs.diffuse_verdict([reference, exact, fewer])
    assert "0.50 of the reference's seconds" in costs.diffuse_verdict([reference, exact, fewer])


DRIVE = """
const panel = document.getElementById("model-0"), pictures = panel.querySelector(".pictures");
const pressed = (key) => new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
const now = () => pictures.querySelector(".now").textContent;
const states = () => [...pictures.querySelectorAll(".cards li > small")].map((node) => node.textContent);
seen.cards = pictures.querySelectorAll(".cards li").length;
seen.figures = panel.querySelectorAll("figure svg[role=img]").length;
seen.ended = states().every((state) => state.startsWith("the answer"));
seen.gaps = [...pictures.querySelectorAll("canvas")].filter((canvas) => !canvas.hidden).length;
document.body.dispatchEvent(pressed("ArrowLeft"));
seen.moved = now();
const seek = pictures.querySelector(".seek");
seek.value = 0;
seek.dispatchEvent(new Event("input"));
seen.begin = states();
pictures.querySelector(".rivals").click();
seen.alone = [...pictures.querySelectorAll(".cards li")].filter((card) => card.offsetParent).length;
const machine = panel.querySelector(".machine"), time = panel.querySelector(".schedule .seek");
machine.value = "8 x H100 on NVLink";
machine.dispatchEvent(new Event("change"));
time.focus();
time.dispatchEvent(pressed("ArrowLeft"));
seen.schedule = panel.querySelector(".schedule .now").textContent;
seen.narrow = document.documentElement.scrollWidth <= innerWidth;
"""


def test_the_page_is_whole(compared: dict[str, Any]) -> None:
    html = page([compared])
    reader = read(html)
    assert reader.loaded == ["data:,"] and len(set(reader.ids)) == len(reader.ids)
    assert "FewerSteps: 6 steps, quadratic" in html


@pytest.mark.skipif(not BROWSER, reason="no chromium")
def test_the_page_lives(compared: dict[str, Any], tmp_path: Path) -> None:
    seen = drive(page([compared]), DRIVE, tmp_path)
    assert seen["cards"] == len(compared["methods"]) and seen["figures"] == 3
    assert seen["ended"] and seen["gaps"] == seen["cards"] - 1 and seen["moved"].startswith("after 5")
    assert all(state.startswith("its answer comes") for state in seen["begin"])
    assert seen["alone"] == 3 and seen["narrow"] and "ms: " in seen["schedule"]
