"""Groups of ranks that live on the threads of one process, and take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from abreast.core.errors import AbreastError
from abreast.core.ledger import Lane, Ledger

from . import calls
from .baton import Baton
from .calls import Head, Spec
from .team import Here, Side, Team, Ticket, exposure

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


def run(worker: Callable[[Team], Any], lanes: Sequence[Lane], net: str) -> list[Any]:
    """Call `worker` on a Team for each lane; the results. Raises the first rank's error, or AbreastError where ranks
    wait for each other, or one has posted a call that others never made."""
    import torch

    ledger = lanes[0].ledger
    hall = Hall(Baton(len(lanes), timed=ledger.machine is not None), ledger, tuple(range(len(lanes))), net)
    device, first = torch.get_default_device(), len(ledger.events)
    sides = [hall.side(rank, lane, device) for rank, lane in enumerate(lanes)]

    def body(side: InlineSide) -> Any:
        try:
            return worker(Team(side))
        finally:
            for part in hall.parting[side.me]:
                part()

    try:
        results = hall.baton.run([partial(body, side) for side in sides])
    finally:
        for leave in hall.leaving:
            leave()
    for one in hall.everywhere:
        for meeting in one.meetings.values():
            raise AbreastError(f"a call was posted that not all ranks made: {meeting.words()}.")
    for event in range(first, len(ledger.events)):
        if ledger.events[event].bytes and event not in ledger.notes and ledger.events[event].lane in hall.links:
            exposure(ledger, event, False)
    return results


MOST_QUESTIONS = 1000


class Hall:
    """What the ranks of one group share. leaving: what is to be undone when the run ends; parting: when a rank does,
    on its thread."""

    def __init__(self, baton: Baton, ledger: Ledger, ranks: tuple[int, ...], net: str, parent: Hall | None = None):
        self.baton, self.ledger, self.ranks, self.net = baton, ledger, ranks, net
        self.meetings: dict[int, Meeting] = {}
        self.boxes: list[Box] = [Box() for _ in ranks]
        self.everywhere: list[Hall] = [] if parent is None else parent.everywhere
        self.leaving: list[Callable[[], None]] = [] if parent is None else parent.leaving
        self.parting: list[list[Callable[[], None]]] = [[] for _ in ranks] if parent is None else parent.parting
        self.sides: dict[int, InlineSide] = {}
        self.groups: dict[tuple[tuple[int, ...], str], Hall] = {}
        self.grouped = False
        self._store: Any = None
        self.links: set[str] = set() if parent is None else parent.links
        self.everywhere.append(self)

    def side(self, rank: int, lane: Lane, device: Any) -> InlineSide:
        """The end of the member with this index: one, because its calls are counted."""
        if rank not in self.sides:
            self.sides[rank] = InlineSide(self, rank, lane, device)
        return self.sides[rank]

    def beside(self, ranks: tuple[int, ...], name: str) -> Hall:
        """The group of these world ranks that all of them call by this name."""
        if (ranks, name) not in self.groups:
            self.groups[ranks, name] = Hall(self.baton, self.ledger, ranks, f"{self.net} {name}", self)
        return self.groups[ranks, name]

    def store(self) -> Any:
        """A key-value store that the whole world's ranks share."""
        from torch.distributed import HashStore

        root = self.everywhere[0]
        if root._store is None:
            root._store = HashStore()
        return root._store

    def record(self, link: str, head_kind: str, cost: calls.Cost, after: Sequence[int]) -> int:
        """Add a transfer's event on a link lane; its id."""
        self.links.add(link)
        lane = self.ledger.lane(link)
        return lane.add(head_kind, cost.size, after=after, span=cost.span, bytes=cost.bytes)

    def time(self, lane: Lane, event: int = -1) -> float:
        """When a rank whose lane this is can go on, if it waits for this event; 0 without a clock."""
        if not self.baton.timed:
            return 0.0
        return max(lane.ready, self.ledger.events[event].end) if event >= 0 else lane.ready


@dataclass
class Meeting:
    """One collective call: what each rank has brought, and once all have, the event."""

    hall: Hall
    heads: dict[int, Head] = field(default_factory=dict)
    brought: dict[int, list[Tensor]] = field(default_factory=dict)
    after: set[int] = field(default_factory=set)
    waiting: list[InlineSide] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)
    event: int = -1
    complete: bool = False

    def words(self) -> str:
        """What is waited for, and for whom."""
        hall, kind = self.hall, next(iter(self.heads.values())).kind
        missing = [rank for i, rank in enumerate(hall.ranks) if i not in self.heads]
        gone = [rank for rank in missing if hall.baton.finished[rank]]
        over = f"; {_names(gone)} {'has' if len(gone) == 1 else 'have'} finished" if gone else ""
        return f"{kind} on {hall.net!r} (still missing: {_names(missing)}{over})"

    def finish(self) -> None:
        """All are here: record it, and wake those who wait."""
        hall, n = self.hall, len(self.hall.ranks)
        heads = [self.heads[i] for i in range(n)]
        calls.agree(heads, hall.ranks)
        if heads[0].kind == "split":
            colours = sorted({head.peer for head in heads})
            members = {c: tuple(hall.ranks[i] for i in range(n) if heads[i].peer == c) for c in colours}
            name = heads[0].op
            self.shared["halls"] = {
                c: Hall(hall.baton, hall.ledger, ranks, f"{hall.net} {name} {c}", hall) for c, ranks in members.items()
            }
        else:
            self.event = hall.record(hall.net, heads[0].kind, calls.cost(heads), sorted(self.after))
        self.complete = True
        for side in self.waiting:
            hall.baton.wake(side.me, hall.time(side.lane, self.event))


@dataclass
class Message:
    source: int
    tag: int
    x: Tensor
    event: int


class Box:
    """Messages to one rank: those that no receive has taken, in the order sent, and receives that have none."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.receives: list[Receive] = []


class InlineSide(Side):
    """One rank's end of a Hall. me: its rank in the world."""

    def __init__(self, hall: Hall, rank: int, lane: Lane, device: Any):
        self.hall, self.rank, self.lane, self.device = hall, rank, lane, device
        self.ranks, self.net, self.me = hall.ranks, hall.net, hall.ranks[rank]
        self.calls = 0
        self.questions: tuple[tuple[float, int], int] = ((0.0, 0), 0)

    def post(self, head: Head, tensors: Sequence[Tensor], later: bool = False) -> Ticket[Any]:
        hall = self.hall
        hall.baton.give_way(self.me, hall.time(self.lane))
        meeting = hall.meetings.setdefault(self.calls, Meeting(hall))
        meeting.heads[self.rank] = head
        meeting.brought[self.rank] = [calls.packed(x) for x in tensors]
        meeting.after.update(self.lane.waits)
        self.calls += 1
        if len(meeting.heads) == len(hall.ranks):
            del hall.meetings[self.calls - 1]
            meeting.finish()
        return Attendance(self, meeting)

    def send(self, x: Tensor, spec: Spec, to: int, tag: int) -> Ticket[None]:
        hall = self.hall
        hall.baton.give_way(self.me, hall.time(self.lane))
        event = hall.record(f"{self.net} {self.rank}>{to}", "send", calls.message(spec), self.lane.waits)
        message, box = Message(self.rank, tag, calls.packed(x), event), hall.boxes[to]
        wanted = [r for r in box.receives if r.takes(message)]
        now = next((r for r in wanted if r.at_once), None)
        if now is None:
            box.messages.append(message)
        else:
            now.get(message)
        for receive in wanted:
            receive.stir(event)
        return Here(None, event)

    def receive(self, source: int | None, tag: int) -> Ticket[Tensor]:
        self.hall.baton.give_way(self.me, self.hall.time(self.lane))
        return Receive(self, source, tag)

    def split(self, colour: int, name: str) -> Side:
        ticket = self.post(Head("split", name, colour), [])
        hall = ticket.take()["halls"][colour]
        return hall.side(hall.ranks.index(self.me), self.lane, self.device)

    def group(self) -> ProcessGroup:
        from .group import inline_group

        return inline_group(self)


class Attendance:
    """A rank's ticket to a meeting."""

    source = -1

    def __init__(self, side: InlineSide, meeting: Meeting):
        self.side, self.meeting = side, meeting

    @property
    def event(self) -> int:
        return self.meeting.event

    def take(self) -> Any:
        side, meeting = self.side, self.meeting
        if not meeting.complete:
            meeting.waiting.append(side)
            side.hall.baton.wait(side.me, meeting.words)
        if meeting.heads[side.rank].kind == "split":
            return meeting.shared
        n = len(side.ranks)
        heads, brought = [meeting.heads[i] for i in range(n)], [meeting.brought[i] for i in range(n)]
        return calls.answer(heads, brought, side.rank, meeting.shared)

    def done(self) -> bool:
        return asked(self.side, lambda: self.meeting.complete, lambda: self.meeting.event)


class Receive:
    """A rank's ticket to a message."""

    def __init__(self, side: InlineSide, source: int | None, tag: int):
        self.side, self.wanted, self.tag = side, source, tag
        self.box, self.waits = side.hall.boxes[side.rank], False
        self.message: Message | None = None
        # With a clock, the first to arrive is known only when no earlier message can come.
        self.at_once = source is not None or not side.hall.baton.timed
        self.box.receives.append(self)
        if self.at_once:
            self.choose()

    @property
    def event(self) -> int:
        return -1 if self.message is None else self.message.event

    @property
    def source(self) -> int:
        return -1 if self.message is None else self.message.source

    def takes(self, message: Message) -> bool:
        return self.tag == message.tag and self.wanted in (None, message.source)

    def get(self, message: Message) -> None:
        self.message = message
        self.box.receives.remove(self)

    def choose(self) -> None:
        """Take the first message that has arrived, if there is one."""
        events = self.side.hall.ledger.events
        here = [m for m in self.box.messages if self.takes(m)]
        if here:
            first = here[0] if self.at_once else min(here, key=lambda m: (events[m.event].end, m.source))
            self.box.messages.remove(first)
            self.get(first)

    def stir(self, event: int) -> None:
        """A message that this receive could take has been sent."""
        if self.waits:
            self.waits = False
            self.side.hall.baton.wake(self.side.me, self.side.hall.time(self.side.lane, event))

    def take(self) -> Tensor:
        side, baton = self.side, self.side.hall.baton
        events = side.hall.ledger.events
        while self.message is None:
            arrivals = [events[m.event].end for m in self.box.messages if self.takes(m)]
            if arrivals:
                baton.give_way(side.me, max(side.lane.ready, min(arrivals)))
                still = min(events[m.event].end for m in self.box.messages if self.takes(m))
                if still == min(arrivals):
                    self.choose()
            else:
                self.waits = True
                baton.wait(side.me, self.words)
        return self.message.x

    def words(self) -> str:
        """What is waited for."""
        ranks, baton = self.side.ranks, self.side.hall.baton
        tagged = f" with tag {self.tag}" if self.tag else ""
        if self.wanted is None:
            return f"a message from any rank{tagged}"
        source = ranks[self.wanted]
        return f"a message from rank {source}{tagged}{' (which has finished)' if baton.finished[source] else ''}"

    def done(self) -> bool:
        def arrived() -> bool:
            if self.message is None and not self.at_once:
                now, events = self.side.lane.ready, self.side.hall.ledger.events
                if any(self.takes(m) and events[m.event].end <= now for m in self.box.messages):
                    self.choose()
            return self.message is not None

        return asked(self.side, arrived, lambda: self.event)


def asked(side: InlineSide, happened: Callable[[], bool], event: Callable[[], int]) -> bool:
    """Whether something has happened, after the others had a turn; with a clock, whether it has by now."""
    hall, now = side.hall, 0.0
    if hall.baton.timed:
        now = side.lane.now
        hall.baton.give_way(side.me, now)
    elif not happened():
        hall.baton.step_back(side.me, 0.0)
    here = happened() and (not hall.baton.timed or hall.ledger.events[event()].end <= now)
    at = now, len(hall.ledger.events)
    side.questions = (at, side.questions[1] + 1 if side.questions[0] == at and not here else 0)
    if side.questions[1] > MOST_QUESTIONS:
        raise AbreastError(
            f"rank {side.me} asks again and again whether a transfer is done, and nothing happens meanwhile: "
            "compute between questions, or wait for it."
        )
    return here


def _names(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) != 1)} {', '.join(map(str, ranks))}"
