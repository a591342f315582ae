from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from abreast.cli import inputs
from abreast.cli.advise_diffuse import affordable
from abreast.core import Ledger

FEW = ("--steps", 6, "--batch", 2, "--methods", "parastep,paradigms")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained UNet as an ordinary pipeline in a folder."""
    from diffusers import DDIMPipeline, DDIMScheduler

    from tests.diffuse import tiny

    folder = tmp_path_factory.mktemp("pipelines") / "tiny-unet"
    DDIMPipeline(tiny.unet(), DDIMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def compare(cli, pipeline: Path) -> Callable:
    return lambda *args: cli("compare", "diffuse", "--pipeline", pipeline, *args)


def test_table_and_files(compare, cli, tmp_path: Path) -> None:
    result = compare(*FEW)
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("Sequential", "ParaStep", "ParaDiGMS", "FewerSteps"))
    assert result.stdout.rstrip().endswith(".")
    saved = json.loads((tmp_path / "out" / "compare-diffuse.json").read_text())
    assert saved["schema"] == "abreast.diffuse" and saved["problems"][0]["steps"] == 6
    first = saved["rows"][0]
    assert [index for _, index, _ in first["images"]] == [1, 2, 3, 4, 5, 6]
    assert all(uri.startswith("data:image/png;base64,") for row in saved["rows"] for *_, uri in row["images"])
    assert Ledger.from_json(json.dumps(first["ledger"])).span == 6
    assert {m["control_of"] for m in saved["methods"] if m["settings"]["class"] == "FewerSteps"} <= {
        m["method"] for m in saved["methods"]
    } | {None}
    shown = cli("report", "out/compare-diffuse.json", "--trace", "t.json", "--machine", "RTX 4090")
    assert shown.exit_code == 0 and "ParaStep" in shown.stdout and (tmp_path / "t.json").exists()


def test_json(compare) -> None:
    args = "--scheduler", "ddim", "--seed", 4, "--json", "--methods", "fewer-steps,distrifusion", "--devices", 2
    saved = json.loads(compare("--steps", 4, *args).stdout)
    assert saved["scheduler"] == "DDIMScheduler" and saved["devices"] == 2 and saved["seed"] == 4
    assert all("ledger" not in row and "images" not in row for row in saved["rows"])
    classes = [method["settings"]["class"] for method in saved["methods"]]
    assert classes[:3] == ["Sequential", "FewerSteps", "DisplacedPatch"]
    strips = saved["rows"][2]
    assert strips["bytes"] > 0 and strips["operations"] == 2 * saved["rows"][0]["operations"]


def test_the_zoo(cli) -> None:
    args = "--pipeline", "digits-dit", "--class-label", 3, "--class-label", 7, "--guidance", 2, "--steps", 3
    result = cli("compare", "diffuse", *args, "--methods", "parastep", "--json")
    assert result.exit_code == 0, result.output
    saved = json.loads(result.stdout)
    assert saved["problems"][0]["batch"] == 2 and "labels 3, 7" in saved["problems"][0]["source"]


def test_ctrl_c(compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from abreast.diffuse.steps.paradigms import ParaDiGMS

    def interrupted(self: object, *args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("abreast.cli.diffuse.able", lambda problem, methods, *args: methods)
    monkeypatch.setattr(ParaDiGMS, "steps", interrupted)
    result = compare(*FEW)
    assert result.exit_code == 130 and "interrupted" in result.stdout
    assert json.loads((tmp_path / "out" / "compare-diffuse.json").read_text())["interrupted"] is True


def test_bad_settings(refused, tmp_path: Path) -> None:
    def asked(*args: object) -> str:
        return refused("compare", "diffuse", *args)

    assert "float32" in asked("--dtype", "int8")
    assert "two kinds" in asked("--prompt", "x", "--class-label", 3)
    assert "--prompt is empty" in asked("--prompt", " ")
    assert "--guidance" in asked("--guidance", -1)
    assert "leave --batch out" in asked("--class-label", 3, "--class-label", 4, "--batch", 3)
    assert "dpm-solver++" in asked("--scheduler", "dpm-solver")
    assert "parastep" in asked("--methods", "parastp") and "names none" in asked("--methods", ",")
    assert "train_pcm" in asked("--methods", "picard-consistency")
    assert "--devices" in asked("--devices", 0) and "--steps" in asked("--steps", 0)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in asked("--out", "file/folder")
    assert "A100" in refused("advise", "diffuse", "--machine", "A100")
    assert "only the control" in refused("advise", "diffuse", "--methods", "fewer-steps")


def test_bad_pipelines(refused, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*args: object) -> str:
        return refused("compare", "diffuse", "--steps", 2, "--methods", "parastep", "--pipeline", *args)

    assert "digits-dit" in asked("digits-dyt") and "digits-dit" in asked("nowhere")
    (tmp_path / "folder").mkdir()
    assert "model_index.json" in asked("folder")
    monkeypatch.setattr(inputs, "_hub_answers", lambda: False)
    assert "cannot be reached" in asked("no/such")
    assert "no prompt" in asked(pipeline, "--prompt", "a cat")
    assert "no class_labels" in asked(pipeline, "--class-label", 3)
    assert "diffusers has no" in asked(pipeline, "--scheduler", "NoSuchScheduler")
    assert "leave --dtype out" in asked("digits-dit", "--dtype", "float16")
    assert "class labels from 0 to 10" in asked("digits-dit", "--class-label", 99)
    (tmp_path / "folder" / "model_index.json").write_text("{}")
    assert "could not be loaded" in asked("folder")


def test_a_method_that_does_not_fit_is_named(compare, refused, pipeline: Path) -> None:
    said = refused("compare", "diffuse", "--pipeline", pipeline, "--steps", 2, "--methods", "dualparal")
    assert "DualPipeline" in said and "video" in said


def test_advice(cli, pipeline: Path) -> None:
    args = "advise", "diffuse", "--pipeline", pipeline, "--batch", 1, "--steps", 8, "--devices", 2
    result = cli(*args, "--methods", "parastep,asyncdiff", "--machine", "RTX 4090")
    assert result.exit_code == 0, result.output
    assert "RTX 4090, 2 devices: replayed" in result.stdout and "this machine, 1 device: measured" in result.stdout
    advice = json.loads(cli(*args, "--methods", "parastep", "--machine", "RTX 4090", "--json").stdout)
    assert advice["schema"] == "abreast.advice" and [place["devices"] for place in advice["machines"]] == [1, 1, 2]
    for place in advice["machines"]:
        for row in place["rows"]:
            rival = affordable(advice["plain"], 8 / row["faster"])
            assert row["plain"] == pytest.approx(rival) if rival is not None else row["plain"] is None
            assert row["pays"] == (row["faster"] > 1.1 and (rival is None or row["distance"] < rival))
    assert advice["advice"].endswith(".") and advice["verdict"].endswith(".")


def test_what_plain_sampling_could_do_in_the_same_time() -> None:
    plain = [(2, 0.5), (4, 0.1), (6, 0.2)]
    assert affordable(plain, 1.9) is None
    assert affordable(plain, 3.9) == 0.5 and affordable(plain, 8) == 0.1
