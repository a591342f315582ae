"""Medusa: heads fill a tree, one call verifies it (Cai et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from abreast.core import AbreastError, Lane, Method, Run
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.draft.heads import Heads, HeadsOn, greedy_tree, parents_of
from abreast.decode.engine import NOTHING, Drafter, Seen, Speculative, Stream
from abreast.decode.problem import Generation
from abreast.decode.tree import Draft
from abreast.decode.verify import Match, Verifier


@dataclass(frozen=True)
class Medusa(Speculative):
    """Head k guesses the token k + 1 places ahead of the last hidden state; the heads' best tokens form a static tree
    of `nodes` rows, the likeliest by the heads' own held-out accuracy, which the model verifies in one call.

    heads: `MedusaHeads` trained on this model. depth: how many of them to use (None: all). nodes: rows of the tree,
    the known token included. Source: Cai et al., "Medusa", ICML 2024. Raises AbreastError for fewer than one node
    and for heads of another width.
    """

    heads: Heads = field(repr=False, compare=False)
    depth: int | None = None
    nodes: int = 64
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if self.nodes < 1 or (self.depth is not None and self.depth < 0):
            raise AbreastError(f"Medusa needs nodes >= 1 and depth >= 0, not {self.nodes} and {self.depth}.")

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        if self.nodes == 1 or self.depth == 0:
            return Drafter()
        return MedusaDrafter(self, HeadsOn(self.heads, problem.model, lane, self.depth))

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no head is one token at a time", replace(self, depth=0), Autoregressive()

    def controls(self, run: Run) -> Iterator[Method]:
        if not isinstance(self.verify, Match):
            yield replace(self, verify=Match())


class MedusaDrafter(Drafter):
    """The static tree, filled anew each step."""

    def __init__(self, method: Medusa, heads: HeadsOn):
        self.heads = heads
        self.paths = greedy_tree(method.heads.accuracy[: heads.most], method.nodes - 1)
        self.parents = parents_of(self.paths)
        self.ranks = 1 + max(rank for path in self.paths for rank in path)
        self.seen: dict[int, Seen] = {}

    def draft(self, stream: Stream) -> Draft:
        if stream.left < 2:
            return NOTHING
        best = self.heads.top(self.seen[stream.number].hidden, stream.tokens[-1], self.ranks)
        tokens = tuple(best[len(path) - 1][path[-1]] for path in self.paths)
        return Draft(tokens, self.parents)

    def begin(self, stream: Stream, seen: Seen) -> None:
        self.seen[stream.number] = seen

    observe = begin
