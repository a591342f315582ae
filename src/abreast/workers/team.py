"""What a worker is given: its rank, its lane, and the other ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from abreast.core.errors import AbreastError
from abreast.core.ledger import Lane, Ledger

from . import calls
from .calls import Head, Spec

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.distributed import ProcessGroup

    from .world import World

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Ticket(Protocol[V_co]):
    """One rank's side of a transfer under way. event: its id, once `take` has returned; -1 where none is recorded.
    source: the rank that a message came from, then."""

    @property
    def event(self) -> int: ...

    @property
    def source(self) -> int: ...

    def take(self) -> V_co:
        """Wait until it has happened; what came out."""
        ...

    def done(self) -> bool:
        """Whether `take` would return at once."""
        ...


class Side(Protocol):
    """One rank's end of a group on some back end. ranks: the group's members as ranks of the world; rank, an index
    into it. net: the name of its link lanes."""

    rank: int
    ranks: tuple[int, ...]
    net: str
    lane: Lane
    device: Any

    def post(self, head: Head, tensors: Sequence[Tensor], later: bool) -> Ticket[Any]: ...
    def send(self, x: Tensor, spec: Spec, to: int, tag: int) -> Ticket[None]: ...
    def receive(self, source: int | None, tag: int) -> Ticket[Tensor]: ...
    def split(self, colour: int, name: str) -> Side: ...
    def group(self) -> ProcessGroup: ...


class Handle(Generic[V]):
    """A transfer that was posted: `wait` for what it brings."""

    def __init__(self, ticket: Ticket[V], lane: Lane):
        self._ticket, self._lane, self._posted = ticket, lane, lane.last
        self._value: tuple[V] | None = None

    def __repr__(self) -> str:
        return f"Handle({'waited for' if self._value else 'posted'})"

    def wait(self) -> V:
        """What the transfer brings, once it is here. The lane's next event waits for it.

        Its bytes count as exposed where a rank waits before its lane has recorded anything since posting, else as
        hidden. Raises AbreastError where the ranks do not agree about the call, or wait for each other in a circle.
        """
        if self._value is None:
            self._value = (self._ticket.take(),)
            event = self._ticket.event
            if event >= 0:
                exposure(self._lane.ledger, event, self._lane.last == self._posted)
                self._lane.wait(event)
        return self._value[0]

    def done(self) -> bool:
        """Whether `wait` would return at once. In virtual time: whether it is here by now, which makes the ledger one
        that depends on the clock. A loop that only asks never ends; compute between questions, or wait."""
        return self._value is not None or self._ticket.done()

    @property
    def source(self) -> int:
        """The rank that a message came from. Raises AbreastError before it was waited for."""
        if self._value is None:
            raise AbreastError("a message has a source once it was waited for.")
        return self._ticket.source


class Here(Generic[V]):
    """The ticket of a transfer that needed nobody else."""

    def __init__(self, value: V, event: int = -1, source: int = -1):
        self.value, self.event, self.source = value, event, source

    def take(self) -> V:
        return self.value

    def done(self) -> bool:
        return True


class Team:
    """A rank's view of its group: collectives and messages that record themselves.

    All tensors are copied on the way: what comes out shares no memory with what went in, and has no graph. Every call
    is one transfer event on the group's link lane (its cost: `calls.cost`), which waits for what the ranks had done
    when they posted it; a group of one transfers nothing and records nothing. Reductions are made in rank order, so
    that they have the same bits on every back end. Calls match in the order in which a group's ranks make them, and
    what ranks bring is compared before it is used: AbreastError names what differs.
    """

    def __init__(self, side: Side):
        self._side = side
        self._splits: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Team(rank {self.rank} of {self.size}, {self._side.net!r})"

    @property
    def rank(self) -> int:
        """This rank, from 0 on."""
        return self._side.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self._side.ranks)

    @property
    def lane(self) -> Lane:
        """What this rank computes on."""
        return self._side.lane

    @property
    def device(self) -> device:
        """The torch device of this rank."""
        return self._side.device

    @property
    def world(self) -> World:
        """A world of one lane, this rank's: how a method runs inside a rank."""
        from .world import World

        return World.on(self.lane)

    @property
    def group(self) -> ProcessGroup:
        """A torch.distributed process group of these ranks; on a world's team the default group, so that DeviceMesh,
        FSDP2, DTensor and pipelining run on its ranks. All ranks of the team must ask for it."""
        return self._side.group()

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """Every rank's tensor, in rank order. Shapes and dtypes may differ."""
        return self._all_gather(x, later=False).wait()

    def all_reduce(self, x: Tensor, op: str = "sum") -> Tensor:
        """The sum, mean, max or min of every rank's tensor, which must have one dtype and shape."""
        return self._all_reduce(x, op, later=False).wait()

    def reduce_scatter(self, parts: Sequence[Tensor], op: str = "sum") -> Tensor:
        """Of one part for each rank: the reduction of all ranks' parts for this one. Parts may differ in shape."""
        self._count("reduce_scatter", parts)
        specs = tuple(calls.spec(x, "reduce_scatter") for x in parts)
        for s in specs:
            calls.check_op("reduce_scatter", op, s.dtype)
        return self._post(Head("reduce_scatter", op, specs=specs), parts).wait()

    def all_to_all(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Of one part for each rank: every rank's part for this one. Shapes and dtypes may differ."""
        self._count("all_to_all", parts)
        specs = tuple(calls.spec(x, "all_to_all") for x in parts)
        return self._post(Head("all_to_all", specs=specs), parts).wait()

    def broadcast(self, x: Tensor | None, source: int = 0) -> Tensor:
        """The source's tensor. On the other ranks `x` may be None, else it must have the source's dtype and shape."""
        calls.check_peer("broadcast", "source", source, self.rank, self.size, oneself=True)
        if x is None and self.rank == source:
            raise AbreastError(f"broadcast: rank {source} is the source, and must give a tensor.")
        given = [] if x is None else [x]
        specs = tuple(calls.spec(x, "broadcast") for x in given)
        return self._post(Head("broadcast", peer=source, specs=specs), given).wait()

    def gather(self, x: Tensor, to: int = 0) -> list[Tensor] | None:
        """On rank `to` every rank's tensor, in rank order; None on the others. Shapes and dtypes may differ."""
        calls.check_peer("gather", "to", to, self.rank, self.size, oneself=True)
        return self._post(Head("gather", peer=to, specs=(calls.spec(x, "gather"),)), [x]).wait()

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._post(Head("barrier"), []).wait()

    def send(self, x: Tensor, to: int, tag: int = 0) -> None:
        """Send a message. The lane is busy until it is on its way; nobody has to receive it for that."""
        self.post_send(x, to, tag).wait()

    def recv(self, source: int | None = None, tag: int = 0) -> Tensor:
        """The next message from this rank with this tag; with None the first to arrive from any."""
        return self.post_recv(source, tag).wait()

    def post_all_gather(self, x: Tensor) -> Handle[list[Tensor]]:
        """`all_gather`, to be waited for later. `x` is copied now."""
        return self._all_gather(x, later=True)

    def post_all_reduce(self, x: Tensor, op: str = "sum") -> Handle[Tensor]:
        """`all_reduce`, to be waited for later. `x` is copied now."""
        return self._all_reduce(x, op, later=True)

    def post_send(self, x: Tensor, to: int, tag: int = 0) -> Handle[None]:
        """`send`, to be waited for later or never. `x` is copied now."""
        calls.check_peer("send", "to", to, self.rank, self.size)
        calls.check_tag("send", tag)
        return Handle(self._side.send(x, calls.spec(x, "send"), to, tag), self.lane)

    def post_recv(self, source: int | None = None, tag: int = 0) -> Handle[Tensor]:
        """`recv`, to be waited for later. Messages of one source and tag match in the order of posting; its handle
        tells the source of a message from any."""
        if self.size == 1:
            raise AbreastError("recv: this rank is alone, so no message can come.")
        if source is not None:
            calls.check_peer("recv", "source", source, self.rank, self.size)
        calls.check_tag("recv", tag)
        return Handle(self._side.receive(source, tag), self.lane)

    def split(self, colour: int, name: str | None = None) -> Team:
        """The team of all ranks that give the same colour (an integer from 0 on), numbered in the same order.

        All ranks of this team must call it. name: of its link lanes, `net name colour`; ranks that compute at the same
        time on several teams (data, tensor, pipeline parallel) then do not queue for one link.
        """
        if not isinstance(colour, int) or isinstance(colour, bool) or colour < 0:
            raise AbreastError(f"split: a colour is an integer from 0 on, not {colour!r}.")
        name = "split" if name is None else name
        if not isinstance(name, str) or not name or "#" in name:
            raise AbreastError(f"split: a name is a text without #, not {name!r}.")
        seen = self._splits[name] = self._splits.get(name, 0) + 1
        return Team(self._side.split(colour, name if seen == 1 else f"{name}.{seen}"))

    def _count(self, kind: str, parts: Sequence[Tensor]) -> None:
        if not isinstance(parts, (list, tuple)) or len(parts) != self.size:
            given = len(parts) if isinstance(parts, (list, tuple)) else type(parts).__name__
            raise AbreastError(f"{kind} takes a list of {self.size} tensors, one for each rank, not {given}.")

    def _all_gather(self, x: Tensor, later: bool) -> Handle[list[Tensor]]:
        return self._post(Head("all_gather", specs=(calls.spec(x, "all_gather"),)), [x], later)

    def _all_reduce(self, x: Tensor, op: str, later: bool) -> Handle[Tensor]:
        s = calls.spec(x, "all_reduce")
        calls.check_op("all_reduce", op, s.dtype)
        return self._post(Head("all_reduce", op, specs=(s,)), [x], later)

    def _post(self, head: Head, tensors: Sequence[Tensor], later: bool = False) -> Handle[Any]:
        return post(self._side, head, tensors, later)


def post(side: Side, head: Head, tensors: Sequence[Tensor], later: bool) -> Handle[Any]:
    """Make a collective call. A group of one does it alone, and records nothing."""
    if len(side.ranks) == 1:
        alone = calls.answer([head], [[calls.packed(x) for x in tensors]], 0, {})
        return Handle(Here(alone), side.lane)
    return Handle(side.post(head, tensors, later), side.lane)


def exposure(ledger: Ledger, event: int, exposed: bool) -> None:
    """Note a transfer's bytes as exposed or hidden: exposed where one rank stood still for it."""
    volume, facts = ledger.events[event].bytes, ledger.notes.setdefault(event, {})
    if exposed:
        facts.pop("hidden", None)
        facts["exposed"] = volume
    elif "exposed" not in facts:
        facts["hidden"] = volume
