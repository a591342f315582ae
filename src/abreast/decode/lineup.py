"""Methods by the names users type, with the heads and drafts that the zoo ships for its models."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from abreast import zoo
from abreast.core import AbreastError, Method, nearest
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.draft.heads import load_heads
from abreast.decode.speculative.aggressive import AggressiveInput
from abreast.decode.speculative.blockwise import Blockwise
from abreast.decode.speculative.draft_model import SpeculativeSampling
from abreast.decode.speculative.jacobi import Jacobi
from abreast.decode.speculative.lookahead import Lookahead
from abreast.decode.speculative.medusa import Medusa
from abreast.decode.speculative.prompt_lookup import PromptLookup
from abreast.decode.speculative.stacked import Stacked
from abreast.decode.verify import Rejection, Typical

METHOD_NAMES = {
    "autoregressive": "Autoregressive",
    "prompt-lookup": "PromptLookup",
    "speculative-sampling": "SpeculativeSampling",
    "speculative-rejection": "SpeculativeSampling",
    "blockwise-decoding": "Blockwise",
    "jacobi-decoding": "Jacobi",
    "aggressive-decoding": "AggressiveInput",
    "medusa": "Medusa",
    "medusa-typical": "Medusa",
    "lookahead": "Lookahead",
    "stacked": "Stacked",
}
SHIPPED = {"medusa": "medusa", "stacked": "medusa", "medusa-typical": "medusa", "blockwise-decoding": "blockwise",
           "speculative-sampling": "draft", "speculative-rejection": "draft"}  # fmt: skip


WORDS = {"medusa": "Medusa heads", "blockwise": "blockwise heads", "draft": "a draft model"}


@cache
def shipped_heads(model_name: str, kind: str) -> Any:
    """The heads of this kind that the package carries for a zoo model."""
    return load_heads(zoo.weights(f"{model_name}-{kind}"))


@cache
def shipped_draft(model_name: str, dtype: Any) -> Any:
    """The draft model that the package carries for a zoo model."""
    return zoo.load(f"{model_name}-draft", dtype)[0]


def method(name: str, model_name: str, model: Any) -> Method:
    """The method of this name at settings that suit a CPU.

    Raises AbreastError for an unknown name, and where the method needs heads or a draft that are not shipped for this
    model: those are given in Python, `decode.Medusa(heads)`.
    """
    if name not in METHOD_NAMES:
        raise AbreastError(f"no method is called {name!r}: {nearest(name, METHOD_NAMES)}")
    if name in SHIPPED and not available(name, model_name):
        raise AbreastError(
            f"{name} needs {WORDS[SHIPPED[name]]} for {model_name}, which the package does not carry: train some with "
            f"python -m abreast.zoo.train, or leave {name} out."
        )
    draft: Callable[[], Any] = lambda: shipped_draft(model_name, model.dtype)  # noqa: E731
    heads: Callable[[str], Any] = lambda kind: shipped_heads(model_name, kind)  # noqa: E731
    made: dict[str, Callable[[], Method]] = {
        "autoregressive": Autoregressive,
        "prompt-lookup": lambda: PromptLookup(draft_tokens=15),
        "speculative-sampling": lambda: SpeculativeSampling(draft(), draft_tokens=5),
        "speculative-rejection": lambda: SpeculativeSampling(draft(), draft_tokens=5, verify=Rejection()),
        "blockwise-decoding": lambda: Blockwise(heads("blockwise"), k=4),
        "jacobi-decoding": lambda: Jacobi(window=7),
        "aggressive-decoding": lambda: AggressiveInput(draft_tokens=15),
        "medusa": lambda: Medusa(heads("medusa"), nodes=16),
        "medusa-typical": lambda: Medusa(heads("medusa"), nodes=16, verify=Typical()),
        "lookahead": lambda: Lookahead(window=3, ngram=4, guesses=4),
        "stacked": lambda: Stacked((Medusa(heads("medusa"), nodes=16), PromptLookup(draft_tokens=15))),
    }
    return made[name]()


def available(name: str, model_name: str) -> bool:
    """Whether everything that the method needs for this model is there."""
    if name not in SHIPPED:
        return True
    file = "config.json" if SHIPPED[name] == "draft" else "heads.safetensors"
    return (zoo.weights(f"{model_name}-{SHIPPED[name]}") / file).exists()


def lineup(model_name: str, model: Any, tokenizer: Any = None) -> list[Method]:
    """Every method that can run on this model, the reference first."""
    return [method(name, model_name, model) for name in METHOD_NAMES if available(name, model_name)]
