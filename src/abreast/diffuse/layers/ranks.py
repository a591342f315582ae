"""Ranks for a method that knows how many it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from abreast.core import AbreastError
from abreast.workers import Team, World

T = TypeVar("T")


def on_ranks(world: World, n: int, worker: Callable[[Team], T]) -> list[T]:
    """`worker` on n ranks: the world's, or in a world of one rank n that take turns in this process.

    Raises AbreastError where the world has another number.
    """
    if world.size not in (1, n):
        raise AbreastError(f"this method runs on {n} ranks with these settings, and the world has {world.size}.")
    if world.size != n:
        wide = World.on(world.lane())
        wide.size = n
        return wide.map(worker)
    return world.map(worker)
