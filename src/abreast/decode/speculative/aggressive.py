"""Input-guided aggressive decoding: the output resembles the input, so draft the input (Ge et al., 2022)."""

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
class AggressiveInput(Speculative):
    """Draft the source from a pointer on, up to `draft_tokens` tokens. Where the model departs from it, look for the
    place to go on: the shortest n-gram of the last 1 to `max_ngram` output tokens that occurs exactly once in the
    source; while there is none, decode one token at a time.

    source: ids of the text to be edited, drafted from its beginning; None is the whole prompt, where a first n-gram
    must be found. Source: Ge et al., "Lossless Acceleration for Seq2seq Generation with Aggressive Decoding", 2022.
    Raises AbreastError for sizes below 1.
    """

    source: tuple[int, ...] | None = None
    draft_tokens: int = 32
    max_ngram: int = 3
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if self.draft_tokens < 1 or self.max_ngram < 1:
            raise AbreastError("AggressiveInput needs draft_tokens >= 1 and max_ngram >= 1.")

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        return InputDrafter(self, problem)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "a source of one token is one token at a time", AggressiveInput(source=(0,)), Autoregressive()


class InputDrafter(Drafter):
    """The pointer into the source, one a stream."""

    def __init__(self, method: AggressiveInput, problem: Generation):
        self.method = method
        self.indices: dict[int, NgramIndex] = {}
        for number, prompt in enumerate(problem.prompts):
            self.indices[number] = NgramIndex(method.max_ngram)
            self.indices[number].extend(prompt if method.source is None else method.source)
        self.drafted: dict[int, int] = {}  # where the last draft began in the source; absent where there was none
        self.length: dict[int, int] = {}  # of the output then

    def draft(self, stream: Stream) -> Draft:
        source = self.indices[stream.number].text
        pointer = self._pointer(stream, source)
        if pointer is None or pointer >= len(source) or stream.left < 2:
            self.drafted.pop(stream.number, None)
            return NOTHING
        self.drafted[stream.number], self.length[stream.number] = pointer, len(stream.out)
        return Draft.chain(source[pointer : pointer + min(self.method.draft_tokens, stream.left - 1)])

    def _pointer(self, stream: Stream, source: list[int]) -> int | None:
        """Where to copy from next: on, if everything since the last draft agreed with the source; else realigned."""
        out = stream.out
        began = self.drafted.get(stream.number)
        if began is None and self.method.source is not None and len(out) == 1:
            began, self.length[stream.number] = 0, 0
        if began is not None:
            new = out[self.length[stream.number] :]
            if source[began : began + len(new)] == new:
                return began + len(new)
        return self._realign(stream.number, out)

    def _realign(self, number: int, out: list[int]) -> int | None:
        index = self.indices[number]
        for n in range(1, self.method.max_ngram + 1):
            ends = index.find(out, n)
            if len(ends) < 2:
                return ends[0] if ends else None
        return None
