"""Ranks in virtual time: numbers worked out by hand, who goes first, and the same values and times as elsewhere."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import AbreastError, World
from abreast.machine import Machine, replay

from .programs import facts, program

EXCHANGE = {"latency": 0.01, "link": 4800.0}  # an all-gather of 48 bytes by 4 ranks: 3 rounds, 576 bytes, 0.06 s


def local_sgd(team, overlap=False):
    """32 steps, 48 bytes from everybody after every 4; overlapped, they are awaited one round later."""
    message, before, seen = torch.zeros(48, dtype=torch.uint8), None, []
    for _ in range(8):
        for _ in range(4):
            team.lane.add("step")
            message += 1 + team.rank
        if before is not None:
            seen.append(before.wait())
        before = team.post_all_gather(message)
        if not overlap:
            seen.append(before.wait())
            before = None
    if before is not None:
        seen.append(before.wait())
    return [[int(x[0]) for x in xs] for xs in seen]


def test_local_sgd_by_hand():
    inline, even, slow = World(4), World(4, Machine(**EXCHANGE)), World(4, Machine(speed={"rank 3": 0.5}, **EXCHANGE))
    values = [world.map(local_sgd) for world in (inline, even, slow)]
    assert values[0] == values[1] == values[2]
    for world in (inline, even, slow):
        ledger = world.ledger
        ledger.close()
        assert (ledger.work, ledger.span, ledger.bytes, ledger.rounds) == (128, 32, 8 * 4 * 3 * 48, 24)
        assert (ledger.total("exposed"), ledger.total("hidden")) == (4608, 0) and ledger.loose(world.lane()) == []
    assert even.ledger.makespan == pytest.approx(32.48)
    assert even.ledger.exposed() == pytest.approx((0.48, 4608))
    assert slow.ledger.makespan == pytest.approx(8 * (8 + 0.06))
    assert slow.ledger.idle()["rank 0"] == pytest.approx(32.48)
    assert not slow.ledger.clocked


def test_overlapped_by_hand():
    world = World(4, Machine(**EXCHANGE))
    values = world.map(lambda team: local_sgd(team, overlap=True))
    ledger = world.ledger
    ledger.close()
    assert values == World(4).map(local_sgd) and ledger.makespan == pytest.approx(32.06)
    assert (ledger.total("exposed"), ledger.total("hidden")) == (576, 4032)
    assert ledger.exposed() == pytest.approx((0.06, 576))


def test_ring_costs_by_hand():
    x = torch.zeros(6)  # 24 bytes

    def worker(team):
        team.all_reduce(x)
        team.all_gather(x)
        team.reduce_scatter([x[:2], x[:1], x[:3]])
        team.all_to_all([x[: 1 + team.rank]] * 3)
        team.broadcast(x)
        team.gather(x)
        team.barrier()
        team.send(x, 1) if team.rank == 0 else team.recv(0) if team.rank == 1 else None

    world = World(3, Machine(latency=1.0, link=24.0))
    world.map(worker)
    events = {e.kind: e for e in world.ledger.events}
    assert {kind: (e.size, e.span, e.bytes) for kind, e in events.items()} == {
        "all_reduce": (3, 4, 2 * 2 * 24),
        "all_gather": (3, 2, 3 * 2 * 24),
        "reduce_scatter": (3, 2, 2 * 24),
        "all_to_all": (3, 2, 2 * (4 + 8 + 12)),
        "broadcast": (2, 2, 2 * 24),
        "gather": (1, 2, 2 * 24),
        "barrier": (3, 4, 4),
        "send": (1, 1, 24),
    }
    assert [e.end - e.start for e in events.values()] == pytest.approx(
        [4 + 4 / 3, 2 + 2, 2 + 2 / 3, 2 + 2 / 3, 2 + 1, 2 + 2, 4 + 4 / 72, 1 + 1]
    )
    assert events["send"].lane == "net 0>1" and world.ledger.rounds == 4 + 2 + 2 + 2 + 2 + 2 + 4 + 1


def test_voting_with_early_stop():
    """Rank 0 counts votes; five others think for 4, 6, 8, 12 and 12 tokens; the first three agree, the rest stop."""

    def worker(team):
        if team.rank == 0:
            votes = [team.post_recv() for _ in range(5)]
            for vote in votes[:3]:
                vote.wait()
            done = {vote.source for vote in votes[:3]}
            for late in {1, 2, 3, 4, 5} - done:
                team.post_send(torch.tensor(1), late)
            team.lane.add("answer", 0)
            return sorted(done)
        stop, tokens = team.post_recv(0), 0
        for _ in range([4, 6, 8, 12, 12][team.rank - 1]):
            team.lane.add("token")
            tokens += 1
            if stop.done():
                return tokens
        team.post_send(torch.tensor(tokens), 0)
        return tokens

    world = World(6, Machine())
    assert world.map(worker) == [[1, 2, 3], 4, 6, 8, 8, 8]
    ledger, count = world.ledger, world.ledger.lane("rank 0")
    assert ledger.makespan == 8 and ledger.rows("token") == 34 and ledger.clocked
    assert ledger.wasted(count) == 16
    assert {"rank 4", "rank 5"} <= set(ledger.loose(count)) and not {"rank 1", "rank 2"} & set(ledger.loose(count))


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(0, 4))
def test_messages_from_any_come_in_the_order_of_arrival(pauses, place):
    """The receiver may be any rank, and senders are started in rank order: neither decides who comes first."""
    server, size = min(place, len(pauses)), len(pauses) + 1
    senders = [rank for rank in range(size) if rank != server]

    def worker(team):
        if team.rank != server:
            for pause in pauses[senders.index(team.rank)]:
                team.lane.add("step", span=pause)
                team.send(torch.tensor(team.lane.ready), server)
            return None
        handles = [team.post_recv() for pause in pauses for _ in pause]
        return [(float(handle.wait()), team.lane.ready) for handle in handles]

    got = World(size, Machine(latency=0.5)).map(worker)[server]
    sent = sorted(float(sum(p[: i + 1])) + 0.5 * i for p in pauses for i in range(len(p)))
    assert [at for at, _ in got] == sent and [ready for _, ready in got] == [at + 0.5 for at in sent]


def test_a_server_that_is_busy_takes_what_arrived_first():
    def worker(team):
        if team.rank == 0:
            team.lane.add("busy", span=10)
            first, second, third = (team.post_recv() for _ in range(3))
            return [int(first.wait()), int(second.wait()), int(third.wait()), team.lane.ready]
        team.lane.add("step", span=[7, 3, 12][team.rank - 1])
        team.send(torch.tensor(team.rank), 0)

    assert World(4, Machine()).map(worker)[0] == [2, 1, 3, 12]


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_random_programs_are_the_same_inline_and_in_virtual_time(n, seed):
    machine = Machine(latency=0.25, link=64.0, speed={"rank 1": 0.5})
    worlds, values = [World(n), World(n, machine)], []
    for world in worlds:
        torch.manual_seed(seed)
        random.seed(seed)
        values.append(world.map(program(seed)))
    assert values[0] == values[1]
    inline, virtual = (world.ledger for world in worlds)
    assert facts(inline) == facts(virtual)
    again = replay(virtual, machine)
    assert [(e.start, e.end) for e in again.events] == [(e.start, e.end) for e in virtual.events]
    assert math.isclose(replay(inline, machine).makespan, virtual.makespan)


@pytest.mark.parametrize("machine", [None, Machine()], ids=["inline", "virtual"])
def test_asking_for_ever_is_an_error(machine):
    def worker(team):
        handle = team.post_recv(1 - team.rank)
        while not handle.done():
            pass

    with pytest.raises(AbreastError, match=r"rank . asks again and again whether a transfer is done"):
        World(2, machine).map(worker)


def test_asking_gives_the_others_a_turn():
    def worker(team):
        if team.rank == 1:
            team.barrier()
            return team.send(torch.tensor(3), 0)
        handle, asked = team.post_recv(1), 0
        assert not handle.done()
        team.barrier()
        while not handle.done():
            asked += 1
        return int(handle.wait()), asked

    assert World(2).map(worker)[0] == (3, 0)
