"""Causal language models by name: the zoo's, a folder's, the Hub's; what is wrong with one is said in a sentence."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abreast.core.errors import AbreastError
from abreast.zoo import smollm2

if TYPE_CHECKING:
    import torch

_WEIGHTS = Path(__file__).with_name("weights")
EMBEDDED = ("code", "code-draft")
NAMES = ("smollm2", *EMBEDDED)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve(name: str | os.PathLike[str]) -> Path | str:
    """Where `load` finds a model: the folder of a zoo name (made on first use), a folder itself, a Hub id.

    Raises AbreastError for a path where no folder is and for what is neither name, folder nor Hub id.
    """
    if name == "smollm2":
        return smollm2.convert()
    if name in EMBEDDED:
        return _embedded(str(name))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise AbreastError(f"{path} is a file: give the folder that holds the model's config.json and weights.")
    if isinstance(name, str) and _HUB_ID.fullmatch(name):
        return name
    raise AbreastError(
        f"There is no folder {str(name)!r}: give a model's folder, its id on the Hugging Face Hub, "
        f"or one of {', '.join(NAMES)}."
    )


def load(name: str | os.PathLike[str], dtype: str | torch.dtype | None = None, device: str = "cpu") -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer.

    Without `dtype` a model keeps the type it is stored in; the zoo's own, stored in bfloat16 to be small, come in
    float32. Never runs code that a model brings along. Raises AbreastError, one sentence, for whatever is wrong.
    """
    where = resolve(name)
    kind, place = _dtype("float32" if dtype is None and str(name) in NAMES else dtype), _device(device)
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise AbreastError(
            f"Loading {name} needs transformers, which does not import here ({_line(error)}): "
            "run 'pip install abreast[decode]'."
        ) from error
    if isinstance(where, Path):
        _inspect(where)
    with _one_sentence(str(name), where):
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        _refuse_other_kinds(str(name), config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=kind, trust_remote_code=False, output_loading_info=True
        )
        model, report = loaded
        _refuse_missing(str(name), report)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        return model.to(place).eval(), tokenizer


def weights(name: str) -> Path:
    """The folder in which the package carries a small model or trained heads; it need not exist."""
    return _WEIGHTS / name


def check() -> dict[str, str]:
    """The state of every zoo model, in words: opens all files, reads SmolLM2's weights through, fetches nothing."""
    states = {}
    for name in NAMES:
        try:
            smollm2.check() if name == "smollm2" else _inspect(_embedded(name))
            states[name] = "ready"
        except AbreastError as error:
            states[name] = str(error)
    return states


def _embedded(name: str) -> Path:
    folder = _WEIGHTS / name
    if not (folder / "config.json").is_file():
        raise AbreastError(
            f"The weights of {name!r} are not in this installation ({folder} is missing): reinstall abreast, "
            "or train them with abreast.zoo.train."
        )
    return folder


def _inspect(folder: Path) -> None:
    """Raises for what can be seen without loading; transformers itself would speak of repository ids."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AbreastError(f"{folder} has no config.json: it is not a folder written by save_pretrained.") from None
    except OSError as error:
        raise AbreastError(f"{folder / 'config.json'} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise AbreastError(f"{folder / 'config.json'} is not valid JSON: {error}.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise AbreastError(f"{folder / 'config.json'} names no model_type: it is not a transformers configuration.")
    weights = [path for kind in ("*.safetensors", "*.bin") for path in sorted(folder.glob(kind))]
    if not weights:
        raise AbreastError(f"{folder} has a config.json but no weights: a *.safetensors file is missing.")
    for path in weights:
        if path.suffix == ".safetensors":
            _open_safetensors(path)
    if not any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise AbreastError(f"{folder} has no tokenizer: save one there with tokenizer.save_pretrained.")


def _open_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise AbreastError(
            f"{path} is truncated or no safetensors file ({_line(error)}): copy or download it again."
        ) from error


def _refuse_other_kinds(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise AbreastError(
            f"{name} is of type {config.model_type!r}, which transformers does not offer as a causal language model."
        )


def _refuse_missing(name: str, report: Any) -> None:
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise AbreastError(
            f"The weights of {name} lack {', '.join(missing[:3])}{more}, which would stay random: "
            "the files are incomplete or belong to another model than config.json says."
        )


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | str:
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or dtype == "auto":
        return "auto"
    if isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    raise AbreastError(f"{dtype!r} is not a type for weights: use float64, float32, bfloat16 or float16.")


def _device(device: str) -> torch.device:
    import torch

    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise AbreastError(f"Device {device!r} cannot be used here: {_line(error)}.") from error
    return place


@contextmanager
def _one_sentence(name: str, where: Path | str) -> Iterator[None]:
    try:
        yield
    except AbreastError:
        raise
    # transformers raises OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError and more here.
    except Exception as error:
        raise AbreastError(_explain(name, where, error)) from error


def _explain(name: str, where: Path | str, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return f"{name} brings its own model code, which abreast does not run: use a model that transformers contains."
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        return f"{name} is of a type that this transformers does not know: upgrade transformers or use another model."
    if "Weights only load failed" in text:
        return f"A *.bin file of {name} is broken or holds more than weights: save the model again as safetensors."
    if "size mismatch" in text or "ignore_mismatched_sizes" in text:
        return f"The weights of {name} have other shapes than its config.json says: the two belong to different models."
    if isinstance(where, Path):
        return f"{name} could not be loaded{'' if name == str(where) else f' from {where}'}: {_line(error)}."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        reason = "HF_HUB_OFFLINE is set and the local Hub cache does not hold it"
    else:
        reason = f"the Hub has no such model, or cannot be reached, or asks for a login ({_line(error)})"
    return f"{name} is neither a folder nor one of {', '.join(NAMES)}, and could not be taken from the Hub: {reason}."


def _line(error: BaseException) -> str:
    """The first sentence of an error, with its type where that says more than the text."""
    text = (str(error).strip().splitlines() or [""])[0].split(". ")[0].strip().rstrip(".:")
    return text if " " in text else f"{type(error).__name__} {text}".strip()
