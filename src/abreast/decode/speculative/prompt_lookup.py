"""Prompt lookup: what followed the same words before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from abreast.core import AbreastError, Lane, Method
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.draft.lookup import NgramIndex
from abreast.decode.engine import NOTHING, Drafter, Speculative, Stream
from abreast.decode.problem import Generation
from abreast.decode.tree import Draft
from abreast.decode.verify import Match, Verifier


@dataclass(frozen=True)
class PromptLookup(Speculative):
    """Draft the `draft_tokens` tokens that followed the last earlier occurrence of the text's last n-gram, the
    longest of `max_ngram` to `min_ngram` that occurs; nothing where none does.

    Source: Saxena, "Prompt Lookup Decoding", 2023. Raises AbreastError for sizes below 1 or out of order.
    """

    draft_tokens: int = 8
    max_ngram: int = 3
    min_ngram: int = 2
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if self.draft_tokens < 1 or not 1 <= self.min_ngram <= self.max_ngram:
            raise AbreastError("PromptLookup needs draft_tokens >= 1 and 1 <= min_ngram <= max_ngram.")

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        return LookupDrafter(self)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "verified by the reference's own draws, lookup is one token at a time", self, Autoregressive()


class LookupDrafter(Drafter):
    def __init__(self, method: PromptLookup):
        self.method = method
        self.indices: dict[int, NgramIndex] = {}

    def draft(self, stream: Stream) -> Draft:
        index = self.indices.setdefault(stream.number, NgramIndex(self.method.max_ngram, self.method.min_ngram))
        # The last token is left out, so that the text's own end is not its best match.
        index.extend(stream.tokens[len(index.text) : -1])
        length = min(self.method.draft_tokens, stream.left - 1)
        for n in index.sizes:
            ends = index.find(stream.tokens, n)
            if ends:
                return Draft.chain(stream.tokens[ends[-1] : ends[-1] + length])
        return NOTHING
