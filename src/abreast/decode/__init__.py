"""Parallel decoding of language models, held against one token at a time.

`Generation` is the problem: prompts to continue on a Hugging Face model. Its reference is `Autoregressive`. The engine
(`engine.py`) is one loop: a drafter guesses a tree of tokens, one call of the target computes all its rows, a verifier
walks it, and the cache drops what was rejected. A method is a frozen dataclass that names its drafter and its
verifier; to add one, write a file in `speculative/` (CONTRIBUTING.md walks through it).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Generation": "problem",
    "Sampling": "sampling",
    "adapt": "adapter",
    "load_heads": "draft.heads",
    "Streamed": "custom_generate",
    "Autoregressive": "autoregressive",
    "PromptLookup": "speculative.prompt_lookup",
    "SpeculativeSampling": "speculative.draft_model",
    "Blockwise": "speculative.blockwise",
    "Jacobi": "speculative.jacobi",
    "AggressiveInput": "speculative.aggressive",
    "Medusa": "speculative.medusa",
    "Lookahead": "speculative.lookahead",
    "Stacked": "speculative.stacked",
    "Match": "verify",
    "Rejection": "verify",
    "MultiRejection": "verify",
    "Typical": "verify",
    "Tolerant": "verify",
    "TopK": "verify",
    "Distance": "verify",
}
METHODS = (
    "Autoregressive", "PromptLookup", "SpeculativeSampling", "Blockwise", "Jacobi", "AggressiveInput",
    "Medusa", "Lookahead", "Stacked",
)  # fmt: skip

__all__ = ["METHODS", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Loads torch and transformers only where something of this room is used."""
    if name in _HOMES:
        return getattr(import_module(f"abreast.decode.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'abreast.decode' has no attribute {name!r}")
