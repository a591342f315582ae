"""Where a method runs."""

from __future__ import annotations

import copy

from abreast.core.ledger import Lane, Ledger, Priced


class World:
    """The second argument of every method. `World()` is one lane and no clock; with a machine, time is virtual: every
    event is priced on it as it is recorded."""

    def __init__(self, machine: Priced | None = None):
        self.ledger = Ledger(machine)
        self.size = 1
        self._root = self.ledger.lane("0")

    def __repr__(self) -> str:
        return f"World(size={self.size}, {self.ledger!r})"

    def lane(self, name: str | None = None) -> Lane:
        """The root lane, or a fork of it."""
        return self._root if name is None else self._root.fork(name)

    def at(self, lane: Lane) -> World:
        """The same world with another root: how a method runs inside another."""
        world = copy.copy(self)
        world._root = lane
        return world
