"""Which methods stand beside one another by default."""

from __future__ import annotations

from typing import Any

from abreast.core import AbreastError, Method, nearest
from abreast.decode import Autoregressive, PromptLookup

METHOD_NAMES = {"autoregressive": "Autoregressive", "prompt-lookup": "PromptLookup"}


def method(name: str, model_name: str, model: Any) -> Method:
    """The method of this name, at its defaults. Raises AbreastError where there is none."""
    made = {"autoregressive": Autoregressive, "prompt-lookup": PromptLookup}
    if name not in made:
        raise AbreastError(f"no method is called {name!r}: {nearest(name, made)}")
    return made[name]()


def lineup(name: str, model: Any, tokenizer: Any) -> list[Method]:
    """The default methods for a model."""
    return [Autoregressive(), PromptLookup()]
