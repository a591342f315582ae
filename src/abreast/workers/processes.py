"""A rank that is a process: its end of a group, and what happens around its worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroup, Store

from abreast.core.ledger import Lane, Ledger

from . import calls
from .calls import Cost, Head, Spec
from .parts import mark
from .team import Here, Side, Team, Ticket
from .wire import MESSAGE, Wire, cooked, payload_slot, raw, read_message, written_message

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Work


class Home:
    """What a process has of its world for one run: the store to meet at, the wire to all ranks, the device, the
    backend of torch's own groups, and a name unlike that of any run before on this store."""

    def __init__(self, store: Store, wire: Wire, limit: float, device: torch.device, backend: str, name: str):
        self.store, self.wire, self.limit = store, wire, limit
        self.device, self.backend, self.name = device, backend, name
        self.sides: list[ProcessSide] = []
        self.groups: list[ProcessGroup] = []
        self.links: set[str] = set()

    def run(self, worker: Callable[[Team], Any], ledger: Ledger, lane: Lane, net: str) -> tuple[Any, Leftovers]:
        """Call `worker` on this rank's team; what it returns, and what it left behind. Its lanes' ends are marked.

        Other ranks may still receive what this one has sent: `leave` only when they have all come to their ends.
        """
        mark(lane)
        side = ProcessSide(self, self.wire, tuple(range(self.wire.size)), net, lane)
        value = worker(Team(side))
        for one in self.sides:
            one.finish()
        for each in ledger.lanes.values():
            if each.waits != (each.last,):
                mark(each)
        messages = {(s.net, a, b): n for s in self.sides for (a, b), n in s.numbers.items()}
        received = {(s.net, a, b): n for s in self.sides for (a, b), n in s.received.items()}
        open_ = any(not ticket.taken for s in self.sides for ticket in s.receives)
        return value, Leftovers(messages, received, open_)

    def leave(self) -> None:
        """Let go of what belongs to this run alone."""
        for one in self.sides:
            one.leave()
        for group in self.groups:
            torch.distributed.destroy_process_group(group)
        self.sides, self.groups = [], []

    def place(self, spec: Spec) -> torch.device:
        """Where a tensor of this kind arrives."""
        return self.device if self.device.type == spec.device else torch.device("cpu")


class Leftovers:
    """Messages sent and received by one rank, by (net, from, to), and whether it still waits for one: the next run on
    the same wire must not find them."""

    def __init__(self, sent: dict[Any, int], received: dict[Any, int], waits: bool):
        self.sent, self.received, self.waits = sent, received, waits

    @staticmethod
    def clean(of_ranks: Sequence[Leftovers]) -> bool:
        """Whether every message was received, and nobody waits."""
        sent = {key: n for one in of_ranks for key, n in one.sent.items()}
        received = {key: n for one in of_ranks for key, n in one.received.items()}
        return sent == received and not any(one.waits for one in of_ranks)


class ProcessSide(Side):
    """This process's end of a group."""

    def __init__(self, home: Home, wire: Wire, ranks: tuple[int, ...], net: str, lane: Lane):
        self.home, self.wire, self.ranks, self.net, self.lane = home, wire, ranks, net, lane
        self.rank, self.device = wire.rank, home.device
        self.numbers: dict[tuple[int, int], int] = {}  # messages sent, by (from, to)
        self.received: dict[tuple[int, int], int] = {}
        self.before: dict[int, int] = {}  # the event of the last message to a rank
        self.outbox: deque[tuple[list[Work], list[Tensor]]] = deque()
        self.tickets: list[Posted] = []
        self.flying: list[Future[Any]] = []
        self.receives: list[Arrival] = []
        self.thread: ThreadPoolExecutor | None = None
        self.splits = 0
        self.registered: ProcessGroup | None = None
        home.sides.append(self)
        home.links.add(net)

    def post(self, head: Head, tensors: Sequence[Tensor], later: bool = False) -> Ticket[Any]:
        copies = [calls.packed(x) for x in tensors]
        # What it costs is known once all heads are here; its place on the link is taken now.
        event = self.lane.ledger.add(head.kind, lane=self.net, after=self.lane.waits, bytes=1.0)
        future = self.in_turn(lambda: self.perform(head, copies), later)
        self.tickets = [t for t in self.tickets if not t.taken]
        self.tickets.append(Posted(self, future, event))
        return self.tickets[-1]

    def in_turn(self, call: Callable[[], Any], later: bool) -> Future[Any]:
        """Make a call on the wire after those that are under way: on a thread if there are any, or if it is for
        later. Ranks that wait for this one then get on, whatever it does meanwhile."""
        if later or not all(future.done() for future in self.flying):
            if self.thread is None:
                self.thread = ThreadPoolExecutor(1, self.net)
            future = self.thread.submit(call)
        else:
            future = Future()
            future.set_result(call())
        self.flying = [future]
        return future

    def perform(self, head: Head, copies: Sequence[Tensor]) -> tuple[Any, Cost]:
        """Exchange heads, compare them, move the bytes; what comes out, and what it cost."""
        heads = self.wire.heads(head)
        calls.agree(heads, self.ranks)
        return move(self.wire, heads, copies, self.home.place), calls.cost(heads)

    def send(self, x: Tensor, spec: Spec, to: int, tag: int) -> Ticket[None]:
        number = self.numbers.get((self.rank, to), 0)
        self.numbers[self.rank, to] = number + 1
        data, head = raw(calls.packed(x).cpu()), written_message(number, spec)
        works = [self.wire.send(head, to, tag)]
        if data.numel():
            works.append(self.wire.send(data, to, payload_slot(number)))
        self.outbox.append((works, [data, head]))
        while self.outbox and all(work.is_completed() for work in self.outbox[0][0]):
            self.outbox.popleft()
        before = [self.before[to]] if to in self.before else []
        event = self.message(self.rank, to, number, spec, [*self.lane.waits, *before])
        self.before[to] = event
        return Here(None, event)

    def receive(self, source: int | None, tag: int) -> Ticket[Tensor]:
        self.receives = [r for r in self.receives if not r.taken]
        self.receives.append(Arrival(self, source, tag))
        return self.receives[-1]

    def message(self, source: int, to: int, number: int, spec: Spec, after: Sequence[int]) -> int:
        """Record a message: on a lane of its own, because its receiver may take messages in another order."""
        link, cost = f"{self.net} {source}>{to}", calls.message(spec)
        self.home.links.add(link)
        lane = self.lane.ledger.lane(f"{link} #{number}")
        return lane.add("send", cost.size, after=after, span=cost.span, bytes=cost.bytes)

    def split(self, colour: int, name: str) -> Side:
        heads = self.in_turn(lambda: self.wire.heads(Head("split", name, colour)), later=False).result()
        calls.agree(heads, self.ranks)
        self.splits += 1
        members = [i for i, head in enumerate(heads) if head.peer == colour]
        ranks, net = tuple(self.ranks[i] for i in members), f"{self.net} {name} {colour}"
        store = PrefixStore(f"{self.home.name}/{self.net}/{self.splits}/{colour}", self.home.store)
        wire = Wire(store, members.index(self.rank), len(members), self.wire.limit)
        side = ProcessSide(self.home, wire, ranks, net, self.lane)
        if self.device.type != "cpu":
            wire.beside[self.device.type] = side.group()
        return side

    def group(self) -> ProcessGroup:
        home = self.home
        if self.wire is home.wire:
            assert torch.distributed.group.WORLD is not None
            return torch.distributed.group.WORLD
        if self.registered is None:
            self.registered = registered(self.ranks, self.rank, f"{home.name}/{self.net}", home)
            home.groups.append(self.registered)
        return self.registered

    def finish(self) -> None:
        """Wait for what nobody has waited for; what its events cost is then known."""
        for ticket in self.tickets:
            ticket.settle()

    def leave(self) -> None:
        """Let go of what is this group's alone."""
        if self.thread is not None:
            self.thread.shutdown(wait=False, cancel_futures=True)
        if self.wire is not self.home.wire:
            self.wire.close()


class Posted:
    """The ticket of a collective."""

    source = -1

    def __init__(self, side: ProcessSide, future: Future[tuple[Any, Cost]], event: int):
        self.side, self.future, self.event, self.taken = side, future, event, False

    def settle(self) -> Any:
        """Wait for the end, and put down what it cost."""
        value, cost = self.future.result()
        if not self.taken:
            events, self.taken = self.side.lane.ledger.events, True
            size, span, volume = cost
            events[self.event] = events[self.event]._replace(size=size, span=span, bytes=volume)
        return value

    def take(self) -> Any:
        return self.settle()

    def done(self) -> bool:
        return self.future.done()


class Arrival:
    """The ticket of a message. Its bytes come when it is waited for."""

    def __init__(self, side: ProcessSide, source: int | None, tag: int):
        self.side, self.event, self.source, self.taken = side, -1, -1, False
        self.head = torch.empty(MESSAGE, dtype=torch.int64)
        self.work = side.wire.receive(self.head, source, tag)
        whom = "any rank" if source is None else f"rank {side.ranks[source]}"
        self.words, self.wanted = f"a message from {whom}" + (f" with tag {tag}" if tag else ""), source

    def take(self) -> Tensor:
        side, wire = self.side, self.side.wire
        wire.await_(self.work, self.words)
        self.taken = True
        self.source = self.work._source_rank() if self.wanted is None else self.wanted
        number, spec = read_message(self.head)
        data = torch.empty(spec.bytes, dtype=torch.uint8)
        if spec.bytes:
            wire.await_(wire.receive(data, self.source, payload_slot(number)), self.words)
        key = (self.source, side.rank)
        side.received[key] = side.received.get(key, 0) + 1
        self.event = side.message(*key, number, spec, ())
        return cooked(data, spec, side.home.place(spec))

    def done(self) -> bool:
        return bool(self.work.is_completed())


def move(wire: Wire, heads: Sequence[Head], mine: Sequence[Tensor], place: Callable[[Spec], torch.device]) -> Any:
    """Carry out a call that all ranks agree about, with the bytes that `calls.cost` counts: a sum is an all-to-all of
    chunks, which are added in rank order, and an all-gather of the results (rounded up to equal chunks). place: where
    a tensor arrives that this rank has none like."""
    head, rank, n = heads[wire.rank], wire.rank, wire.size
    some = [s for h in heads for s in h.specs]
    device = mine[0].device if mine else place(some[0]) if some else torch.device("cpu")
    match head.kind:
        case "all_gather":
            sizes = [h.specs[0].bytes for h in heads]
            if len(set(sizes)) == 1:
                rows: Sequence[Tensor] = list(wire.gather(raw(mine[0]), head.kind))
            else:
                parts = [raw(mine[0]) if r != rank else None for r in range(n)]
                rows = wire.exchange(parts, [0 if r == rank else sizes[r] for r in range(n)], device, head.kind)
            return [mine[0] if r == rank else cooked(rows[r], h.specs[0], device) for r, h in enumerate(heads)]
        case "all_reduce":
            return _summed(wire, head, mine[0])
        case "reduce_scatter" | "all_to_all":
            specs = [h.specs[rank] for h in heads]
            parts = [raw(x) if r != rank else None for r, x in enumerate(mine)]
            rows = wire.exchange(parts, [0 if r == rank else s.bytes for r, s in enumerate(specs)], device, head.kind)
            got = [mine[r] if r == rank else cooked(rows[r], specs[r], device) for r in range(n)]
            return got if head.kind == "all_to_all" else calls.fold(got, head.op)
        case "broadcast":
            sent = heads[head.peer].specs[0]
            x = mine[0] if rank == head.peer else torch.empty(sent.shape, dtype=sent.dtype, device=device)
            wire.broadcast(raw(x), head.peer, head.kind)
            return x
        case "gather":
            parts = [raw(mine[0]) if r == head.peer != rank else None for r in range(n)]
            here = rank == head.peer
            sizes = [h.specs[0].bytes if here and r != rank else 0 for r, h in enumerate(heads)]
            rows = wire.exchange(parts, sizes, device, head.kind)
            if not here:
                return None
            return [mine[0] if r == rank else cooked(rows[r], h.specs[0], device) for r, h in enumerate(heads)]
        case _:
            return None


def _summed(wire: Wire, head: Head, mine: Tensor) -> Tensor:
    n, rank, spec = wire.size, wire.rank, head.specs[0]
    flat = mine.reshape(-1)
    chunk = -(-flat.numel() // n)
    pieces = [flat[r * chunk : (r + 1) * chunk] for r in range(n)]
    own = pieces[rank].numel() * spec.dtype.itemsize
    parts = [raw(x) if r != rank else None for r, x in enumerate(pieces)]
    rows = wire.exchange(parts, [0 if r == rank else own for r in range(n)], mine.device, head.kind)
    shape = Spec(spec.dtype, (pieces[rank].numel(),))
    got = [pieces[r] if r == rank else cooked(rows[r], shape, mine.device) for r in range(n)]
    total = flat.new_zeros(chunk)
    total[: pieces[rank].numel()] = calls.fold(got, head.op)
    table = wire.gather(raw(total), head.kind)
    return cooked(table.reshape(-1)[: spec.bytes], spec, mine.device)


def registered(ranks: tuple[int, ...], rank: int, name: str, home: Home) -> ProcessGroup:
    """A process group of these world ranks that torch.distributed knows, made by its members alone: new_group names a
    group by how many a rank has, which need not be the same number on all members."""
    from torch.distributed import distributed_c10d as c10d

    store, limit = PrefixStore(f"group/{name}", home.store), timedelta(seconds=home.limit)
    made, _ = c10d._new_process_group_helper(
        len(ranks), rank, list(ranks), home.backend, store, c10d.GroupName(name), timeout=limit
    )
    c10d._world.pg_group_ranks[made] = {r: i for i, r in enumerate(ranks)}
    return made
