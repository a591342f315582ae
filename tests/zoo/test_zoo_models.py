"""Loading: by name, folder or Hub id; one sentence for everything that can be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from abreast.core.errors import AbreastError
from abreast.zoo import models


def rewrite_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def test_load_a_folder(tiny: Path) -> None:
    model, tokenizer = models.load(tiny)
    assert model.dtype == torch.float32 and not model.training
    ids = tokenizer("def f(x):", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert model(ids).logits.isfinite().all()
        double, _ = models.load(str(tiny), dtype="float64")
        assert double(ids).logits.dtype == torch.float64
    assert models.load(tiny, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "bad JSON": (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
    "JSON of something else": (lambda d: (d / "config.json").write_text("[1]"), "names no model_type"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no weights"),
    "truncated weights": (lambda d: truncate(d / "model.safetensors"), "truncated or no safetensors file"),
    "garbage for weights": (
        lambda d: (d / "model.safetensors").replace(d / "pytorch_model.bin").write_bytes(b"garbage"),
        "is broken or holds more than weights",
    ),
    "no tokenizer": (lambda d: [p.unlink() for p in d.glob("tokenizer*")], "has no tokenizer"),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "could not be loaded: KeyError"),
    "unknown type": (lambda d: rewrite_config(d, model_type="llama9"), "this transformers does not know"),
    "encoder": (lambda d: rewrite_config(d, model_type="t5"), "type 't5', which .* as a causal language model"),
    "other shapes": (lambda d: rewrite_config(d, intermediate_size=48), "other shapes"),
    "missing weights": (
        lambda d: rewrite_weights(d, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        r"lack model\.layers\.1\.mlp\.up_proj\.weight, which would stay random",
    ),
    "more layers than weights": (lambda d: rewrite_config(d, num_hidden_layers=3), r"lack .* and \d more"),
    "own code": (
        lambda d: rewrite_config(d, model_type="mine", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}),
        "brings its own model code",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_gets_one_sentence(tiny: Path, case: str) -> None:
    damage, sentence = BROKEN[case]
    damage(tiny)
    with pytest.raises(AbreastError, match=sentence) as caught:
        models.load(tiny)
    assert "\n" not in str(caught.value)


def test_bad_arguments_get_one_sentence(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AbreastError, match="use float64, float32, bfloat16 or float16"):
        models.load(tiny, dtype="float33")
    with pytest.raises(AbreastError, match="use float64"):
        models.load(tiny, dtype=torch.int64)
    with pytest.raises(AbreastError, match="Device 'gpu9' cannot be used"):
        models.load(tiny, device="gpu9")
    with pytest.raises(AbreastError, match="There is no folder"):
        models.load(tmp_path / "absent")
    with pytest.raises(AbreastError, match="is a file: give the folder"):
        models.load(tiny / "config.json")
    with pytest.raises(AbreastError, match="There is no folder 'two words'"):
        models.load("two words")


def test_a_hub_id_without_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert models.resolve("somebody/some-model") == "somebody/some-model"
    with pytest.raises(AbreastError, match="HF_HUB_OFFLINE is set and the local Hub cache does not hold it"):
        models.load("somebody/some-model")


def test_embedded_models(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_WEIGHTS", tmp_path / "weights")
    with pytest.raises(AbreastError, match="weights of 'code' are not in this installation"):
        models.resolve("code")
    shutil.copytree(tiny, tmp_path / "weights" / "code")
    rewrite_weights(tmp_path / "weights" / "code", lambda t: t.update({name: x.bfloat16() for name, x in t.items()}))
    assert models.load("code")[0].dtype == torch.float32
    states = models.check()
    assert states["code"] == "ready" and "not in this installation" in states["code-draft"]


def test_smollm2_answers(smollm2_folder: Path) -> None:
    from abreast.zoo import chat_ids

    model, tokenizer = models.load("smollm2")
    ids = chat_ids(tokenizer, "What is the capital of France?")
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n")
    out = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, len(ids) :])
    assert model.generation_config.eos_token_id == 2 and tokenizer.pad_token_id == 2
