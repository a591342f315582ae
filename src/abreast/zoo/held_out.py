"""Prompts for the embedded code model, from modules that it never saw."""

from __future__ import annotations

import random
from typing import Any

from abreast.core.errors import AbreastError
from abreast.zoo.train.corpus import held_out_modules


def code_prompts(tokenizer: Any, n: int, prompt_tokens: int = 128, seed: int = 0) -> list[list[int]]:
    """`n` different prompts of exactly `prompt_tokens` tokens of held-out source code; the next token begins a line.

    A module is tokenised whole before it is cut, so a prompt ends as the tokenizer would have it: where newline and
    indentation are one token, after the indentation. Raises AbreastError if there are fewer than `n` places to cut.
    """
    if n < 1 or prompt_tokens < 1:
        raise AbreastError(f"Ask for at least one prompt of at least one token, not {n} of {prompt_tokens}.")
    modules = [_encode(tokenizer, text) for text in held_out_modules().values()]
    places = [(ids, cut) for ids, cuts in modules for cut in cuts if cut >= prompt_tokens]
    if n > len(places):
        raise AbreastError(f"The held-out modules have {len(places)} places for prompts of this length, not {n}.")
    chosen = random.Random(f"held out {seed}").sample(places, n)
    return [ids[cut - prompt_tokens : cut] for ids, cut in chosen]


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    """The tokens of `text`, and the indices at which a line's first word begins (blank lines begin none)."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans = encoded["offset_mapping"]
    cuts = [i for i in range(1, len(spans)) if "\n" in text[slice(*spans[i - 1])] and text[slice(*spans[i])].strip()]
    return list(encoded["input_ids"]), cuts
