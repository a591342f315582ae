"""Lookahead decoding: Jacobi iterations make n-grams, which are verified in the same call (Fu et al., 2024)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from abreast.core import AbreastError, Lane, Method, Run, uniform
from abreast.decode.autoregressive import Autoregressive
from abreast.decode.engine import Drafter, Seen, Speculative, Stream
from abreast.decode.problem import Generation
from abreast.decode.tree import Draft, Probes
from abreast.decode.verify import Match, Verifier


@dataclass(frozen=True)
class Lookahead(Speculative):
    """Exact decoding without a drafter. Beside the text runs a window of `ngram` - 1 levels by `window` columns, each
    level one Jacobi iteration after the one above it; every column read downwards is an n-gram. N-grams that begin
    with the current token are verified, up to `guesses` of them, in the call that computes the window.

    window 0: no window, n-grams of the text only. from_text: collect n-grams of the prompt and of the output too.
    Rows of a call: (ngram - 1) * (window + guesses), the current token included, less what the guesses share.
    Source: Fu, Bailis, Stoica and Zhang, "Break the Sequential Dependency of LLM Inference Using Lookahead Decoding",
    ICML 2024. Raises AbreastError for an n-gram below 2 and negative sizes.
    """

    window: int = 7
    ngram: int = 5
    guesses: int = 7
    from_text: bool = True
    verify: Verifier = Match()

    def __post_init__(self) -> None:
        if self.ngram < 2 or self.window < 0 or self.guesses < 0:
            raise AbreastError("Lookahead needs ngram >= 2, window >= 0 and guesses >= 0.")

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        return LookaheadDrafter(self, problem.seed)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no guess is one token at a time", replace(self, guesses=0), Autoregressive()

    def controls(self, run: Run) -> Iterator[Method]:
        """The n-grams of prompt and output, without a window."""
        if self.window:
            yield replace(self, window=0, from_text=True)


class NgramPool:
    """n-grams by first token, the least recently made dropped first, at most `most` of one first token."""

    def __init__(self, most: int):
        self.most = most
        self.by_first: dict[int, OrderedDict[tuple[int, ...], None]] = {}

    def add(self, ngrams: Iterable[Sequence[int]]) -> None:
        for first, *rest in ngrams:
            kept = self.by_first.setdefault(first, OrderedDict())
            kept[tuple(rest)] = None
            kept.move_to_end(tuple(rest))
            if len(kept) > self.most:
                kept.popitem(last=False)

    def after(self, token: int) -> list[tuple[int, ...]]:
        """Continuations of `token`, the newest first."""
        return list(reversed(self.by_first.get(token, ())))


class LookaheadDrafter(Drafter):
    """levels[l][i]: the guess for l + i places after the current token, which is levels[0][0]."""

    def __init__(self, method: Lookahead, seed: int):
        self.method, self.seed = method, seed
        self.pools: dict[int, NgramPool] = {}
        self.levels: dict[int, list[list[int]]] = {}

    def begin(self, stream: Stream, seen: Seen) -> None:
        W, N = self.method.window, self.method.ngram
        pool = self.pools[stream.number] = NgramPool(self.method.guesses)
        if self.method.from_text:
            pool.add(zip(*(stream.tokens[i:] for i in range(N))))
        prompt = stream.tokens[: stream.prompt]
        draws = uniform(self.seed, "lookahead", stream.number, n=W + N - 3) if W else []
        self.levels[stream.number] = [[stream.tokens[-1], *(prompt[int(u * len(prompt))] for u in draws)]]

    def draft(self, stream: Stream) -> Draft:
        guesses = self.pools[stream.number].after(stream.tokens[-1]) if self.method.guesses else []
        return Draft.trie(guesses, self._probes(self.levels[stream.number]) if self.method.window else None)

    def observe(self, stream: Stream, seen: Seen) -> None:
        N = self.method.ngram
        levels, pool = self.levels[stream.number], self.pools[stream.number]
        committed = len(seen.verdict.path) + 1
        if self.method.from_text:
            pool.add(zip(*(stream.tokens[-committed - N + 1 :][i:] for i in range(N))))
        if self.method.window:
            new = self._deepest(levels, seen)
            if len(levels) == N - 1:
                pool.add(zip(*levels, new))
            self.levels[stream.number] = self._shift(levels, new, stream.tokens[-1])

    @staticmethod
    def _deepest(levels: list[list[int]], seen: Seen) -> list[int]:
        """What the model says after every column of the deepest level: the next level."""
        rows = list(range(1 + len(seen.draft), len(seen.out.logits)))
        return seen.out.logits[rows if len(levels) > 1 else [0, *rows]].argmax(-1).tolist()

    def _shift(self, levels: list[list[int]], new: list[int], current: int) -> list[list[int]]:
        """One place on. While the window fills, every level loses the column that fell behind; once it is full, the
        top level goes, and the one below takes its place."""
        filling = len(levels) < self.method.ngram - 1
        levels = [level[1:] for level in (*levels, new)] if filling else [*levels[1:], new]
        levels[0][0] = current
        return levels

    @staticmethod
    def _probes(levels: list[list[int]]) -> Probes:
        """The window but for the current token, which is the root of the draft."""
        tokens = (*levels[0][1:], *(token for level in levels[1:] for token in level))
        ahead, see = pattern(tuple(map(len, levels)))
        return Probes(tokens, ahead, see, len(levels[-1]) - (len(levels) == 1))


@lru_cache(maxsize=256)
def pattern(columns: tuple[int, ...]) -> tuple[tuple[int, ...], np.ndarray]:
    """Places ahead, and who sees whom, in a window of these columns a level, the current token left out. Row (l, i)
    sees level 0 up to column i, and its own column at levels 1 to l."""
    rows = [(level, i) for level, width in enumerate(columns) for i in range(width)][1:]
    see = [[(l == 0 and j <= i) or (j == i and l <= level) for l, j in rows] for level, i in rows]
    return tuple(level + i for level, i in rows), np.array(see, dtype=bool).reshape(len(rows), len(rows))
