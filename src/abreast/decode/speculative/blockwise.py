"""Blockwise parallel decoding: predict, verify, accept (Stern et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from abreast.core import MEASURED, AbreastError, Guarantee, Lane, Method, Run
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.draft.heads import Heads, HeadsOn
from abreast.decode.engine import NOTHING, Drafter, Seen, Speculative, Stream
from abreast.decode.problem import Generation
from abreast.decode.sampling import Sampling
from abreast.decode.tree import Draft
from abreast.decode.verify import Context, Match, Verdict, Verifier


@dataclass(frozen=True)
class Blockwise(Speculative):
    """k - 1 heads guess the tokens after the model's own; the longest prefix that the model agrees with is kept. The
    verifying call is also the next predicting one.

    heads: `BlockwiseHeads` trained on this model. k: the block, the model's own token included (1: no guess).
    min_block: tokens that a step commits at least, judged or not (1 is exact). Source: Stern, Shazeer and Uszkoreit,
    "Blockwise Parallel Decoding for Deep Autoregressive Models", NeurIPS 2018. Raises AbreastError where k is below 1
    or more than one above the heads, and where min_block is not in 1 .. k.
    """

    heads: Heads = field(repr=False, compare=False)
    k: int = 4
    min_block: int = 1
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.heads.heads + 1:
            raise AbreastError(f"Blockwise needs k from 1 to {self.heads.heads + 1} (heads and one), not {self.k}.")
        if not 1 <= self.min_block <= self.k:
            raise AbreastError(f"Blockwise needs min_block from 1 to k = {self.k}, not {self.min_block}.")

    @property
    def verifier(self) -> Verifier:
        return self.verify if self.min_block == 1 else AtLeast(self.min_block, self.verify)

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        return Drafter() if self.k == 1 else BlockDrafter(HeadsOn(self.heads, problem.model, lane, self.k - 1))

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "a block of one is one token at a time", replace(self, k=1, min_block=1), Autoregressive()

    def controls(self, run: Run) -> Iterator[Method]:
        """Blocks of the same mean length, accepted blindly."""
        if self.promise(run.problem) == MEASURED:
            steps = max(run.ledger.calls("target"), 1)
            mean = round(sum(map(len, run.value)) / steps)
            yield replace(self, min_block=min(max(mean, 1), self.k), verify=Match())


class BlockDrafter(Drafter):
    """Every head's best token, in a chain."""

    def __init__(self, heads: HeadsOn):
        self.heads = heads
        self.seen: dict[int, Seen] = {}

    def draft(self, stream: Stream) -> Draft:
        if stream.left < 2:
            return NOTHING
        best = self.heads.top(self.seen[stream.number].hidden, stream.tokens[-1], 1)
        return Draft.chain(tokens[0] for tokens in best[: stream.left - 1])

    def begin(self, stream: Stream, seen: Seen) -> None:
        self.seen[stream.number] = seen

    observe = begin


@dataclass(frozen=True)
class AtLeast:
    """Accept a chain's first tokens unread so that a step commits `block`, then go on with another verifier's view."""

    block: int
    verify: Verifier

    def guarantee(self, sampling: Sampling) -> Guarantee:
        return MEASURED

    def __call__(self, draft: Draft, rows: torch.Tensor, context: Context) -> Verdict:
        judged = self.verify(draft, rows, context)
        blind = min(self.block - 1, len(draft))
        if len(judged.path) >= blind:
            return judged
        rest = Context(context.after(draft, range(blind)), context.sampling, context.dice)
        tail = Draft.chain(draft.tokens[blind:])
        judged = self.verify(tail, rows[blind:], rest)
        return Verdict((*range(blind), *(blind + node for node in judged.path)), judged.bonus)
