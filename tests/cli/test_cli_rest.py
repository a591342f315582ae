"""demo, report, calibrate, zoo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from abreast.cli import inputs
from abreast.core import AbreastError
from abreast.decode.lineup import SHIPPED
from abreast.workers import World

SAVED = "out/compare-decode.json"


@pytest.fixture
def saved(cli, folder: Path, tmp_path: Path) -> Path:
    cli("compare", "decode", "--model", folder, "--prompt", "def", "--max-new-tokens", 8, "--methods", "prompt-lookup")
    return tmp_path / SAVED


@pytest.fixture
def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The tiny model under the names of the demo's models; those in the set are missing."""
    missing: set[str] = set()

    def load(name: str, dtype: str | None, device: str):
        from abreast.zoo.models import load

        if name in missing:
            raise AbreastError(f"{name} is [not] here.")
        return load(folder, dtype, device)

    prompts = [inputs.Asked("one", "chat", "def f(x):"), inputs.Asked("two", "code", "return")]
    monkeypatch.setattr(inputs, "load_model", load)
    monkeypatch.setattr(inputs, "default_prompts", lambda *args: prompts)
    # The shipped heads are made for the real models.
    monkeypatch.setattr("abreast.decode.lineup.available", lambda name, model: name not in SHIPPED)
    return missing


def test_demo(cli, stand_ins: set[str], tmp_path: Path) -> None:
    result = cli("demo", "--max-new-tokens", 8)
    assert result.exit_code == 0, result.output
    assert "the demo runs in" in result.stderr and "demo.html" in result.stderr
    both = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert both["schema"] == "abreast.demo" and [one["model"] for one in both["comparisons"]] == ["smollm2", "code"]
    assert all(one["curve"] for one in both["comparisons"][:1])


def test_demo_with_what_is_there(cli, refused, stand_ins: set[str]) -> None:
    stand_ins.add("smollm2")
    result = cli("demo", "--json")
    assert "smollm2 is [not] here." in result.stderr
    assert [one["model"] for one in json.loads(result.stdout)["comparisons"]] == ["code"]
    stand_ins.add("code")
    assert "no model" in cli("demo").stderr


def test_report(cli, saved: Path, tmp_path: Path) -> None:
    result = cli("report", saved, "--html", "page.html", "--trace", "trace.json")
    assert result.exit_code == 0 and "PromptLookup" in result.stdout
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["ph"] for event in events} >= {"M", "X"}
    cli("report", saved, "--trace", "edge.json", "--machine", "edge board")
    assert json.loads((tmp_path / "edge.json").read_text()) != events


def test_report_of_a_ledger(cli, refused, tmp_path: Path) -> None:
    world = World()
    world.lane().add("f", 3)
    (tmp_path / "ledger.json").write_text(world.ledger.to_json())
    assert "work 3, span 1" in cli("report", "ledger.json").stdout
    result = cli("report", "ledger.json", "--trace", "t.json")
    assert result.exit_code == 2 and "--machine" in result.stderr
    assert cli("report", "ledger.json", "--trace", "t.json", "--machine", "edge board").exit_code == 0


def test_report_refuses(refused, saved: Path, tmp_path: Path) -> None:
    assert "cannot be read" in refused("report", "nowhere.json")
    (tmp_path / "text").write_text("{")
    assert "not JSON" in refused("report", "text")
    (tmp_path / "other").write_text('{"schema": "other"}')
    assert "no saved run" in refused("report", "other")
    facts = json.loads(saved.read_text())
    (tmp_path / "new").write_text(json.dumps(facts | {"version": 99}))
    assert "version 99" in refused("report", "new")
    for row in facts["rows"]:
        del row["ledger"]
    (tmp_path / "printed").write_text(json.dumps(facts))
    assert "no ledgers" in refused("report", "printed")


def test_calibrate(cli, folder: Path, tmp_path: Path) -> None:
    args = "calibrate", "--model", folder, "--rows", "1,4", "--repeats", 1, "--context", 8
    result = cli(*args)
    assert result.exit_code == 0 and "faster type" in result.stdout
    facts = json.loads(cli(*args, "--dtype", "float32", "--json").stdout)
    assert [rows for rows, _ in facts["curves"]["float32"]] == [1, 4]
    saved = json.loads(cli("compare", "decode", "--model", folder, "--dtype", "float32", "--prompt", "x", "--json",
                           "--max-new-tokens", 4, "--methods", "prompt-lookup").stdout)  # fmt: skip
    assert saved["curve"] == facts["curves"]["float32"]


def test_calibrate_refuses(refused, folder: Path) -> None:
    assert "--rows" in refused("calibrate", "--model", folder, "--rows", "1,x")
    assert "--rows" in refused("calibrate", "--model", folder, "--rows", "0")
    assert "context of 256" in refused("calibrate", "--model", folder, "--context", 250)
    assert "--dtype" in refused("calibrate", "--model", folder, "--dtype", ",")


def test_zoo(cli, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from abreast.cli import zoo

    assert "smollm2" in cli("zoo", "list").stdout
    assert "smollm2" in refused("zoo", "get", "smolm2")
    monkeypatch.setattr(zoo, "states", lambda: {"code": "ready", "smollm2": "gone"})
    result = cli("zoo", "check")
    assert result.exit_code == 2 and "code: ready" in result.stdout and "1 of 2" in result.stderr
