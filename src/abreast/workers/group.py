"""torch.distributed on the ranks of one process: a process group whose operations are the Team's.

So DeviceMesh, DTensor, FSDP2 and pipelining run on ranks that take turns, and what they transfer lands in the ledger.
torch keeps one world of groups for each process; while ranks use their groups, every thread has a world of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from abreast.core.errors import AbreastError

from . import calls
from .calls import Head
from .team import Handle, post

if TYPE_CHECKING:
    from .inline import InlineSide

# Their stubs know only one of the ways in which torch calls a group, and nothing of its worlds.
c10d: Any = distributed_c10d
ProcessGroup: Any = dist.ProcessGroup

# DeviceMesh asks for this name to tell the meshes of different threads apart.
BACKEND = "threaded"
OPS = {
    "SUM": "sum", "AVG": "mean", "MAX": "max", "MIN": "min", "PRODUCT": "product", "BAND": "and", "BOR": "or",
    "BXOR": "xor",
}  # fmt: skip
DEFAULT = "0"


class ThreadsWorld(threading.local):
    """What torch keeps of process groups, for each thread."""

    def __init__(self) -> None:
        self.default_pg: dist.ProcessGroup | None = None
        self.pg_map: dict[Any, Any] = {}
        self.pg_names: dict[Any, Any] = {}
        self.pg_group_ranks: dict[Any, Any] = {}
        self.pg_backend_config: dict[Any, Any] = {}
        self.group_count = 0
        self.tags_to_pg: dict[Any, Any] = {}
        self.pg_to_tag: dict[Any, Any] = {}
        self.pg_coalesce_state: dict[Any, Any] = {}
        self.comms: list[Any] = []
        self.pg_config_info: list[Any] = []


class _Installed:
    """How many runs use worlds of threads, and the world they stand in for."""

    lock = threading.Lock()
    users = 0
    world: Any = None


def inline_group(side: InlineSide) -> Any:
    """The group of this side's ranks, as torch knows it on this rank's thread; the default group comes with it."""
    hall = side.hall
    root = hall.everywhere[0]
    if not root.grouped:
        root.grouped = True
        _install()
        root.leaving.append(_uninstall)
    if c10d._world.default_pg is None:
        default = InlineGroup(root.sides[side.me], DEFAULT)
        c10d._update_default_pg(default)
        _register(default, DEFAULT)
        c10d._world.group_count = 1
        root.parting[side.me].append(_forget)
    if hall is root:
        return c10d._world.default_pg
    for group, name in c10d._world.pg_names.items():
        if name == hall.net:
            return group
    group = InlineGroup(side, hall.net)
    _register(group, hall.net)
    return group


class InlineGroup(ProcessGroup):
    """A process group of ranks on threads. What is posted is carried out when its work is waited for."""

    def __init__(self, side: InlineSide, name: str):
        super().__init__(side.rank, len(side.ranks))
        self.side, self._name = side, name

    def __repr__(self) -> str:
        return f"InlineGroup(rank {self.side.rank} of {len(self.side.ranks)}, {self.side.net!r})"

    def size(self) -> int:
        return len(self.side.ranks)

    def rank(self) -> int:
        return self.side.rank

    def getBackendName(self) -> str:
        return BACKEND

    @property
    def group_name(self) -> str:
        return self._name

    def _set_group_name(self, name: str) -> None:
        self._name = name

    def shutdown(self) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to close."""

    def new_group(
        self,
        ranks: Sequence[int],
        timeout: Any = None,
        pg_options: Any = None,
        group_name: str = "",
        group_desc: str | None = None,
    ) -> InlineGroup | None:
        """What torch.distributed.new_group calls, on every rank."""
        if self.side.me not in ranks:
            return None
        hall = self.side.hall.beside(tuple(ranks), f"{group_desc or 'group'} {group_name}")
        return InlineGroup(hall.side(list(ranks).index(self.side.me), self.side.lane, self.side.device), group_name)

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> Work:
        op = _op(opts)
        handles = [self._post(Head("all_reduce", op), [x]) for x in tensors]
        return Work(handles, lambda values: _put_all(tensors, values), tensors)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> Work:
        return self.allreduce(tensors, opts)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Work:
        handles = [self._post(Head("all_gather"), [x]) for x in inputs]

        def put(values: list[list[Tensor]]) -> None:
            for into, got in zip(outputs, values):
                _put_all(into, got)

        return Work(handles, put, outputs[0])

    def allgather_coalesced(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> Work:
        # Here outputs are by rank, then by tensor.
        return self.allgather([list(of_tensor) for of_tensor in zip(*outputs)], inputs, opts)

    def all_gather_single(self, output: Tensor, x: Tensor, opts: Any = None) -> Work:
        return self.all_gather_single_coalesced([output], [x], opts)

    def all_gather_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        handles = [self._post(Head("all_gather"), [x]) for x in inputs]

        def put(values: list[list[Tensor]]) -> None:
            for x, got in zip(outputs, values):
                _put(x, torch.cat([value.reshape(-1) for value in got]))

        return Work(handles, put, outputs)

    def reduce_scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any = None) -> Work:
        handles = [self._post(Head("reduce_scatter", _op(opts)), parts) for parts in inputs]
        return Work(handles, lambda values: _put_all(outputs, values), outputs)

    def reduce_scatter_single(self, output: Tensor, x: Tensor, opts: Any = None) -> Work:
        return self.reduce_scatter_single_coalesced([output], [x], opts)

    def reduce_scatter_single_coalesced(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        return self.reduce_scatter(outputs, [list(x.reshape(self.size(), -1).unbind()) for x in inputs], opts)

    def all_to_all_single(
        self, output: Tensor, x: Tensor, output_splits: Any = None, input_splits: Any = None, opts: Any = None
    ) -> Work:
        sizes = list(input_splits or []) or [len(x) // self.size()] * self.size()
        handle = self._post(Head("all_to_all"), list(x.split(sizes)))
        return Work([handle], lambda values: _put(output, torch.cat([v.reshape(-1) for v in values[0]])), [output])

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> Work:
        handle = self._post(Head("all_to_all"), inputs)
        return Work([handle], lambda values: _put_all(outputs, values[0]), outputs)

    def broadcast(self, tensors: list[Tensor], opts: Any) -> Work:
        handles = [self._post(Head("broadcast", peer=opts.rootRank), [x]) for x in tensors]
        return Work(handles, lambda values: _put_all(tensors, values), tensors)

    def reduce(self, tensors: list[Tensor], opts: Any) -> Work:
        op = _op(opts)
        handles = [self._post(Head("gather", peer=opts.rootRank), [x]) for x in tensors]

        def put(values: list[list[Tensor] | None]) -> None:
            for x, got in zip(tensors, values):
                if got is not None:
                    _put(x, calls.fold(got, op))

        return Work(handles, put, tensors)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> Work:
        handle = self._post(Head("gather", peer=opts.rootRank), [inputs[0]])

        def put(values: list[list[Tensor] | None]) -> None:
            _put_all(outputs[0] if outputs else [], values[0] or [])

        return Work([handle], put, inputs)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> Work:
        root = opts.rootRank
        parts = inputs[0] if self.rank() == root else [outputs[0].new_empty(0)] * self.size()
        handle = self._post(Head("all_to_all"), parts)
        return Work([handle], lambda values: _put(outputs[0], values[0][root]), outputs)

    def barrier(self, opts: Any = None) -> Work:
        return Work([self._post(Head("barrier"), [])], lambda values: None, [])

    def send(self, tensors: list[Tensor], to: int, tag: int = 0) -> Work:
        x = tensors[0]
        with torch.no_grad():
            ticket = self.side.send(x, calls.spec(x, "send"), to, tag)
        return Work([Handle(ticket, self.side.lane)], lambda values: None, tensors)

    def recv(self, tensors: list[Tensor], source: int | None, tag: int = 0) -> Work:
        handle = Handle(self.side.receive(source, tag), self.side.lane)
        return Work([handle], lambda values: _put(tensors[0], values[0]), tensors)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> Work:
        return self.recv(tensors, None, tag)

    def _post(self, head: Head, tensors: Sequence[Tensor]) -> Handle[Any]:
        with torch.no_grad():
            specs = tuple(calls.spec(x, head.kind) for x in tensors)
            return post(self.side, Head(head.kind, head.op, head.peer, specs), tensors, later=True)

    # The names before torch 2.12, by which older code calls them.
    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single
    alltoall_base = all_to_all_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced


class Work(dist.Work):
    """What torch waits for. put: writes what came into torch's output tensors."""

    def __init__(self, handles: Sequence[Handle[Any]], put: Callable[[list[Any]], Any], outputs: Sequence[Tensor]):
        super().__init__()
        self.handles, self.put, self.outputs, self.over = handles, put, list(outputs), False

    def wait(self, timeout: Any = None) -> bool:
        if not self.over:
            values = [handle.wait() for handle in self.handles]
            with torch.no_grad():
                self.put(values)
            self.over = True
        return True

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        return self.over or all(handle.done() for handle in self.handles)

    def is_success(self) -> bool:
        return self.over

    def result(self) -> list[Tensor]:
        self.wait()
        return self.outputs

    def get_future(self) -> Any:
        """A future that is done: whoever chains on it waits here, where the baton can be handed on."""
        self.wait()
        future: torch.futures.Future[list[Tensor]] = torch.futures.Future()
        future.set_result(self.outputs)
        return future

    def _source_rank(self) -> int:
        return self.handles[0].source

    source_rank = _source_rank


def _op(opts: Any) -> str:
    wanted = dist.ReduceOp.SUM if opts is None else opts.reduceOp
    for name, op in OPS.items():
        if wanted == getattr(dist.ReduceOp, name):
            return op
    raise AbreastError(f"ranks on threads reduce by {', '.join(OPS)}, not by {wanted}.")


def _put_all(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for x, value in zip(into, values):
        _put(x, value)


def _put(into: Tensor, value: Tensor) -> None:
    # Collectives change their outputs behind autograd's back, on every back end.
    into = into.detach()
    into.copy_(value.view(into.shape) if value.numel() == into.numel() else value)


def _register(group: InlineGroup, name: str) -> None:
    ranks = {rank: i for i, rank in enumerate(group.side.ranks)}
    store = group.side.hall.store()
    c10d._register_pg_in_world(
        group, BACKEND, store, c10d.GroupName(name), f"cpu:{BACKEND},cuda:{BACKEND}", ranks, add_to_default_tag=True
    )


def _forget() -> None:
    """Take this thread's groups from torch: the next thread may get the same number."""
    c10d._unregister_all_process_groups()
    vars(c10d._world).update(vars(ThreadsWorld()))


def _install() -> None:
    with _Installed.lock:
        if _Installed.users == 0:
            if BACKEND not in dist.Backend.backend_list:
                dist.Backend.backend_list.append(BACKEND)
                dist.Backend.backend_capability[BACKEND] = ["cpu", "cuda"]
            # Its functions take the default group of whoever imports it first for their default.

            _Installed.world = c10d._world
            c10d._world = ThreadsWorld()
            c10d.torch._C._distributed_c10d._set_thread_isolation_mode(True)
        _Installed.users += 1


def _uninstall() -> None:
    with _Installed.lock:
        _Installed.users -= 1
        if _Installed.users == 0:
            c10d._world = _Installed.world
            c10d.torch._C._distributed_c10d._set_thread_isolation_mode(False)
