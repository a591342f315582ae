"""What a process of a Pool does all its life: wait for a job, run its worker, answer."""

from __future__ import annotations

import faulthandler
import multiprocessing as mp
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from abreast.core.errors import AbreastError
from abreast.core.ledger import Kind, Ledger

if TYPE_CHECKING:
    from .processes import Leftovers
    from .state import Streams, Surroundings
    from .team import Team


@dataclass(frozen=True)
class Job:
    """What the parent sends. number: of the job; made: how often the pool has had to make its connections anew.
    worker: pickled. lanes: the ranks' names; zero: when the world's clock stood at 0."""

    number: int
    made: int
    worker: bytes = field(repr=False)
    streams: Streams = field(repr=False)
    surroundings: Surroundings = field(repr=False)
    lanes: list[str]
    net: str
    kinds: Mapping[str, Kind]
    zero: float


@dataclass(frozen=True)
class Answer:
    """What a rank sends back: the worker's value, or its error (and whether that only followed from another's)."""

    number: int
    value: Any = None
    ledger: str = ""
    links: frozenset[str] = frozenset()
    left: Leftovers | None = None
    streams: Streams | None = None
    error: BaseException | None = None
    lost: bool = False


class Rank:
    """The process of one rank. path: a directory that the ranks meet in."""

    def __init__(self, connection: Connection, rank: int, size: int, path: str, limit: float, threads: int):
        import torch

        torch.set_num_threads(threads)
        self.connection, self.rank, self.size, self.path, self.limit = connection, rank, size, path, limit
        self.made = -1
        self.wire: Any = None
        self.store: Any = None
        self.home: Any = None

    def serve(self) -> None:
        """Answer jobs until the parent hangs up."""
        while True:
            try:
                job = pickle.loads(self.connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            try:
                answer = self.run(job)
                data = _pickled(answer, self.rank)
            except BaseException as error:
                data = self.failed(job, error)
            try:
                self.connection.send_bytes(data)
            except OSError:
                os._exit(0)

    def run(self, job: Job) -> Answer:
        """Run the job's worker on this rank."""
        import torch

        from .processes import Home
        from .state import Streams

        # The parent has heard from all ranks: nobody still receives what this one sent in the job before.
        self.leave()
        if job.made != self.made:
            self.meet(job.made)
        worker: Callable[[Team], Any] = pickle.loads(job.worker)
        ledger = Ledger()
        ledger.kinds.update(job.kinds)
        ledger._zero = job.zero
        self.home = home = Home(self.store, self.wire, self.limit, torch.device("cpu"), "gloo", f"job {job.number}")
        job.streams.set()
        with job.surroundings.entered():
            value, left = home.run(worker, ledger, ledger.lane(job.lanes[self.rank]), job.net)
        streams = Streams() if self.rank == 0 else None
        return Answer(job.number, value, ledger.to_json(), frozenset(home.links), left, streams)

    def meet(self, made: int) -> None:
        """Connect to the other ranks."""
        import torch.distributed as dist

        from .wire import Wire

        self.part()
        limit = timedelta(seconds=self.limit)
        store = dist.FileStore(os.path.join(self.path, str(made)), self.size)
        store.set_timeout(limit)
        self.store = dist.PrefixStore("abreast", store)
        self.wire = Wire(dist.PrefixStore("wire", self.store), self.rank, self.size, self.limit)
        dist.init_process_group(
            "gloo", store=dist.PrefixStore("torch", store), rank=self.rank, world_size=self.size, timeout=limit
        )
        self.made = made

    def leave(self) -> None:
        """Let go of the last job."""
        home, self.home = self.home, None
        if home is not None:
            home.leave()

    def part(self) -> None:
        """Close the connections, so that ranks that wait for this one fail now."""
        import torch.distributed as dist

        self.leave()
        if self.wire is not None:
            self.wire.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        self.made, self.wire, self.store = -1, None, None

    def failed(self, job: Job, error: BaseException) -> bytes:
        """The pickled answer of a rank whose worker raised."""
        import traceback

        from .wire import Lost

        lost = isinstance(error, Lost) or ("gloo" in str(error) and isinstance(error, RuntimeError))
        said = "".join(traceback.format_exception(error))
        error.add_note(f"(raised on rank {self.rank} of {self.size})\n{said}")
        # Frames hold tensors and groups; what is held is not closed.
        _forget(error)
        self.part()
        try:
            data = _pickled(Answer(job.number, error=error, lost=lost), self.rank)
            pickle.loads(data)
        except BaseException:
            plain = AbreastError(f"rank {self.rank}: {type(error).__name__}: {error}")
            plain.add_note(said)
            data = _pickled(Answer(job.number, error=plain, lost=lost), self.rank)
        return data


def main(connection: Connection, rank: int, size: int, path: str, limit: float, threads: int) -> None:
    """The target of a pool's process."""
    parent = mp.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def follow() -> None:
        wait([sentinel])
        os._exit(3)

    # A parent that is killed cannot say goodbye.
    threading.Thread(target=follow, daemon=True).start()
    # Ctrl-C reaches the whole terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    Rank(connection, rank, size, path, limit, threads).serve()


def _pickled(answer: Answer, rank: int) -> bytes:
    import cloudpickle

    try:
        return cloudpickle.dumps(answer)
    except Exception as error:
        raise AbreastError(f"what the worker returned on rank {rank} does not travel: {error}") from None


def _forget(error: BaseException | None) -> None:
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
