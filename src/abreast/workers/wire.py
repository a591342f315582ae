"""Bytes between the processes of one group, over gloo (and NCCL for tensors on a GPU).

Gloo checks nothing, so every collective begins with an exchange of heads: integers that say what is called, with which
dtypes and shapes. Nothing that comes from a peer is unpickled.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import BroadcastOptions
from torch.distributed import ProcessGroup, ProcessGroupGloo, Store

from abreast.core.errors import AbreastError

from .calls import LARGEST_TAG, MOST_AXES, OPS, Head, Spec

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "gather", "barrier", "split")
DEVICES = ("cpu", "cuda", "xpu", "mps")
DTYPES = [
    getattr(torch, name)
    for name in (
        "float32", "float64", "float16", "bfloat16", "complex64", "complex128", "complex32", "bool", "uint8", "int8",
        "int16", "int32", "int64", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
        "float8_e5m2fnuz", "float8_e8m0fnu",
    )
    if hasattr(torch, name)
]  # fmt: skip
SPEC = 3 + MOST_AXES
MESSAGE = 1 + SPEC


class Lost(AbreastError):
    """A peer is gone or silent: most likely because of an error of its own, which is the one to report."""


class Wire:
    """One rank's connections to the other ranks of a group. limit: seconds after which a wait is an error. device:
    a group that moves tensors of that device, where gloo is not to."""

    def __init__(self, store: Store, rank: int, size: int, limit: float, beside: dict[str, ProcessGroup] | None = None):
        self.rank, self.size, self.limit = rank, size, limit
        self.pg: Any = ProcessGroupGloo(store, rank, size, timedelta(seconds=limit))
        self.beside = beside or {}

    def close(self) -> None:
        """Close the sockets, so that peers that wait fail now."""
        self.pg, self.beside = None, {}

    def heads(self, head: Head) -> list[Head]:
        """Every rank's head of a call."""
        width = 4 + SPEC * self.size
        row = torch.zeros(width, dtype=torch.int64)
        row[:4] = torch.tensor([KINDS.index(head.kind), _op_code(head.op), head.peer, len(head.specs)])
        for i, s in enumerate(head.specs):
            row[4 + SPEC * i : 4 + SPEC * (i + 1)] = torch.tensor(_written(s))
        table = torch.empty(self.size * width, dtype=torch.int64)
        self.await_(self.pg._allgather_base(table, row), head.kind)
        return [_head(numbers, head) for numbers in table.view(self.size, width).tolist()]

    def exchange(
        self, parts: Sequence[Tensor | None], sizes: Sequence[int], place: torch.device, what: str
    ) -> list[Tensor]:
        """Send bytes to each rank (None: nothing), and receive `sizes` bytes from each. place: where they all are."""
        given = [x for x in parts if x is not None]
        out_sizes = [0 if x is None else x.numel() for x in parts]
        pg, device = self._for(place)
        sent = torch.cat([x.to(device) for x in given]) if given else torch.empty(0, dtype=torch.uint8, device=device)
        got = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        self.await_(pg.alltoall_base(got, sent, list(sizes), out_sizes), what)
        return list(got.split(list(sizes)))

    def gather(self, mine: Tensor, what: str) -> Tensor:
        """[rank, byte]: everybody's bytes, which must be equally many."""
        pg, device = self._for(mine.device)
        got = torch.empty(self.size * mine.numel(), dtype=torch.uint8, device=device)
        if mine.numel():
            self.await_(pg._allgather_base(got, mine.to(device)), what)
        return got.view(self.size, mine.numel())

    def broadcast(self, x: Tensor, source: int, what: str) -> None:
        """Fill `x` with the source's bytes."""
        pg, device = self._for(x.device)
        options, there = BroadcastOptions(), x.to(device)
        options.rootRank = source
        if x.numel():
            self.await_(pg.broadcast([there], options), what)
            x.copy_(there)

    def send(self, x: Tensor, to: int, slot: int) -> Any:
        """Begin to send; what it returns must be kept until it is completed."""
        return self.pg.send([x], to, slot)

    def receive(self, into: Tensor, source: int | None, slot: int) -> Any:
        """Begin to receive."""
        if source is None:
            return self.pg.recv_anysource([into], slot)
        return self.pg.recv([into], source, slot)

    def await_(self, work: Any, what: str) -> None:
        """Wait for gloo. Raises Lost where a peer is gone, or nothing came within the limit."""
        try:
            work.wait()
        except RuntimeError as error:
            if "imed out" in str(error) or "imeout" in str(error):
                raise Lost(f"rank {self.rank} waited {self.limit:g} s for {what}.") from None
            raise Lost(f"rank {self.rank} lost its connection to another rank in {what}.") from error

    def _for(self, device: torch.device) -> tuple[Any, torch.device]:
        pg = self.beside.get(device.type)
        return (self.pg, torch.device("cpu")) if pg is None else (pg, device)


def payload_slot(number: int) -> int:
    """The slot that a message's bytes travel on: its own, so that they cannot be taken for another message's."""
    return LARGEST_TAG + number % LARGEST_TAG


def raw(x: Tensor) -> Tensor:
    """A contiguous tensor's bytes."""
    return x.reshape(-1).view(torch.uint8)


def cooked(data: Tensor, s: Spec, device: Any) -> Tensor:
    """The tensor of these bytes, which may lie anywhere in a larger buffer."""
    whole = torch.empty(s.shape, dtype=s.dtype, device=device)
    raw(whole).copy_(data)
    return whole


def written_message(number: int, s: Spec) -> Tensor:
    """The head of a message."""
    return torch.tensor([number, *_written(s)])


def read_message(row: Tensor) -> tuple[int, Spec]:
    """The inverse of `written_message`."""
    number, *rest = row.tolist()
    return number, _spec(rest)


def _written(s: Spec) -> list[int]:
    if s.dtype not in DTYPES or s.device not in DEVICES:
        raise AbreastError(f"tensors of {s} do not travel between processes.")
    padding = [0] * (MOST_AXES - len(s.shape))
    return [DTYPES.index(s.dtype), DEVICES.index(s.device), len(s.shape), *s.shape, *padding]


def _spec(numbers: Sequence[int]) -> Spec:
    dtype, device, axes, *shape = numbers
    return Spec(DTYPES[dtype], tuple(shape[:axes]), DEVICES[device])


def _op_code(op: str) -> int:
    return OPS.index(op) if op in OPS else zlib.crc32(op.encode()) + len(OPS) if op else -1


def _head(numbers: Sequence[int], mine: Head) -> Head:
    kind, op, peer, count = numbers[:4]
    named = "" if op < 0 else OPS[op] if op < len(OPS) else mine.op if op == _op_code(mine.op) else f"another ({op})"
    specs = tuple(_spec(numbers[4 + SPEC * i : 4 + SPEC * (i + 1)]) for i in range(count))
    return Head(KINDS[kind], named, peer, specs)
