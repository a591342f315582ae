"""Ranks that torchrun started: each process runs the whole script, and its own rank of every map."""

from __future__ import annotations

import atexit
import io
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from abreast.core.errors import AbreastError
from abreast.core.ledger import Lane, Ledger

from . import calls
from .calls import Head
from .parts import adopt
from .processes import Home, Leftovers, move
from .state import Streams
from .wire import Wire

if TYPE_CHECKING:
    from .team import Team


def started() -> bool:
    """Whether this process was started by torchrun, or in its way."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


@cache
def connection(limit: float) -> Torchrun:
    """This process's place among the others: one for its whole life."""
    return Torchrun(limit)


class Torchrun:
    """The other processes, over gloo, and over NCCL for tensors on a GPU. limit: seconds that one wait may take."""

    def __init__(self, limit: float):
        self.limit, self.device, self.backend = limit, torch.device("cpu"), "gloo"
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            self.backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            dist.init_process_group(self.backend, timeout=timedelta(seconds=limit))
            # Without it a script aborts at its end now and then.
            atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.store = dist.PrefixStore("abreast", dist.distributed_c10d._get_default_store())
        self.runs = 0
        self.wire = self._connect()

    def run(self, worker: Callable[[Team], Any], lanes: Sequence[Lane], net: str) -> list[Any]:
        """Call `worker` on this rank; what it returned on every rank, and their events on the lanes' ledger.

        Results are made of tensors, numbers, text, lists and dicts: nothing is unpickled that could run code. Raises
        AbreastError where one is not, or another rank is gone.
        """
        self.runs += 1
        streams = Streams()
        streams.__setstate__(self._shared(streams.__getstate__(), "its random streams")[0])
        streams.set()
        whole = lanes[0].ledger
        part = Ledger()
        part.kinds.update(whole.kinds)
        part._zero = whole._zero
        home = Home(self.store, self.wire, self.limit, self.device, self.backend, f"run {self.runs}")
        value, left = home.run(worker, part, part.lane(lanes[self.rank].name), net)
        mine = {
            "value": value,
            "ledger": part.to_json(),
            "links": sorted(home.links),
            "left": (left.sent, left.received, left.waits),
            "streams": Streams().__getstate__(),
        }
        everybody = self._shared(mine, "what its worker returned")
        home.leave()
        if not Leftovers.clean([Leftovers(*one["left"]) for one in everybody]):
            self.wire = self._connect()
        adopt(
            whole,
            [Ledger.from_json(one["ledger"]) for one in everybody],
            {x for one in everybody for x in one["links"]},
        )
        streams.__setstate__(everybody[0]["streams"])
        streams.set()
        return [one["value"] for one in everybody]

    def _connect(self) -> Wire:
        """A wire to all ranks that nothing is under way on."""
        beside = {} if self.device.type == "cpu" else {self.device.type: dist.group.WORLD}
        store = dist.PrefixStore(f"wire {self.runs}", self.store)
        return Wire(store, self.rank, self.size, self.limit, beside)  # type: ignore[arg-type]

    def _shared(self, mine: Any, what: str) -> list[Any]:
        """Everybody's values, by torch's format without code."""
        file = io.BytesIO()
        try:
            torch.save(mine, file)
            torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        except Exception:
            raise AbreastError(
                f"rank {self.rank}: {what} does not travel between processes of torchrun: make it of tensors, numbers, "
                "text, lists and dicts."
            ) from None
        data = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        heads = self.wire.heads(Head("all_gather", specs=(calls.spec(data, "map"),)))
        calls.agree(heads, range(self.size))
        files = move(self.wire, heads, [data], lambda spec: torch.device("cpu"))
        return [torch.load(io.BytesIO(x.numpy().tobytes()), map_location=self._here, weights_only=True) for x in files]

    def _here(self, storage: Any, location: str) -> Any:
        """Another rank's GPU is not this one's."""
        return storage if location == "cpu" else storage.to(self.device)
