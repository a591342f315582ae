"""Jacobi decoding: the continuation as a fixed point, all positions recomputed at once (Santilli et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from abreast.core import AbreastError, Lane, Method, uniform
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.engine import NOTHING, Drafter, Seen, Speculative, Stream
from abreast.decode.problem import Generation
from abreast.decode.tree import Draft
from abreast.decode.verify import Context, Match, Verifier


@dataclass(frozen=True)
class Jacobi(Speculative):
    """Guess `window` tokens, compute them all in one call, and take what each row says as the next guess; the prefix
    that no longer changes is committed, and one token after it.

    mode: "sliding" refills the window's end as its front is committed; "block" finishes a window before it starts the
    next (Gauss-Seidel over blocks). init: what new places hold, the "pad" token, a "copy" of the source at the same
    offset, or "random" tokens of the prompt. source: ids for "copy" (None: the prompt). Source: Santilli et al.,
    "Accelerating Transformer Inference for Translation via Parallel Decoding", ACL 2023. Raises AbreastError for a
    negative window and an unknown mode or init.
    """

    window: int = 8
    mode: Literal["sliding", "block"] = "sliding"
    init: Literal["pad", "copy", "random"] = "random"
    source: tuple[int, ...] | None = None
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if self.window < 0:
            raise AbreastError(f"window must be 0 or more, not {self.window}.")
        if self.mode not in ("sliding", "block") or self.init not in ("pad", "copy", "random"):
            raise AbreastError(
                f"mode is sliding or block and init is pad, copy or random, not {self.mode}, {self.init}."
            )

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        return JacobiWindow(self, problem, lane) if self.window else Drafter()

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no window is one token at a time", replace(self, window=0), Autoregressive()
        yield "any start ends at the same text", self, replace(self, init="pad", mode="block")


class JacobiWindow(Drafter):
    """The rejected rows of a call, shifted by what was committed, are the next guess."""

    def __init__(self, method: Jacobi, problem: Generation, lane: Lane):
        self.method, self.problem, self.lane = method, problem, lane
        self.window: dict[int, list[int]] = {}

    def draft(self, stream: Stream) -> Draft:
        window = self.window.get(stream.number, [])
        if self.method.mode == "sliding" or not window:
            start = len(stream.tokens)
            window = [*window, *(self._fresh(stream, start + i) for i in range(len(window), self.method.window))]
        self.window[stream.number] = window[: stream.left - 1]
        return Draft.chain(self.window[stream.number]) if stream.left > 1 else NOTHING

    def observe(self, stream: Stream, seen: Seen) -> None:
        """Row i's own token is the next guess for the place after it."""
        accepted, guess = len(seen.verdict.path), self.window[stream.number]
        self.lane.ledger.note(self.lane.last, guess=guess, at=len(stream.tokens) - accepted - 1)
        before = stream.tokens[: len(stream.tokens) - 1 - accepted]
        sampling = self.problem.sampling_of(stream.number)
        rows = range(accepted + 1, len(guess) + 1)
        if sampling.plain:
            tokens = seen.out.logits[accepted + 1 : len(guess) + 1].argmax(-1).tolist()
        else:
            context = Context(before, sampling, stream.dice)
            histories = [context.after(seen.draft, range(row)) for row in rows]
            scores = [sampling.scores(seen.out.logits[row], history) for row, history in zip(rows, histories)]
            tokens = [
                stream.dice.token(x, len(h), sampling.temperature == 0) for x, h in zip(scores, histories)
            ]  # fmt: skip
        self.window[stream.number] = tokens

    def _fresh(self, stream: Stream, position: int) -> int:
        """The first guess for a place that was never computed."""
        prompt = stream.tokens[: stream.prompt]
        pad = self.problem.eos[0] if self.problem.eos else 0
        if self.method.init == "copy":
            source = self.method.source or prompt
            offset = position - stream.prompt
            return source[offset] if offset < len(source) else pad
        if self.method.init == "random":
            return prompt[int(uniform(self.problem.seed, "jacobi", stream.number, position) * len(prompt))]
        return pad
