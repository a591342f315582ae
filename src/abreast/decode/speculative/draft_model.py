"""Vanilla speculative sampling: a small model guesses, the target verifies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from abreast.core import AbreastError, Lane, Method
from abreast.decode.adapter import adapt
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.draft.model import ModelDrafter
from abreast.decode.engine import Drafter, Speculative
from abreast.decode.problem import Generation
from abreast.decode.verify import Match, Rejection, Verifier


@dataclass(frozen=True)
class SpeculativeSampling(Speculative):
    """A chain of `draft_tokens` guesses of a draft model with the target's tokenizer, verified in one call.

    draft: a Hugging Face causal LM. verify: `Match` gives the reference's text; `Rejection` the reference's law, as in
    the sources: Leviathan, Kalman and Matias, ICML 2023; Chen et al., 2023. Raises AbreastError for another vocabulary
    and for a negative length.
    """

    draft: Any = field(repr=False, compare=False)
    draft_tokens: int = 5
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if self.draft_tokens < 0:
            raise AbreastError(f"draft_tokens must be 0 or more, not {self.draft_tokens}.")

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        shared = not isinstance(self.verify, Rejection)
        return ModelDrafter(adapt(self.draft), problem, lane, self.draft_tokens, shared)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "nothing drafted is one token at a time", replace(self, draft_tokens=0, verify=Match()), Autoregressive()
