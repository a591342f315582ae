"""Events priced as they are added and in replay, on random graphs; replay against closed forms."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abreast.core import Kind, Ledger
from abreast.machine import Machine, replay

KINDS, BACK = st.sampled_from(["f", "g", "send"]), st.sets(st.integers(1, 12), max_size=3)
EVENT = st.tuples(st.integers(0, 3), KINDS, st.integers(0, 5), st.integers(1, 3), BACK)
GRAPH = st.lists(EVENT, min_size=1, max_size=30)
MACHINE = Machine(
    curves={"f": [(1, 0.5), (4, 1.0)]}, flops=4.0, bandwidth=8.0, latency=0.25, link=16.0, speed={"1": 0.5, "2/x": 2.0}
)


def record(graph, machine=None):
    ledger = Ledger(machine)
    ledger.kinds["g"] = Kind(flops=2.0, reads=4.0)
    for here, (lane, kind, size, span, back) in enumerate(graph):
        volume = 8.0 * size if kind == "send" else 0.0
        after = [here - b for b in back if b <= here]
        ledger.lane(["0", "1", "2/x/y", "net"][lane]).add(kind, size, span=span, bytes=volume, after=after)
    return ledger


@given(GRAPH)
@settings(max_examples=100, deadline=None)
def test_priced_as_added_is_priced_in_replay(graph):
    virtual = record(graph, MACHINE)
    replayed = replay(record(graph), MACHINE)
    assert replayed.events == virtual.events
    assert replay(virtual, MACHINE).events == virtual.events


@given(GRAPH, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_replay_respects_waits_and_devices(graph, devices):
    ledger = replay(record(graph), Machine(devices=devices))
    lanes = dict.fromkeys(e.lane for e in ledger.events if e.size and not e.bytes)
    device = {lane: i % devices for i, lane in enumerate(lanes)}
    busy = {}
    for e in ledger.events:
        assert all(ledger.events[i].end <= e.start for i in e.after)
        if e.size and not e.bytes:
            busy.setdefault(device[e.lane], []).append((e.start, e.end))
    for spans in busy.values():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    load = sum(e.end - e.start for e in ledger.events if e.size and not e.bytes)
    assert ledger.makespan >= load / devices


def independent(tasks):
    ledger = Ledger()
    for i in range(tasks):
        ledger.lane(str(i)).add("x")
    return ledger


@pytest.mark.parametrize(("tasks", "devices"), [(7, 1), (7, 2), (8, 4), (3, 5)])
def test_equal_tasks_fill_the_devices(tasks, devices):
    assert replay(independent(tasks), Machine(devices=devices)).makespan == ceil(tasks / devices)


def test_placement():
    ledger = independent(4)
    together = replay(ledger, Machine(), place={"0": "a", "1": "a", "2": "a"})
    assert together.makespan == 3 and [e.start for e in together.events] == [0, 1, 2, 0]
    slow = replay(ledger, Machine(speed={"a": 0.5}), place=dict.fromkeys("0123", "a"))
    assert slow.makespan == 8


def test_first_ready_is_first_served():
    ledger = Ledger()
    late = ledger.lane("late")
    late.wait(ledger.lane("first").add("x", span=3))
    ledger.lane("shared a").wait(late).add("x")
    ledger.lane("shared b").add("x", span=4)
    timed = replay(ledger, Machine(), place={"shared a": "d", "shared b": "d"})
    assert [e.start for e in timed.events] == [0, 4, 0]


def test_messages_of_one_link_queue():
    ledger = Ledger()
    for name in ("one link", "one link", "another"):
        ledger.lane(name).add("send", bytes=8)
    assert [e.end for e in replay(ledger, Machine(link=4.0)).events] == [2, 4, 2]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_ring_all_reduce(n):
    ledger = Ledger()
    size = 24.0
    ledger.lane("net").add("all_reduce", n, span=2 * (n - 1), bytes=2 * (n - 1) * size)
    seconds = replay(ledger, Machine(latency=0.5, link=2.0)).makespan
    assert seconds == pytest.approx(2 * (n - 1) * 0.5 + 2 * (n - 1) / n * size / 2.0)


def test_a_replay_leaves_its_source_alone_and_keeps_notes_and_lanes():
    ledger = independent(2)
    ledger.note(1, accepted=3)
    ledger.clocked = True
    timed = replay(ledger, Machine())
    assert not ledger.timed and timed.timed and timed.clocked and timed.total("accepted") == 3
    assert timed.loose(timed.lane("0")) == ["1"]


def test_virtual_time_on_shared_devices():
    ledger = Ledger(Machine(devices=1, speed={"0": 0.5}))
    ledger.lane("a").add("x")
    ledger.lane("b").add("x")
    assert ledger.lane("b").ready == ledger.makespan == 4 and not ledger.clocked
    assert ledger.lane("a").now == 2 and ledger.clocked
