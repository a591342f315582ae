"""Where a method runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from abreast.core.errors import AbreastError
from abreast.core.ledger import Lane, Ledger, Priced

from .team import Team

if TYPE_CHECKING:
    from .pool import Pool

T = TypeVar("T")


class Ranks(Protocol):
    """Where a world's ranks live, if not on this process's threads."""

    size: int

    def run(self, worker: Callable[[Team], Any], lanes: Sequence[Lane], net: str) -> list[Any]: ...


class World:
    """The second argument of every method: lanes to record on, and ranks to run workers on.

    size: how many ranks `map` has. They live on threads of this process, of which one runs at a time, so that what
    happens is the same on every run. machine: time is virtual, every event is priced on it as it is recorded; ranks
    then go on in the order of their times. pool: its processes are the ranks. Raises AbreastError where the arguments
    contradict each other.
    """

    def __init__(self, size: int | None = None, machine: Priced | None = None, pool: Pool | None = None):
        if size is None:
            size = 1 if pool is None else pool.size
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            hint = ": write World(machine=...)" if hasattr(size, "seconds") else ""
            raise AbreastError(f"a world has at least one rank, not {size!r}{hint}.")
        if pool is not None and pool.size != size:
            raise AbreastError(f"a world on this pool has its {pool.size} ranks, not {size}.")
        if pool is not None and machine is not None:
            raise AbreastError("virtual time needs ranks in one process: give a machine or a pool, not both.")
        self.ledger = Ledger(machine)
        self.size = size
        self._ranks: Ranks | None = pool
        self._root = self.ledger.lane("0")

    def __repr__(self) -> str:
        return f"World(size={self.size}, {self.ledger!r})"

    @classmethod
    def torchrun(cls, size: int = 1, limit: float = 1800.0) -> World:
        """The world of the processes that torchrun started, or where it started none, `World(size)`: one script for
        both. There every process runs the script, and `map` its own rank's worker; results are gathered, so that all
        go on alike. limit: seconds that one wait for another process may take."""
        from . import torchrun

        if not torchrun.started():
            return cls(size)
        ranks = torchrun.connection(float(limit))
        world = cls(ranks.size)
        world._ranks = ranks
        return world

    @classmethod
    def on(cls, lane: Lane) -> World:
        """A world of one rank whose root is this lane, on the lane's ledger."""
        world = cls.__new__(cls)
        world.ledger, world.size, world._ranks, world._root = lane.ledger, 1, None, lane
        return world

    def lane(self, name: str | None = None) -> Lane:
        """The root lane, or a fork of it."""
        return self._root if name is None else self._root.fork(name)

    def at(self, lane: Lane) -> World:
        """The same world with another root: how a method runs inside another."""
        world = copy.copy(self)
        world._root = lane
        return world

    def with_ranks(self, n: int) -> World:
        """This world where it has n ranks; where it has one, the same with n that take turns in this process.

        For methods that know how many they need. Raises AbreastError for any other world.
        """
        if self.size == n:
            return self
        if self.size != 1 or self._ranks is not None:
            raise AbreastError(f"this method runs on {n} ranks, and the world has {self.size}: pass World({n}).")
        wider = copy.copy(self)
        wider.size = n
        return wider

    def map(self, worker: Callable[[Team], T]) -> list[T]:
        """Call `worker(team)` on every rank; the results, in rank order.

        Rank r records on the lane `rank r` (in a world whose root is another lane, `root/rank r`), which starts after
        what the root has done; the root then waits for all ranks. The ranks begin with the caller's random streams,
        and the caller goes on with rank 0's. An error in a rank ends all ranks and is raised here; ranks that wait for
        each other are an AbreastError that names the circle.
        """
        if not callable(worker):
            raise AbreastError(f"map calls a worker with a Team; {type(worker).__name__} cannot be called.")
        root = self._root
        beside = "" if root.name == "0" else f"{root.name}/"
        lanes = [self.ledger.lane(f"{beside}rank {rank}").wait(root) for rank in range(self.size)]
        results = self._run(worker, lanes, f"{beside}net")
        root.wait(*lanes)
        return results

    def _run(self, worker: Callable[[Team], Any], lanes: list[Lane], net: str) -> list[Any]:
        if self._ranks is not None:
            return self._ranks.run(worker, lanes, net)
        from . import inline

        return inline.run(worker, lanes, net)
