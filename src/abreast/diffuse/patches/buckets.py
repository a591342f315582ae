"""Batches of pictures and clips of many sizes, with little padding and about as many tokens in each."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from abreast.core import AbreastError

Shape = tuple[int, int, int]


def tokens(shape: Shape, patch: int = 2) -> int:
    """Of frames x height x width."""
    frames, height, width = shape
    return frames * -(-height // patch) * -(-width // patch)


@dataclass(frozen=True)
class TokenBucketSampler:
    """Batches of indices for `torch.utils.data.DataLoader(batch_sampler=...)`: items of like shape together, as many as
    fit the budget.

    shapes: (frames, height, width) of every item. budget: tokens of a batch at most, padding included. slack: how much
    larger per side, as a factor, the largest of a bucket may be than its smallest. Batches are the same for one seed,
    in an order drawn from it. Raises AbreastError where one item alone exceeds the budget.
    """

    shapes: Sequence[Shape]
    budget: int
    patch: int = 2
    slack: float = 1.03
    seed: int = 0

    def __post_init__(self) -> None:
        worst = max(self.shapes, key=lambda shape: tokens(shape, self.patch), default=(0, 0, 0))
        if tokens(worst, self.patch) > self.budget:
            need = tokens(worst, self.patch)
            raise AbreastError(f"an item of {list(worst)} has {need} tokens, and the budget is {self.budget}.")

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches()
        random.Random(self.seed).shuffle(batches)
        return iter(batches)

    def __len__(self) -> int:
        return len(self.batches())

    def batches(self) -> list[list[int]]:
        """All batches, by bucket."""
        found = []
        for bucket in self._buckets():
            batch: list[int] = []
            for index in bucket:
                if batch and self.padded([*batch, index]) > self.budget:
                    found.append(batch)
                    batch = []
                batch.append(index)
            found.append(batch)
        return found

    def padded(self, batch: Sequence[int]) -> int:
        """Tokens of a batch whose items are padded to the largest of each side."""
        sides = [max(self.shapes[index][axis] for index in batch) for axis in range(3)]
        return len(batch) * tokens((sides[0], sides[1], sides[2]), self.patch)

    def waste(self, batches: Sequence[Sequence[int]] | None = None) -> float:
        """The portion of all tokens that is padding."""
        batches = self.batches() if batches is None else batches
        real = sum(tokens(self.shapes[index], self.patch) for batch in batches for index in batch)
        padded = sum(map(self.padded, batches))
        return 1 - real / padded if padded else 0.0

    def _buckets(self) -> list[list[int]]:
        """Indices of items whose sides differ by at most the slack, and with equal frames."""
        by_frames = defaultdict(list)
        for index, shape in enumerate(self.shapes):
            by_frames[shape[0]].append(index)
        found: list[list[int]] = []
        for _, items in sorted(by_frames.items()):
            for rows in self._runs(items, 1):
                found += self._runs(rows, 2)
        return found

    def _runs(self, items: list[int], axis: int) -> list[list[int]]:
        runs: list[list[int]] = []
        for index in sorted(items, key=lambda index: (self.shapes[index][axis], index)):
            if runs and self.shapes[index][axis] <= self.slack * self.shapes[runs[-1][0]][axis]:
                runs[-1].append(index)
            else:
                runs.append([index])
        return runs
