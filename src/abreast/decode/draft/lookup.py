"""Guesses copied from text that is already there: n-grams of a source, indexed as it grows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class NgramIndex:
    """Where every n-gram of a growing text ends: n-gram -> positions after it, oldest first."""

    def __init__(self, longest: int, shortest: int = 1):
        self.sizes = range(longest, shortest - 1, -1)
        self.text: list[int] = []
        self.ends: dict[tuple[int, ...], list[int]] = {}

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.text.append(token)
            end = len(self.text)
            for n in self.sizes:
                if n <= end:
                    self.ends.setdefault(tuple(self.text[end - n :]), []).append(end)

    def find(self, suffix: Sequence[int], n: int) -> list[int]:
        """Positions after the occurrences of the last `n` tokens of `suffix`."""
        return self.ends.get(tuple(suffix[-n:]), []) if len(suffix) >= n else []
