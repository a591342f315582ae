from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from abreast.cli import inputs
from abreast.cli.race import Bar
from abreast.core import Ledger
from tests.cli import tiny

FEW = ("--max-new-tokens", 12, "--methods", "prompt-lookup,jacobi-decoding")
COLUMNS = {
    "method", "guarantee", "kept", "tokens", "calls", "rows", "span", "work", "seconds", "tokens_per_second", "text",
}  # fmt: skip


def test_table_and_files(cli, folder: Path, tmp_path: Path) -> None:
    result = cli("compare", "decode", "--model", folder, "--prompt", "def f(x):", "--prompt", "abc", *FEW)
    assert result.exit_code == 0, result.output
    assert "PromptLookup" in result.stdout and "Jacobi" in result.stdout
    assert result.stdout.rstrip().endswith("here.")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare-decode.html", "compare-decode.json"]
    saved = json.loads((tmp_path / "out" / "compare-decode.json").read_text())
    assert {row["problem"] for row in saved["rows"]} == {0, 1}
    assert Ledger.from_json(json.dumps(saved["rows"][0]["ledger"])).calls("prefill") == 1


def test_json_schema(cli, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "one two", "kind": "chat"}\n\n{"prompt": "three"}\n')
    (tmp_path / "p.txt").write_text("a file")
    result = cli("compare", "decode", "--model", folder, "--prompts", "p.jsonl", "--prompt-file", "p.txt", "--json",
                 "--no-chat", "--temperature", 0.8, "--top-k", 20, "--top-p", 0.9, "--repetition-penalty", 1.1,
                 "--seed", 3, "--dtype", "float64", "--out", "elsewhere", *FEW)  # fmt: skip
    saved = json.loads(result.stdout)
    assert (saved["schema"], saved["version"], saved["dtype"]) == ("abreast.decode", 1, "float64")
    assert [p["kind"] for p in saved["problems"]] == ["file", "chat", "text"]
    assert len(saved["rows"]) == 3 * 3 and all(row.keys() >= COLUMNS for row in saved["rows"])
    assert all("ledger" not in row for row in saved["rows"])
    assert saved["sampling"] == {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1}
    assert all(row["kept"] in (True, None) for row in saved["rows"])
    assert (tmp_path / "elsewhere" / "compare-decode.json").exists()


def test_live(cli, folder: Path) -> None:
    result = cli("compare", "decode", "--model", folder, "--prompt", "def f(x):", "--live", *FEW)
    assert result.exit_code == 0 and "PromptLookup" in result.stderr


def test_ctrl_c_leaves_what_is_finished(cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def run(self: Bar, run: object) -> None:
        ended.append(run)
        if len(ended) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "run", run)
    result = cli("compare", "decode", "--model", folder, "--prompt", "def f(x):", *FEW)
    assert result.exit_code == 130 and "interrupted" in result.stdout
    assert json.loads((tmp_path / "out" / "compare-decode.json").read_text())["interrupted"] is True


def test_ctrl_c_at_once(cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Bar, *args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "step", step)
    result = cli("compare", "decode", "--model", folder, "--prompt", "def f(x):", *FEW)
    assert result.exit_code == 130 and "before anything" in result.stderr
    assert not list((tmp_path / "out").iterdir())


def test_bad_models(refused, folder: Path, tmp_path: Path) -> None:
    def model(*args: object) -> str:
        return refused("compare", "decode", "--prompt", "x", "--model", *args)

    assert "no folder" in model(tmp_path / "nowhere")
    assert "smollm2" in model("smolm2")
    assert "config.json" in model(folder / "config.json")
    assert "int7" in model(folder, "--dtype", "int7")
    assert "warp" in model(folder, "--device", "warp")
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "truncated" in model(broken)
    weights.unlink()
    assert "no weights" in model(broken)


def test_no_network(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_hub_answers", lambda: False)
    assert "cannot be reached" in refused("compare", "decode", "--model", "no/such", "--prompt", "x")


def test_bad_prompts(refused, folder: Path, tmp_path: Path) -> None:
    def asked(*args: object) -> str:
        return refused("compare", "decode", "--model", folder, *args)

    assert "empty" in asked("--prompt", " ")
    assert "cannot be read" in asked("--prompt-file", "nowhere.txt")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert "UTF-8" in asked("--prompt-file", "latin")
    for line in ('{"text": "x"}', "[1]", "no json", '{"prompt": 3}'):
        (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n' + line)
        assert "line 2" in asked("--prompts", "p.jsonl")
    (tmp_path / "p.jsonl").write_text("\n")
    assert "no prompts" in asked("--prompts", "p.jsonl")
    assert "context of 256" in asked("--prompt", "x " * 400)
    assert "context of 256" in asked("--prompt", "x", "--max-new-tokens", 4000)


def test_bad_settings(refused, folder: Path, tmp_path: Path) -> None:
    def asked(*args: object) -> str:
        return refused("compare", "decode", "--model", folder, "--prompt", "x", *args)

    assert "lookahead" in asked("--methods", "jacobi-decoding,lookahed")
    assert "names none" in asked("--methods", " , ")
    assert "medusa" in asked("--methods", "medusa")
    assert "temperature" in asked("--temperature", -1)
    assert "top_p" in asked("--top-p", 0)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in asked("--out", "file/folder")


def test_a_tokenizer_of_another_model(refused, tmp_path: Path) -> None:
    other = tiny.save(tmp_path / "other", vocab=100)
    assert "vocabulary ends at 99" in refused("compare", "decode", "--model", other, "--prompt", "def return")
