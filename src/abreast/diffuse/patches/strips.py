"""A picture dealt to ranks in horizontal strips, of unequal height where it does not divide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from abreast.core import AbreastError


@dataclass(frozen=True)
class Strips:
    """sizes: rows of each rank's strip, from the top. Inside a network a level has a fraction of the picture's rows, or
    some tokens for each row; all methods therefore take how much a *whole* picture has there."""

    sizes: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Of the whole picture."""
        return sum(self.sizes)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the picture, for each rank."""
        return tuple(size / self.rows for size in self.sizes)

    def bounds(self, rank: int, whole: int) -> tuple[int, int]:
        """First and one past the last of a rank's part of `whole` rows or tokens."""
        ends = [0, *accumulate(self.sizes)]
        return ends[rank] * whole // self.rows, ends[rank + 1] * whole // self.rows

    def whole(self, rank: int, own: int) -> int:
        """How much the whole picture has where this rank's strip has `own`."""
        return own * self.rows // self.sizes[rank]

    def take(self, x: Tensor, rank: int, axis: int) -> Tensor:
        """A rank's part of a whole picture's tensor."""
        start, stop = self.bounds(rank, x.shape[axis])
        return x.narrow(axis, start, stop - start)

    def within(self, rank: int, portion: float, whole: int) -> tuple[int, int]:
        """The part of `whole` that a rank sees which looks beyond its strip by this portion of its own length."""
        if portion >= len(self.sizes) - 1:
            return 0, whole
        start, stop = self.bounds(rank, whole)
        beyond = portion * (stop - start)
        return max(0, int(start - beyond)), min(whole, int(stop + beyond))


def cut(rows: int, patches: int, multiple: int, sizes: Sequence[int] | None = None) -> Strips:
    """Strips of `rows` rows for `patches` ranks, as equal as multiples of `multiple` can be (the upper ones are the
    larger), or of the sizes given. Raises AbreastError where that cannot be."""
    if rows % multiple:
        raise AbreastError(f"a picture of {rows} rows cannot be cut: this network needs a multiple of {multiple} rows.")
    if sizes is None:
        each, more = divmod(rows // multiple, patches)
        if not each:
            most = rows // multiple
            raise AbreastError(f"a picture of {rows} rows has at most {most} strips of {multiple} rows, not {patches}.")
        sizes = [multiple * (each + (rank < more)) for rank in range(patches)]
    if len(sizes) != patches or sum(sizes) != rows or any(size < 1 or size % multiple for size in sizes):
        raise AbreastError(
            f"{patches} strips of a picture of {rows} rows are as many multiples of {multiple} that add up to it, "
            f"not {list(sizes)}."
        )
    return Strips(tuple(sizes))
