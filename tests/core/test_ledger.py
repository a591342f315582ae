"""Recording, reading, JSON, and merging of ledgers."""

import json
import pickle
from collections import Counter
from math import nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abreast.core import AbreastError, Kind, Ledger, meet, merge


def test_a_lane_is_a_chain_and_a_fork_is_parallel():
    ledger = Ledger()
    root = ledger.lane("0")
    root.add("x")
    forks = [root.fork(name) for name in "ab"]
    for fork in forks:
        fork.add("x")
        fork.add("x")
    root.wait(*forks)
    root.add("x")
    assert (ledger.work, ledger.span) == (6, 4)
    assert list(ledger.lanes) == ["0", "0/a", "0/b"]
    assert ledger.loose(root) == []


def test_a_lane_used_again_goes_on_where_it_was():
    ledger = Ledger()
    root = ledger.lane("0")
    for _ in range(3):
        root.fork("worker").add("x")
    assert ledger.span == 3


def test_a_forgotten_join_is_loose_and_its_work_wasted():
    ledger = Ledger()
    root = ledger.lane("0")
    one, other = root.fork("one"), root.fork("other")
    one.add("x")
    other.add("x", 5)
    root.wait(one)
    ledger.close()
    assert ledger.loose(root) == ["0/other"]
    assert ledger.wasted(root) == 5


def test_a_lane_joined_before_it_is_closed_is_not_loose():
    ledger = Ledger()
    root, net = ledger.lane("0"), ledger.lane("net")
    worker = root.fork("worker")
    worker.add("x")
    worker.wait(net.wait(worker).add("send", bytes=8))
    root.wait(worker)
    ledger.close()
    assert [e.kind for e in ledger.events] == ["x", "send", "end", "end"]
    assert ledger.loose(root) == []
    count = len(ledger.events)
    ledger.close()
    assert len(ledger.events) == count


def test_meet_is_a_lock_step():
    ledger = Ledger()
    one, other = ledger.lane("a"), ledger.lane("b")
    one.add("x")
    other.add("x", span=3)
    meet(one, other)
    assert ledger.events[one.add("x")].after == (0, 1) == ledger.events[other.add("x")].after
    assert ledger.span == 4


def test_transfers_weigh_nothing():
    ledger = Ledger()
    lane = ledger.lane("0")
    lane.add("x", 3)
    lane.add("send", 2, span=6, bytes=100)
    lane.add("send", span=1, bytes=10)
    assert (ledger.work, ledger.span, ledger.bytes, ledger.rounds) == (3, 1, 110, 7)
    assert (ledger.calls("send"), ledger.rows("send"), ledger.longest("send")) == (2, 3, 7)


def test_peak_by_lane_and_by_device():
    ledger = Ledger()
    for name in ("a", "b"):
        lane = ledger.lane(name)
        lane.add("take", memory=4, start=0, end=1)
        lane.add("give", memory=-4, start=1, end=2)
    assert ledger.peak() == {"a": 4, "b": 4}
    assert ledger.peak(place={"a": "gpu", "b": "gpu"}) == {"gpu": 8}


def test_what_an_offload_holds_until_its_copy_ends():
    ledger = Ledger()
    ledger.lane("gpu").add("f", memory=1, start=0, end=1)
    ledger.lane("copy").add("offload", bytes=8, memory=-1, after=[0], start=1, end=3)
    ledger.lane("gpu").add("f", memory=1, start=1, end=2)
    assert ledger.peak(place={"copy": "gpu"}) == {"gpu": 2}


def test_a_last_transfer_that_blocks_its_own_lane_is_exposed():
    ledger = Ledger()
    ledger.lane("0").add("x", start=0, end=2)
    ledger.lane("0").add("send", bytes=8, start=2, end=3)
    ledger.lane("net").add("send", bytes=8, start=0, end=3)
    assert ledger.exposed() == (1, 8)


def test_a_transfer_hidden_in_part_is_exposed_in_part():
    ledger = Ledger()
    lane, net = ledger.lane("0"), ledger.lane("net")
    lane.add("x", start=0, end=1)
    lane.add("x", start=1, end=4)
    net.add("send", bytes=8, after=[0], start=1, end=5)
    lane.wait(net).add("x", start=5, end=6)
    assert ledger.exposed() == (1, 2)
    assert ledger.idle() == {"0": 1}


def test_measured_times():
    ledger = Ledger()
    lane = ledger.lane("0")
    with lane.measure("x", 2):
        pass
    event = ledger.events[lane.last]
    assert 0 <= event.start <= event.end and event.size == 2 and ledger.timed
    assert ledger.makespan == event.end


def test_untimed_ledgers_say_so():
    ledger = Ledger()
    ledger.lane("0").add("x")
    for read in (lambda: ledger.makespan, ledger.idle, ledger.exposed, lambda: ledger.peak(place={})):
        with pytest.raises(AbreastError, match="have no times"):
            read()
    with pytest.raises(AbreastError, match="only on a ledger with a machine"):
        _ = ledger.lane("0").now


@pytest.mark.parametrize("bad", [5, 1, -1])
def test_an_event_cannot_wait_for_the_future(bad):
    ledger = Ledger()
    lane = ledger.lane("0")
    lane.add("x")
    with pytest.raises(AbreastError, match=f"not {bad}"):
        lane.add("x", after=[bad])
    with pytest.raises(AbreastError, match=f"not {bad}"):
        lane.wait(bad)
    with pytest.raises(AbreastError, match="not 7"):
        ledger.note(7, accepted=1)


number = st.floats(0, 1e6) | st.integers(0, 5).map(float)
row = st.tuples(
    st.sampled_from("ab"), st.integers(0, 2), number, number, st.booleans(), st.integers(-3, 3), st.integers(1, 9)
)


@given(st.lists(row, max_size=20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_json_keeps_everything(rows, timed):
    ledger = Ledger()
    ledger.kinds["a"] = Kind(0.1, 3e9, 7.0)
    for i, (kind, lane, size, span, transfer, memory, back) in enumerate(rows):
        times = {"start": float(i), "end": i + 0.5} if timed else {}
        here = ledger.lane(str(lane))
        here.add(kind, size, span=span, bytes=8.0 * transfer, memory=memory, after=[i - back] * (back <= i), **times)
        ledger.note(here.last, accepted=i, path=[1, 2])
    again = Ledger.from_json(ledger.to_json())
    assert again.events == ledger.events
    assert (again.kinds, again.notes, list(again.lanes)) == (ledger.kinds, ledger.notes, list(ledger.lanes))
    assert [lane.last for lane in again.lanes.values()] == [lane.last for lane in ledger.lanes.values()]
    assert again.to_json() == ledger.to_json()


def test_json_is_strict_and_compact():
    ledger = Ledger()
    lane = ledger.lane("0")
    for _ in range(10_000):
        lane.add("x")
    ledger.note(3, accepted=np.int64(3), residual=np.float64("nan"), counts=np.arange(2))
    text = ledger.to_json()
    assert len(text) < 1000
    assert json.loads(text, parse_constant=pytest.fail)["notes"] == [
        [3, {"accepted": 3, "residual": None, "counts": [0, 1]}]
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"clocked": false}', "null"])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(AbreastError, match="no ledger"):
        Ledger.from_json(text)


def test_ledgers_pickle():
    ledger = Ledger()
    lane = ledger.lane("0")
    lane.add("x")
    again = pickle.loads(pickle.dumps(ledger))
    again.lane("0").add("x")
    assert again.span == 2 and again.events[0].end is not nan and len(ledger.events) == 1


def rounds(lanes_of, net_of, n, times):
    """What the workers of `lanes_of` record in `times` rounds: work, a shared sum, and a message to the next worker."""
    for t in range(times):
        for r in lanes_of:
            lane, net = lanes_of[r], net_of[r]
            lane.add("step", 1 + r, memory=t)
            lane.ledger.note(lane.last, rank=r)
        for r in lanes_of:
            net_of[r].wait(lanes_of[r])
        for net in {id(net): net for net in net_of.values()}.values():
            net.add("sum", n, span=2 * (n - 1), bytes=96)
        for r in lanes_of:
            lanes_of[r].wait(net_of[r])


@given(st.integers(1, 4), st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_merged_ledgers_of_processes_are_the_one_of_a_single_process(n, times):
    whole = Ledger()
    rounds({r: whole.lane(str(r)) for r in range(n)}, {r: whole.lane("net") for r in range(n)}, n, times)
    parts = [Ledger() for _ in range(n)]
    for r, part in enumerate(parts):
        rounds({r: part.lane(str(r))}, {r: part.lane("net")}, n, times)
    whole.close()
    for part in parts:
        part.close()
    merged = merge([Ledger.from_json(part.to_json()) for part in parts])

    def facts(ledger):
        where = lambda i: (ledger.events[i].kind, ledger.events[i].lane)  # noqa: E731
        return Counter((e.kind, e.lane, e.size, e.memory, frozenset(map(where, e.after))) for e in ledger.events)

    computed = [lane for lane in merged.lanes if lane != "net"]
    assert facts(merged) == facts(whole)
    assert (merged.work, merged.span, merged.bytes, merged.rounds) == (
        whole.work,
        whole.span,
        whole.bytes,
        whole.rounds,
    )
    assert sorted(merged.series("rank")) == sorted(whole.series("rank")) and len(computed) == (n if times else 0)


def test_processes_that_disagree_are_named():
    parts = [Ledger(), Ledger()]
    parts[0].lane("net").add("sum", bytes=8)
    parts[1].lane("net").add("sum", bytes=16)
    with pytest.raises(AbreastError, match="disagree about an event of lane 'net': sum of 8 bytes, and sum of 16"):
        merge(parts)


def test_collectives_in_different_orders_are_a_circle():
    parts = [Ledger(), Ledger()]
    for part, order in zip(parts, ("ab", "ba")):
        lane = part.lane(f"rank {order}")
        for group in order:
            lane.wait(part.lane(group).wait(lane).add("sum", bytes=8))
    with pytest.raises(AbreastError, match="circle"):
        merge(parts)
