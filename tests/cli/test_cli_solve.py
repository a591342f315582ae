from __future__ import annotations

import json
from pathlib import Path

import pytest

from abreast.core import Ledger

SMALL = ("--width", 4, "--inputs", 3, "--steps", 24, "--batch", 2)
COMPARE = ("compare", "solve", *SMALL)
OWN = """
import torch
from abreast.solve import CellSequence, Recurrence

def chain():
    return Recurrence(lambda i, x: 0.5 * torch.tanh(x) + 1, torch.zeros(1, 2), 16)

made = CellSequence(torch.nn.RNNCell(2, 3), torch.zeros(9, 1, 2))
cell = torch.nn.GRUCell(2, 3)
number = 3

def broken():
    raise RuntimeError("no data\\nhere")
"""


def test_table_and_files(cli, tmp_path: Path) -> None:
    result = cli(*COMPARE)
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("Loop", "DEER", "QuasiDEER", "Jacobi"))
    assert "times shorter" in result.stdout and result.stdout.rstrip().endswith(".")
    saved = json.loads((tmp_path / "out" / "compare-solve.json").read_text())
    assert saved["schema"] == "abreast.solve" and saved["problems"][0]["cost"]["operations"] > 1
    assert Ledger.from_json(json.dumps(saved["rows"][0]["ledger"])).span == 24
    assert (tmp_path / "out" / "compare-solve.html").read_text().startswith("<!doctype html>")


def test_json(cli) -> None:
    args = "--cell", "lstm", "--dtype", "float64", "--gain", 1.5, "--tol", 0, "--window", 8, "--seed", 3, "--json"
    saved = json.loads(cli(*COMPARE, *args, "--methods", "deer, picard,deer").stdout)
    assert [row["method"].partition("(")[0] for row in saved["rows"]] == ["Loop", "DEER", "Picard"]
    assert all(row["kept"] for row in saved["rows"][1:]) and saved["dtype"] == "float64"
    assert saved["methods"][1]["settings"]["window"] == 8 and saved["problems"][0]["state"] == [8]
    assert all("ledger" not in row for row in saved["rows"])


def test_gradients_and_ranks(cli) -> None:
    saved = json.loads(cli(*COMPARE, "--dtype", "float64", "--methods", "deer", "--grad", "--json").stdout)
    assert "gradient" not in saved["rows"][0]["columns"] and saved["rows"][1]["columns"]["gradient"] < 1e-6
    saved = json.loads(cli(*COMPARE, "--methods", "deer", "--workers", 3, "--json").stdout)
    assert saved["workers"] == 3 and saved["rows"][1]["bytes"] > 0 and saved["rows"][1]["kept"]


def test_own_recurrences(cli, refused, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)

    def asked(name: str) -> tuple[object, ...]:
        return "compare", "solve", "--methods", "deer", "--grad", "--module", f"mine.py:{name}"

    for name, steps in (("chain", 16), ("made", 9)):
        assert json.loads(cli(*asked(name), "--json").stdout)["problems"][0]["steps"] == steps
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    assert "is a GRUCell" in refused(*asked("cell")) and "is a int" in refused(*asked("number"))
    assert "RuntimeError: no data here" in refused(*asked("broken"))
    assert "nothing called" in refused(*asked("other"))
    assert "no file" in refused("compare", "solve", "--module", "yours.py:x")
    assert "FILE.py:NAME" in refused("compare", "solve", "--module", "mine.py")
    (tmp_path / "bad.py").write_text("import nothing_of_that_name")
    assert "ModuleNotFoundError" in refused("compare", "solve", "--module", "bad.py:x")


def test_report(cli, tmp_path: Path) -> None:
    cli(*COMPARE, "--methods", "deer")
    for machine in ([], ["--machine", "A100 80GB"]):
        result = cli("report", "out/compare-solve.json", "--html", "p.html", "--trace", "t.json", *machine)
        assert result.exit_code == 0 and "DEER" in result.stdout, result.output
        events = [e for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
        loop = sum(e["dur"] for e in events if e["pid"] == 1)
        assert loop > 0
    assert loop >= 24 * 5  # microseconds


def test_bad_settings(refused, tmp_path: Path) -> None:
    def asked(*args: object) -> str:
        return refused("compare", "solve", *args)

    assert "gru" in asked("--cell", "gry")
    assert "silero" in asked("--real", "sillero")
    assert "two recurrences" in asked("--cell", "gru", "--real", "g2p")
    assert "--width" in asked("--module", "x.py:y", "--width", 3)
    assert "--gain" in asked("--real", "g2p", "--gain", 2) and "--gain" in asked("--gain", -1)
    assert "float64" in asked("--dtype", "int8")
    assert "quasi-deer" in asked("--methods", "quasi-der") and "names none" in asked("--methods", ",")
    assert "--tol" in asked("--tol", -1) and "--tol" in asked("--tol", "nan")
    assert "below" in asked("--tol", 1e-9)
    assert "--steps" in asked("--steps", 0) and "--window" in asked("--window", 0)
    assert "--workers" in asked("--grad", "--workers", 2)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in asked("--out", "file/folder")


def test_too_much_memory(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abreast.solve.diagnosis.memory", lambda: 2000.0)
    said = refused(*COMPARE, "--methods", "deer")
    assert "--window" in said and "GB of Jacobians" in said


def test_ctrl_c(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from abreast.solve.jacobi import Jacobi

    def interrupted(self: object, *args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("abreast.cli.solve._warm", lambda *args: None)
    monkeypatch.setattr(Jacobi, "run", interrupted)
    result = cli(*COMPARE, "--methods", "deer,jacobi")
    assert result.exit_code == 130 and "interrupted" in result.stdout
    assert json.loads((tmp_path / "out" / "compare-solve.json").read_text())["interrupted"] is True


def test_advice(cli, refused) -> None:
    result = cli("advise", "solve", "--width", 4, "--inputs", 3, "--steps", 64, "--batch", 2)
    assert result.exit_code == 0, result.output
    assert "pays" in result.stdout and "states at a time" in result.stdout and "A100 80GB" in result.stdout
    assert "would be up to" in result.stdout
    args = "advise", "solve", "--cell", "rnn", "--gain", 6, "--steps", 64, "--machine", "A100 80GB", "--json"
    advice = json.loads(cli(*args).stdout)
    assert advice["schema"] == "abreast.advice" and advice["method"] is None and advice["machines"] == []
    assert advice["verdict"].startswith("Inherently serial") and advice["advice"].startswith("Keep the loop")
    assert {row["name"] for row in advice["memory"]} == {"Dense", "Diagonal"}
    assert "A100" in refused("advise", "solve", "--machine", "A100 80 GB")
    assert "gru" in refused("advise", "solve", "--cell", "gry")


def test_real_recurrences(cli) -> None:
    from abreast.core import AbreastError
    from abreast.zoo import fetch

    try:
        fetch("silero-vad"), fetch("speech")
    except AbreastError as error:
        pytest.skip(str(error))
    saved = json.loads(
        cli("compare", "solve", "--real", "silero", "--steps", 24, "--methods", "jacobi", "--json").stdout
    )
    assert saved["problems"][0]["steps"] == 24 and saved["rows"][1]["kept"]
