"""Ranks of one process on threads, of which one runs: it hands the baton on only where it must wait.

So ranks are written as plain blocking code, which may sit inside a module's forward or an autograd hook, and what
happens is the same on every run. With times, the baton goes to whoever is earliest.
"""

from __future__ import annotations

import contextvars
import ctypes
import heapq
import threading
from collections.abc import Callable, Sequence
from typing import Any

from abreast.core.errors import AbreastError

from .state import Streams, Surroundings


class Ended(BaseException):
    """Ends a rank because another one failed. No Exception, so that it passes through the rank's own handlers."""


class Baton:
    """Runs n functions in turn.

    timed: hand on to the ready rank with the smallest time (ties: the lower rank), else to the one that has been ready
    longest. The methods below are called by the rank that holds the baton.
    """

    def __init__(self, n: int, timed: bool):
        self.n, self.timed = n, timed
        self.idents = [0] * n
        self.gates = [threading.Lock() for _ in range(n)]
        self.waits: list[Callable[[], str] | None] = [None] * n  # what a rank that is not ready waits for, in words
        self.finished = [False] * n
        self.error: BaseException | None = None
        self.over = threading.Event()
        self.turns = 0
        self.queue: list[tuple[float, int, int]] = []
        self.streams: Streams | None = None
        self.holder = 0

    def run(self, bodies: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run the functions, one for each rank; their results. Raises what the first rank to fail raised."""
        if self.n == 1:
            return [self._alone(bodies[0])]
        results: list[Any] = [None] * self.n
        start, surroundings = Streams(), Surroundings()
        ends: list[Streams] = [start] * self.n
        self.streams = start

        def body(rank: int) -> None:
            self.idents[rank] = threading.get_ident()
            self.gates[rank].acquire()
            try:
                if self.error is None:
                    with surroundings.entered():
                        start.set(self.streams)
                        self.streams = start
                        results[rank] = bodies[rank]()
                        ends[rank] = self.streams = Streams(self.streams)
            except Ended:
                pass
            except BaseException as error:
                error.add_note(f"(raised on rank {rank} of {self.n})")
                self.fail(error)
            self.finished[rank] = True
            self._hand_on()

        threads = []
        for rank in range(self.n):
            self.gates[rank].acquire()
            self.wake(rank, 0.0)
            context = contextvars.copy_context()
            threads.append(threading.Thread(target=context.run, args=(body, rank), name=f"rank {rank}", daemon=True))
        self._start(threads)
        try:
            self._until_over(threads)
        finally:
            # A thread that outlives the call aborts the interpreter at its exit.
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        ends[0].set(self.streams)
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None
        return results

    def _alone(self, body: Callable[[], Any]) -> Any:
        """A single rank stays on the caller's thread, with all that torch keeps there."""
        self.idents[0] = threading.get_ident()
        self.gates[0].acquire()
        try:
            return body()
        except Ended:
            assert self.error is not None
            raise self.error from None

    def _start(self, threads: Sequence[threading.Thread]) -> None:
        """Start the ranks, and hand the baton to the first; to none where the system has not enough threads."""
        started = 0
        try:
            for thread in threads:
                thread.start()
                started += 1
        except RuntimeError:
            self.error = AbreastError(
                f"this machine has no more than {started} threads to spare for {self.n} ranks: stack the ranks' work "
                "in tensors, or raise the limit on threads."
            )
            self.finished[started:] = [True] * (self.n - started)
            self.queue = [(0.0, rank, rank) for rank in range(started)]
        self._hand_on()

    def wake(self, rank: int, time: float) -> None:
        """Make a waiting rank ready, from this time on."""
        self.waits[rank] = None
        self.turns += 1
        heapq.heappush(self.queue, (time, rank, self.turns) if self.timed else (0.0, self.turns, rank))

    def wait(self, rank: int, why: Callable[[], str]) -> None:
        """Hand the baton on until another rank calls `wake`. why: in words, for the error where nobody can."""
        self.check(rank)
        self.waits[rank] = why
        self._yield(rank)

    def give_way(self, rank: int, time: float) -> None:
        """With times: let every ready rank that is earlier go first."""
        self.check(rank)
        if self.timed and self.queue and self.queue[0] < (time, rank, 0):
            self.wake(rank, time)
            self._yield(rank)

    def step_back(self, rank: int, time: float) -> None:
        """Let the other ready ranks go first (with times, those that are not later)."""
        if self.queue:
            self.wake(rank, time)
            self._yield(rank)

    def check(self, rank: int) -> None:
        """Raise Ended where another rank has failed, and AbreastError on a thread that is not this rank's."""
        if self.error is not None:
            raise Ended
        if threading.get_ident() != self.idents[rank]:
            raise AbreastError(
                f"rank {rank}'s team or group is used on another thread than its own: by another rank, or by a thread "
                "that the rank started."
            )

    def fail(self, error: BaseException) -> None:
        """End every rank, one after another, where it waits; `run` raises `error`."""
        if self.error is None:
            self.error = error
            for rank, why in enumerate(self.waits):
                if why is not None:
                    self.wake(rank, 0.0)

    def _yield(self, rank: int) -> None:
        mine = Streams(self.streams)
        self.streams = mine
        self._hand_on()
        self.gates[rank].acquire()
        if self.error is not None:
            raise Ended
        mine.set(self.streams)
        self.streams = mine

    def _hand_on(self) -> None:
        if not self.queue and not all(self.finished):
            waiting = "; ".join(f"rank {r} waits for {why()}" for r, why in enumerate(self.waits) if why)
            self.fail(AbreastError(f"deadlock: {waiting}."))
        if self.queue:
            _, a, b = heapq.heappop(self.queue)
            self.holder = a if self.timed else b
            self.gates[self.holder].release()
        else:
            self.over.set()

    def _until_over(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for the ranks. Ctrl-C is passed on to the rank that runs; the others end as after any error."""
        while not self.over.is_set():
            try:
                # In turns, because an exception for this thread is noticed only between them.
                self.over.wait(0.5)
            except BaseException as error:
                holder = threads[self.holder].ident
                assert holder is not None
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(holder), ctypes.py_object(type(error)))
