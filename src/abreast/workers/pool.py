"""Processes that stay alive between jobs: starting one means importing torch, which takes seconds."""

from __future__ import annotations

import multiprocessing as mp
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import TYPE_CHECKING, Any

from abreast.core.errors import AbreastError
from abreast.core.ledger import Lane, Ledger

from . import rank as ranks
from .rank import Answer, Job

if TYPE_CHECKING:
    from .team import Team

GRACE = 1.0


class Pool:
    """n processes on this machine, warm: `World(pool=Pool(4))` runs workers on them.

    They talk over the loopback interface only. limit: seconds that a job, or any wait inside it, may take. threads: of
    torch in each process; more than one beside other processes is slower, and changes bits. A worker and what it
    returns travel by cloudpickle, so they may be lambdas and closures. An error in a rank, a rank that dies or is not
    done in time is one error for the job; the next job finds the pool whole again. Close it, or use it in a `with`.
    Raises AbreastError where size or limit make no sense.
    """

    def __init__(self, size: int, limit: float = 300.0, threads: int = 1):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise AbreastError(f"a pool has at least one process, not {size!r}.")
        if not limit > 0 or threads < 1:
            raise AbreastError(f"a pool needs a limit above 0 seconds and at least one thread, not {limit}, {threads}.")
        self.size, self.limit, self.threads = size, float(limit), threads
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "abreast.workers.processes"])
        self._path = tempfile.mkdtemp(prefix="abreast-")
        self._processes: list[Any] = [None] * size
        self._connections: list[Any] = [None] * size
        self._lock = threading.Lock()
        self._jobs = self._made = 0
        self._closed = False
        self._end = util.Finalize(self, _shut, (self._processes, self._connections, self._path), exitpriority=10)
        for rank in range(size):
            self._start(rank)

    def __repr__(self) -> str:
        return f"Pool({self.size}{', closed' if self._closed else ''})"

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        self._end()

    def run(self, worker: Callable[[Team], Any], lanes: Sequence[Lane], net: str) -> list[Any]:
        """Call `worker` on every rank; what they return, with their events added to the lanes' ledger."""
        from .parts import adopt
        from .state import Streams, Surroundings

        whole = lanes[0].ledger
        names = [lane.name for lane in lanes]
        with self._lock:
            if self._closed:
                raise AbreastError("this pool is closed: make another.")
            dead = [rank for rank in range(self.size) if not self._processes[rank].is_alive()]
            if dead:
                self._renew(dead)
            self._jobs += 1
            job = Job(
                self._jobs, self._made, _travelling(worker), Streams(), Surroundings(), names, net,
                dict(whole.kinds), whole._zero,
            )  # fmt: skip
            answers = self._answers(job)
        from .processes import Leftovers

        if not Leftovers.clean([answer.left for answer in answers if answer.left is not None]):
            # What is still under way would be received by the next job.
            self._made += 1
        links = {link for answer in answers for link in answer.links}
        adopt(whole, [Ledger.from_json(answer.ledger) for answer in answers], links)
        assert answers[0].streams is not None
        answers[0].streams.set()
        return [answer.value for answer in answers]

    def _answers(self, job: Job) -> list[Answer]:
        """Every rank's answer to a job. Raises the error to report where one has failed; all ranks are alive then."""
        answers: dict[int, Answer] = {}
        dead: dict[int, str] = {}
        data = pickle.dumps(job)
        try:
            for rank in range(self.size):
                try:
                    self._connections[rank].send_bytes(data)
                except OSError:
                    dead[rank] = self._bury(rank)
            self._collect(answers, dead)
        except BaseException:
            self._renew([rank for rank in range(self.size) if rank not in answers])
            raise
        failed = [answer for _, answer in sorted(answers.items()) if answer.error is not None]
        if dead or failed:
            self._renew(list(dead))
            raise self._verdict(dead, failed)
        return [answers[rank] for rank in range(self.size)]

    def _collect(self, answers: dict[int, Answer], dead: dict[int, str]) -> None:
        """Wait for the ranks; after the first failure only as long as the others need to notice."""
        end = time.monotonic() + GRACE + (0.0 if dead else self.limit)
        waiting = {self._connections[rank]: rank for rank in range(self.size) if rank not in dead}
        while waiting:
            ready = wait(list(waiting), max(0.0, end - time.monotonic()))
            if not ready:
                for rank in waiting.values():
                    dead[rank] = ""
                    self._processes[rank].kill()
                return
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    answers[rank] = pickle.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    dead[rank] = self._bury(rank)
                if rank in dead or answers[rank].error is not None:
                    end = min(end, time.monotonic() + GRACE)

    def _verdict(self, dead: dict[int, str], failed: list[Answer]) -> BaseException:
        """The one error that says what went wrong: a death, else a rank's own error, else that time ran out."""
        killed = [f"rank {rank} of {self.size} {how}" for rank, how in sorted(dead.items()) if how]
        if killed:
            return AbreastError(
                f"{'; '.join(killed)} during a job, which is lost; the next job runs on all ranks again."
            )
        own = [answer.error for answer in failed if not answer.lost] or [answer.error for answer in failed]
        if own:
            assert own[0] is not None
            return own[0]
        late = f"rank{'s' * (len(dead) > 1)} {', '.join(map(str, sorted(dead)))} of {self.size}"
        return AbreastError(f"{late} took longer than {self.limit:g} s: give the pool a longer limit.")

    def _renew(self, broken: Sequence[int]) -> None:
        """Start these ranks again, and have all connect anew for the next job."""
        self._made += 1
        for rank in broken:
            self._bury(rank)
        for rank in broken:
            self._start(rank)

    def _bury(self, rank: int) -> str:
        """End a process for good; how it ended."""
        process = self._processes[rank]
        process.join(0.2)
        process.kill()
        process.join()
        code = process.exitcode
        if code is not None and code < 0:
            return f"was killed ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"

    def _start(self, rank: int) -> None:
        if self._connections[rank] is not None:
            self._connections[rank].close()
        ours, theirs = self._context.Pipe()
        given = (theirs, rank, self.size, self._path, self.limit, self.threads)
        process = self._context.Process(target=ranks.main, args=given, name=f"rank {rank}")
        with _no_main():
            process.start()
        theirs.close()
        self._processes[rank], self._connections[rank] = process, ours


def _shut(processes: list[Any], connections: list[Any], path: str) -> None:
    for connection in connections:
        if connection is not None:
            connection.close()
    for process in processes:
        if process is not None:
            process.join(2.0)
            process.kill()
            process.join()
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _no_main() -> Iterator[None]:
    """Start processes without the caller's script: they would run it again, guarded or not, and workers bring along
    what they need of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _travelling(worker: Callable[..., Any]) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps(worker)
    except Exception as error:
        raise AbreastError(f"this worker does not travel to processes: {error}") from None
