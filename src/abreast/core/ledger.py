"""What was done, on which lane, after what; and the sums read off that graph.

A *lane* is one device, worker or link: it does one thing at a time, in the order recorded. An *event* waits for
the event before it on its lane and for whatever else it is told to. Forgetting to say that two things are parallel
makes the span too large; forgetting a join is found by `Ledger.loose`.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import nan
from typing import Any, NamedTuple, Protocol

from .errors import AbreastError


class Event(NamedTuple):
    """One thing done. `start` and `end` are seconds, nan where not timed."""

    kind: str
    lane: str
    start: float
    end: float
    after: tuple[int, ...]  # ids of the events it waited for, ascending, each smaller than its own
    size: float  # units done at once (rows, samples, lanes); of a transfer: links used at once
    span: float  # dependent units inside it (a scan: its rounds; a loop: its length); of a transfer: rounds
    bytes: float  # > 0 makes it a transfer: bytes on the wire, all links together
    memory: float  # change of what the lane holds


@dataclass(frozen=True)
class Kind:
    """What one unit of an event is worth: `unit` in the problem's own work, floating point operations, and the
    bytes that an event of this kind reads whatever its size."""

    unit: float = 1.0
    flops: float = 0.0
    reads: float = 0.0


PLAIN = Kind()


class Priced(Protocol):
    """All that the ledger asks of a machine. `devices` (int or None) is read where present."""

    def seconds(self, event: Event, kind: Kind, /) -> float: ...


def price(machine: Priced, event: Event, kind: Kind) -> float:
    """Seconds of `event` on `machine`; what has neither size nor bytes takes no time."""
    return machine.seconds(event, kind) if event.size or event.bytes else 0.0


class Lane:
    """Program order: what is recorded here waits for what was recorded here before."""

    __slots__ = ("last", "ledger", "name", "waits")

    def __init__(self, ledger: Ledger, name: str):
        self.ledger, self.name = ledger, name
        self.last = -1  # id of the last event here
        self.waits: tuple[int, ...] = ()  # ids that the next event here waits for

    def __repr__(self) -> str:
        return f"Lane({self.name!r}, last={self.last})"

    def add(
        self,
        kind: str,
        size: float = 1.0,
        *,
        after: Iterable[int] = (),
        span: float = 1.0,
        bytes: float = 0.0,
        memory: float = 0.0,
        start: float = nan,
        end: float = nan,
    ) -> int:
        """Record an event; its id. `after`: ids it waits for beside its lane's. On a ledger with a machine it is
        priced now, unless `start` and `end` say when it happened."""
        ledger, waits = self.ledger, self.waits
        here = len(ledger.events)
        if after:
            waits = tuple(sorted({*waits, *after}))
            ledger._check(waits)
        event = Event(kind, self.name, start, end, waits, size, span, bytes, memory)
        if start != start and ledger.machine is not None:
            event = ledger._timed_now(event)
        ledger.events.append(event)
        self.last, self.waits = here, (here,)
        return here

    def wait(self, *others: Lane | int) -> Lane:
        """The next event here also waits for these: lanes (all they have done and wait for) or ids of events."""
        waits = set(self.waits)
        for other in others:
            if isinstance(other, Lane):
                waits.update(other.waits)
            else:
                waits.add(other)
        self.waits = tuple(sorted(waits))
        self.ledger._check(self.waits)
        return self

    def fork(self, name: str) -> Lane:
        """The lane `self.name/name`, whose next event starts after what this one has done."""
        return self.ledger.lane(f"{self.name}/{name}").wait(self)

    def close(self) -> None:
        """Turn a wait that nothing followed into an event of size 0 and kind "end"."""
        events = self.ledger.events
        if self.waits and self.waits != (self.last,):
            ends = [events[i].end for i in self.waits]
            at = nan if any(t != t for t in ends) else max(ends)
            self.add("end", 0.0, span=0.0, start=at, end=at)

    @contextmanager
    def measure(self, kind: str, size: float = 1.0, **facts: Any) -> Iterator[Lane]:
        """Record what the block does, with its start and end on this machine's clock; on a ledger with a machine, in
        virtual time. The event exists once the block has ended: `lane.last`."""
        start = self.ledger.clock()
        yield self
        if self.ledger.machine is None:
            facts.update(start=start, end=self.ledger.clock())
        self.add(kind, size, **facts)

    @property
    def ready(self) -> float:
        """When the next event here can start, in seconds of virtual time."""
        if self.ledger.machine is None:
            raise AbreastError("a lane knows the time only on a ledger with a machine: World(machine=...).")
        return max((self.ledger.events[i].end for i in self.waits), default=0.0)

    @property
    def now(self) -> float:
        """The same, for a method that decides by the clock: its ledger says so ever after (`Ledger.clocked`)."""
        self.ledger.clocked = True
        return self.ready


def meet(*lanes: Lane) -> None:
    """A lock-step: what comes next on each of these lanes waits for what all of them have done."""
    everything = sorted({i for lane in lanes for i in lane.waits})
    for lane in lanes:
        lane.wait(*everything)


class Ledger:
    """A directed graph of events, and its sums. With a machine every event is priced when it is added: virtual time.

    events: in recorded order, an event's id is its index. kinds: what a unit is worth, 1 where not said. notes: facts
    about events. clocked: a method read the time, so on another machine it is to be run again, not replayed.
    """

    def __init__(self, machine: Priced | None = None):
        self.machine = machine
        self.events: list[Event] = []
        self.kinds: dict[str, Kind] = {}
        self.notes: dict[int, dict[str, Any]] = {}
        self.lanes: dict[str, Lane] = {}
        self.clocked = False
        self._zero = time.perf_counter()
        self._device: dict[str, int] = {}
        self._free: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"Ledger({len(self.events)} events on {len(self.lanes)} lanes)"

    def clock(self) -> float:
        """Seconds on this machine since the ledger was made."""
        return time.perf_counter() - self._zero

    def lane(self, name: str) -> Lane:
        """The lane of this name, made where there is none."""
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(self, name)
        return lane

    def add(self, kind: str, size: float = 1.0, *, lane: str, after: Iterable[int] = (), **facts: float) -> int:
        """`Lane.add` on the lane of this name: for schedule tables, whose waits are ids that they know."""
        return self.lane(lane).add(kind, size, after=after, **facts)

    def close(self) -> None:
        """Close every lane."""
        for lane in self.lanes.values():
            lane.close()

    def note(self, event: int, **facts: Any) -> None:
        """Add facts to an event: `accepted=3`, `residual=1e-4`."""
        self._check((event,))
        self.notes.setdefault(event, {}).update(facts)

    def series(self, fact: str) -> list[Any]:
        """This fact of every event that has it, in order of events."""
        return [facts[fact] for _, facts in sorted(self.notes.items()) if fact in facts]

    def total(self, fact: str) -> Any:
        """The sum of `series`."""
        return sum(self.series(fact))

    # Counts: the same on every machine.

    @property
    def work(self) -> float:
        """Sum of size x unit; transfers weigh nothing."""
        unit = self._units()
        return sum(e.size * unit.get(e.kind, 1.0) for e in self.events if not e.bytes)

    @property
    def span(self) -> float:
        """The longest dependent chain of span x unit; transfers weigh nothing."""
        return max(self._depths(), default=0.0)

    @property
    def bytes(self) -> float:
        """Bytes on the wire."""
        return sum(e.bytes for e in self.events)

    @property
    def rounds(self) -> float:
        """The longest dependent chain of transfers, in rounds."""
        return max(self._depths([e.span if e.bytes else 0.0 for e in self.events]), default=0.0)

    def calls(self, kind: str) -> int:
        """How many events of this kind there are."""
        return sum(e.kind == kind for e in self.events)

    def rows(self, kind: str) -> float:
        """The sizes of this kind's events, added."""
        return sum(e.size for e in self.events if e.kind == kind)

    def longest(self, kind: str) -> float:
        """The chain with most of this kind, in its own dependent units."""
        return max(self._depths([e.span if e.kind == kind else 0.0 for e in self.events]), default=0.0)

    def path(self) -> Counter[str]:
        """How many events of which kind the longest chain is made of: {"f": 6, "scan": 6}."""
        depth, made_of = self._depths(), Counter[str]()
        here = max(range(len(depth)), key=lambda i: (depth[i], i), default=None)
        while here is not None:
            made_of[self.events[here].kind] += 1
            here = max(self.events[here].after, key=lambda i: (depth[i], i), default=None)
        del made_of["end"]
        return made_of

    def loose(self, end: Lane) -> list[str]:
        """Lanes whose last event `end` does not depend on: those abandoned on purpose, or a forgotten join."""
        needed, last = self._needed(end), dict[str, int]()
        for i, e in enumerate(self.events):
            if e.kind != "end":
                last[e.lane] = i
        return [lane for lane, i in last.items() if not (needed[i] or needed[self.lanes[lane].last])]

    def wasted(self, end: Lane) -> float:
        """Work that `end` does not depend on."""
        needed, unit = self._needed(end), self._units()
        return sum(e.size * unit.get(e.kind, 1.0) for i, e in enumerate(self.events) if not (e.bytes or needed[i]))

    def peak(self, place: Mapping[str, Hashable] | None = None) -> dict[Hashable, float]:
        """The most that each lane held, in lane order.

        With `place` (lane -> device; a lane not named is its own) on a timed ledger: summed over a device's lanes,
        taken at an event's start and given back at its end.
        """
        changes: Iterable[tuple[Hashable, float]] = ((e.lane, e.memory) for e in self.events)
        if place is not None:
            self._need_times()
            moments = ((e.end if e.memory < 0 else e.start, e.memory > 0, i) for i, e in enumerate(self.events))
            order = [self.events[i] for *_, i in sorted(moments)]
            changes = ((place.get(e.lane, e.lane), e.memory) for e in order)
        held: defaultdict[Hashable, float] = defaultdict(float)
        most = {where if place is None else place.get(where, where): 0.0 for where in self.lanes}
        for where, memory in changes:
            held[where] += memory
            most[where] = max(most[where], held[where])
        return most

    # Times: of a virtual, measured or replayed ledger.

    @property
    def timed(self) -> bool:
        """Whether every event has a start and an end."""
        return all(e.start == e.start and e.end == e.end for e in self.events)

    @property
    def makespan(self) -> float:
        """Seconds from 0 to the last end. Raises AbreastError where an event has no times."""
        self._need_times()
        return max((e.end for e in self.events), default=0.0)

    def idle(self, inner: bool = False) -> dict[str, float]:
        """Seconds in which each computing lane computes nothing; `inner`: between its first and last event only."""
        total, done = self.makespan, defaultdict[str, list[Event]](list)
        for e in self._computing():
            done[e.lane].append(e)
        return {
            lane: (es[-1].end - es[0].start if inner else total) - sum(e.end - e.start for e in es)
            for lane, es in done.items()
        }

    def exposed(self) -> tuple[float, float]:
        """Seconds and bytes of transfers that a computing lane stood still for.

        Waiting for a late worker is idle; only the transfer's own time is exposed. A transfer that is hidden in part
        counts that part of its bytes.
        """
        self._need_times()
        events, computing = self.events, {e.lane for e in self._computing()}
        last = [events[self.lanes[lane].last] for lane in sorted(computing)]
        ends = [Event("end", e.lane, e.end, e.end, (self.lanes[e.lane].last,), 0.0, 0.0, 0.0, 0.0) for e in last]
        done: dict[str, float] = {}
        shown: defaultdict[int, float] = defaultdict(float)
        for e in (*events, *ends):
            if e.bytes or e.lane not in computing:
                continue
            since = done.get(e.lane)
            if since is None:
                since = max((events[i].end for i in e.after if not events[i].bytes), default=0.0)
            stack, seen = list(e.after), set(e.after)
            while stack:
                i = stack.pop()
                if events[i].bytes and events[i].end > since:
                    shown[i] = max(shown[i], events[i].end - max(since, events[i].start))
                    stack += set(events[i].after) - seen
                    seen.update(events[i].after)
            done[e.lane] = e.end
        volume = sum(events[i].bytes * seconds / (events[i].end - events[i].start) for i, seconds in shown.items())
        return sum(shown.values()), volume

    def to_json(self) -> str:
        """The ledger as compact JSON, by columns."""
        return import_module(".columns", __package__).dump(self)

    @staticmethod
    def from_json(text: str) -> Ledger:
        """The inverse of `to_json`. Raises AbreastError where `text` is no ledger."""
        return import_module(".columns", __package__).load(text)

    # Shared by the readings above.

    def _check(self, waits: Sequence[int]) -> None:
        if waits and not 0 <= waits[0] <= waits[-1] < len(self.events):
            bad = waits[-1] if waits[0] >= 0 else waits[0]
            raise AbreastError(f"an event waits for events recorded before it, 0 to {len(self.events) - 1}, not {bad}.")

    def _timed_now(self, event: Event) -> Event:
        """`event` with its times: it starts when what it waits for has ended and its device is free."""
        machine, events = self.machine, self.events
        assert machine is not None
        start = 0.0
        for i in event.after:
            if events[i].end > start:
                start = events[i].end
        kind, devices = self.kinds.get(event.kind, PLAIN), getattr(machine, "devices", None)
        if devices is None or event.bytes or not event.size:
            return event._replace(start=start, end=start + price(machine, event, kind))
        device = self._device.setdefault(event.lane, len(self._device) % devices)
        start = max(start, self._free.get(device, 0.0))
        self._free[device] = end = start + price(machine, event._replace(lane=str(device)), kind)
        return event._replace(start=start, end=end)

    def _units(self) -> dict[str, float]:
        return {name: kind.unit for name, kind in self.kinds.items()}

    def _computing(self) -> Iterator[Event]:
        return (e for e in self.events if not e.bytes and e.kind != "end")

    def _need_times(self) -> None:
        if not self.timed:
            raise AbreastError("some events have no times: run in World(machine=...), or replay the ledger.")

    def _depths(self, weights: Sequence[float] | None = None) -> list[float]:
        """For each event the heaviest chain that ends with it; weights: span x unit where not given."""
        if weights is None:
            unit = self._units()
            weights = [0.0 if e.bytes else e.span * unit.get(e.kind, 1.0) for e in self.events]
        depth: list[float] = []
        for e, weight in zip(self.events, weights):
            after = e.after
            before = depth[after[0]] if len(after) == 1 else max([depth[i] for i in after], default=0.0)
            depth.append(before + weight)
        return depth

    def _needed(self, end: Lane) -> bytearray:
        """For each event 1 where `end` depends on it."""
        needed = bytearray(len(self.events))
        for i in end.waits:
            needed[i] = 1
        for i in range(len(needed) - 1, -1, -1):
            if needed[i]:
                for j in self.events[i].after:
                    needed[j] = 1
        return needed
