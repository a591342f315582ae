"""Several drafters at once: their guesses merged into one tree, verified in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from abreast.core import AbreastError, Lane, Method
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.engine import Drafter, Seen, Speculative, Stream
from abreast.decode.problem import Generation
from abreast.decode.speculative.jacobi import Jacobi
from abreast.decode.speculative.lookahead import Lookahead
from abreast.decode.tree import Draft
from abreast.decode.verify import Match, Rejection, Verifier


@dataclass(frozen=True)
class Stacked(Speculative):
    """The union of what several methods guess: heads where the text is new, copies where it repeats. Common prefixes
    share their rows, so a guess that two methods make costs once.

    methods: drafting methods without probes or sampled drafts; their own verifiers are not asked. Not a paper of the
    list: a composition. Raises AbreastError for no method, for windows (Jacobi, Lookahead), whose rows are read back,
    and for a verifier by rejection, which needs to know how every guess was drawn.
    """

    methods: tuple[Speculative, ...]
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if not self.methods:
            raise AbreastError("Stacked needs at least one method.")
        if any(isinstance(method, (Jacobi, Lookahead)) for method in self.methods):
            raise AbreastError("Stacked takes methods that only guess: Jacobi and Lookahead read their own rows back.")
        if isinstance(self.verify, Rejection):
            raise AbreastError("Stacked has no law of its guesses: verify them with Match().")

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        return StackedDrafter([method.drafter(problem, lane) for method in self.methods])

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "whatever is guessed, the text is the reference's", self, Autoregressive()


class StackedDrafter(Drafter):
    """One tree of all drafters' paths."""

    def __init__(self, drafters: Sequence[Drafter]):
        self.drafters = drafters

    def begin(self, stream: Stream, seen: Seen) -> None:
        for drafter in self.drafters:
            drafter.begin(stream, seen)

    def propose(self, streams: Sequence[Stream]) -> list[Draft]:
        proposals = [drafter.propose(streams) for drafter in self.drafters]
        return [Draft.trie(path for draft in drafts for path in draft.paths) for drafts in zip(*proposals)]

    def observe(self, stream: Stream, seen: Seen) -> None:
        for drafter in self.drafters:
            drafter.observe(stream, seen)
