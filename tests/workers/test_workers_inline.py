"""Ranks that take turns in one process: collectives, messages, errors, deadlocks, random streams."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import AbreastError, World
from abreast.workers import Team


def test_collectives():
    def worker(team):
        r, n = team.rank, team.size
        x = torch.arange(3.0) + r
        parts = [torch.full((k + 1,), 10.0 * r + k) for k in range(n)]
        return {
            "all_gather": team.all_gather(torch.arange(r)),
            "all_reduce": [team.all_reduce(x, op) for op in ("sum", "mean", "max", "min")],
            "reduce_scatter": team.reduce_scatter(parts),
            "all_to_all": team.all_to_all(parts),
            "broadcast": team.broadcast(x if r == 1 else None, source=1),
            "gather": team.gather(torch.tensor(r), to=2),
            "barrier": team.barrier(),
        }

    for r, got in enumerate(World(3).map(worker)):
        assert [x.tolist() for x in got["all_gather"]] == [[], [0], [0, 1]]
        assert [x.tolist() for x in got["all_reduce"]] == [[3, 6, 9], [1, 2, 3], [2, 3, 4], [0, 1, 2]]
        assert got["reduce_scatter"].tolist() == [30.0 + 3 * r] * (r + 1)
        assert [x.tolist() for x in got["all_to_all"]] == [[10.0 * s + r] * (r + 1) for s in range(3)]
        assert got["broadcast"].tolist() == [1, 2, 3] and got["barrier"] is None
        assert got["gather"] is None if r != 2 else [int(x) for x in got["gather"]] == [0, 1, 2]


def test_what_comes_out_shares_no_memory_with_what_went_in():
    def worker(team):
        x = torch.zeros(2)
        got = [*team.all_gather(x), team.broadcast(x), team.all_reduce(x), *team.all_to_all([x] * team.size)]
        posted = team.post_all_gather(x)
        x += 1 + team.rank
        for y in got:
            y += 10
        return sum(float(y.sum()) for y in posted.wait())

    assert World(3).map(worker) == [0, 0, 0]
    assert World().map(worker) == [0]


def test_messages():
    def worker(team):
        if team.rank == 0:
            team.send(torch.tensor([1, 2]), to=1, tag=7)
            team.post_send(torch.tensor(0.5), to=1)
            team.send(torch.tensor(True), to=2)
            return None
        if team.rank == 1:
            first = team.recv(0)
            return first.item(), team.recv(0, tag=7).tolist()
        handle = team.post_recv()
        return handle.wait().item(), handle.source

    assert World(3).map(worker)[1:] == [(0.5, [1, 2]), (True, 0)]


def test_receives_match_in_the_order_of_posting():
    def worker(team):
        if team.rank == 0:
            handles = [team.post_recv(1) for _ in range(3)]
            return [int(handle.wait()) for handle in reversed(handles)]
        for i in range(3):
            team.send(torch.tensor(i), to=0)

    assert World(2).map(worker)[0] == [2, 1, 0]


def test_a_team_of_one_moves_and_records_nothing():
    def worker(team):
        x = torch.arange(3.0)
        assert team.all_reduce(x, "mean").tolist() == team.reduce_scatter([x]).tolist() == [0, 1, 2]
        assert [y.tolist() for y in team.all_gather(x) + team.all_to_all([x]) + team.gather(x)] == [[0, 1, 2]] * 3
        team.barrier()
        with pytest.raises(AbreastError, match="rank 0 has no message for itself"):
            team.send(x, 0)
        with pytest.raises(AbreastError, match="alone"):
            team.recv()
        return team.split(5).size

    world = World()
    assert world.map(worker) == [1] and not world.ledger.events


def test_split_renumbers_and_has_links_of_its_own():
    def worker(team):
        dp, tp = team.split(team.rank % 2, "dp"), team.split(team.rank // 2, "tp")
        total = dp.all_reduce(torch.tensor(team.rank)), tp.all_reduce(torch.tensor(team.rank))
        return dp.rank, tp.rank, dp.size, *map(int, total)

    world = World(4)
    assert world.map(worker) == [(0, 0, 2, 2, 1), (0, 1, 2, 4, 1), (1, 0, 2, 2, 5), (1, 1, 2, 4, 5)]
    assert {e.lane for e in world.ledger.events} == {"net dp 0", "net dp 1", "net tp 0", "net tp 1"}


def test_work_before_and_after_a_map_is_joined():
    world = World(3)
    world.lane().add("before")
    for _ in range(2):
        world.map(lambda team: team.lane.add("step", span=1 + team.rank))
    inner = world.at(world.lane("inner"))
    inner.map(lambda team: team.lane.add("step"))
    world.lane().wait(inner.lane()).add("after")
    assert world.ledger.span == 1 + 3 + 3 + 1 + 1 and world.ledger.loose(world.lane()) == []
    assert {"rank 2", "0/inner/rank 2"} <= set(world.ledger.lanes)


def test_a_method_runs_inside_a_rank():
    def worker(team):
        inner = team.world
        inner.lane("draft").add("draft")
        inner.lane().add("target")
        return World(2).map(lambda inside: int(inside.all_reduce(torch.tensor(team.rank))))

    world = World(2)
    assert world.map(worker) == [[0, 0], [2, 2]]
    assert world.ledger.loose(world.lane()) == ["rank 0/draft", "rank 1/draft"]


@pytest.mark.parametrize("n", [1, 3])
def test_ranks_begin_with_the_callers_random_state_and_the_caller_goes_on_with_rank_0s(n):
    def draws(team):
        numbers = []
        for i in range(3):
            numbers += [random.random(), float(np.random.randn()), float(torch.rand(()))]
            if i == team.rank:
                numbers.append(random.random())
            team.barrier()
        return numbers

    def seed():
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)

    class Alone:
        def barrier(self):
            pass

    expected = []
    for rank in range(n):
        seed()
        alone = Alone()
        alone.rank = rank
        expected.append(draws(alone))
        if rank == 0:
            following = random.random(), np.random.randn(), torch.rand(()).item()
    seed()
    assert World(n).map(draws) == expected
    assert (random.random(), np.random.randn(), torch.rand(()).item()) == following


def test_the_callers_torch_state_is_the_ranks():
    def state(team):
        team.barrier()
        on = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        if team.rank == 0:
            torch.set_grad_enabled(False)
        team.barrier()
        return on, torch.get_default_device().type, torch.is_grad_enabled()

    assert [s[0] for s in World(2).map(state)] == [(True, False, False)] * 2
    assert [s[2] for s in World(2).map(state)] == [False, True] and torch.is_grad_enabled()
    with torch.no_grad(), torch.autocast("cpu"), torch.device("meta"):
        assert World(2).map(state)[1] == ((False, False, True), "meta", False)
    with torch.inference_mode():
        assert World(2).map(state)[1][0] == (False, True, False)


def test_collectives_inside_backward():
    class Reduced(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, team):
            ctx.team = team
            return team.all_reduce(x)

        @staticmethod
        def backward(ctx, gradient):
            return ctx.team.all_reduce(gradient), None

    def worker(team):
        x = torch.full((2,), 1.0 + team.rank, requires_grad=True)
        hooked = []
        x.register_post_accumulate_grad_hook(lambda p: hooked.append(team.all_reduce(p.grad, "max")))
        (Reduced.apply(x * x, team) * (team.rank + 1)).sum().backward()
        return x.grad.tolist(), hooked[0].tolist()

    # d/dx of the sum over ranks of (rank + 1) * sum of squares: 2x * (1 + 2 + 3).
    assert World(3).map(worker) == [([2 * x * 6] * 2, [36, 36]) for x in (1.0, 2.0, 3.0)]


def deadlocks():
    x = torch.ones(1)

    def crossed(team):
        team.recv(1 - team.rank) if team.rank < 2 else team.all_reduce(x)

    def early(team):
        return None if team.rank == 0 else team.barrier()

    def none(team):
        team.recv(0, tag=3) if team.rank == 1 else None

    def anyone(team):
        team.recv()

    def halves(team):
        pair = team.split(team.rank // 2)
        pair.barrier() if team.rank != 3 else team.recv(2)

    return [
        (crossed, "deadlock: rank 0 waits for a message from rank 1; rank 1 waits for a message from rank 0; "
         "rank 2 waits for all_reduce on 'net' (still missing: ranks 0, 1)."),
        (early, "deadlock: rank 1 waits for barrier on 'net' (still missing: rank 0; rank 0 has finished); "
         "rank 2 waits for barrier on 'net' (still missing: rank 0; rank 0 has finished)."),
        (none, "deadlock: rank 1 waits for a message from rank 0 with tag 3 (which has finished)."),
        (anyone, "deadlock: " + "; ".join(f"rank {r} waits for a message from any rank" for r in range(3)) + "."),
        (halves, "deadlock: rank 2 waits for barrier on 'net split 1' (still missing: rank 3); "
         "rank 3 waits for a message from rank 2."),
    ]  # fmt: skip


@pytest.mark.parametrize(("worker", "said"), deadlocks(), ids=lambda x: getattr(x, "__name__", ""))
def test_deadlocks_name_who_waits_for_whom(worker, said):
    with pytest.raises(AbreastError) as caught:
        World(4 if worker.__name__ == "halves" else 3).map(worker)
    assert str(caught.value) == said and threading.active_count() < 20


def test_an_error_in_a_rank_ends_all_and_cleans_up_in_order():
    ended = []

    def worker(team):
        try:
            team.barrier()
            if team.rank == 1:
                raise KeyError("lost")
            team.recv(1)
        except Exception:
            ended.append(("error", team.rank))
            raise
        finally:
            ended.append(team.rank)
            if team.rank != 1:
                team.barrier()

    before = threading.active_count()
    with pytest.raises(KeyError, match="lost"):
        World(3).map(worker)
    assert ended == [("error", 1), 1, 0, 2]
    assert threading.active_count() == before


def test_an_error_inside_backward_ends_those_that_wait_there():
    class Meets(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, team):
            ctx.team = team
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            if ctx.team.rank == 1:
                raise ArithmeticError("in backward")
            return ctx.team.all_reduce(gradient), None

    def worker(team):
        Meets.apply(torch.ones(2, requires_grad=True), team).sum().backward()

    with pytest.raises(ArithmeticError, match="in backward") as caught:
        World(3).map(worker)
    assert caught.value.__notes__ == ["(raised on rank 1 of 3)"]


def test_a_call_that_others_never_made_is_an_error():
    with pytest.raises(AbreastError, match=r"not all ranks made: all_gather on 'net' \(still missing: rank 1"):
        World(2).map(lambda team: team.post_all_gather(torch.ones(1)) if team.rank == 0 else None)


one, two = torch.ones(1), torch.ones(2)
REFUSED = [
    (lambda t: t.all_reduce(one, "prod"), "all_reduce knows no op 'prod': there are max, mean, min, sum."),
    (lambda t: t.all_reduce(torch.tensor(1), "mean"), "all_reduce has no mean of int64: convert it to floats, or sum."),
    (lambda t: t.all_reduce(torch.tensor(1j), "max"), "all_reduce has no max of complex numbers."),
    (lambda t: t.all_reduce([1.0]), r"all_reduce moves torch tensors, not list; torch.tensor\(...\) makes one."),
    (lambda t: t.all_reduce(one.to_sparse()), "all_reduce moves dense tensors, not torch.sparse_coo ones."),
    (lambda t: t.all_reduce(torch.ones([1] * 9)), "all_reduce moves tensors of at most 8 axes, not 9."),
    (lambda t: t.all_reduce(2 * torch.ones(1, requires_grad=True)), "all_reduce would lose the gradient"),
    (lambda t: t.all_reduce(two if t.rank else one),
     r"rank 0 brings float32 \[1\] where rank 1 brings float32 \[2\]; all must bring the same dtype and shape."),
    (lambda t: t.all_reduce(one.double() if t.rank else one), r"float32 \[1\] where rank 1 brings float64 \[1\]"),
    (lambda t: t.all_reduce(one, "max" if t.rank else "sum"),
     r"rank 0 calls all_reduce\(op='sum'\) where rank 1 calls all_reduce\(op='max'\): all must call the same."),
    (lambda t: t.barrier() if t.rank else t.all_gather(one), "rank 0 calls all_gather where rank 1 calls barrier"),
    (lambda t: t.broadcast(one, 2), "broadcast: source must be a rank from 0 to 1, not 2."),
    (lambda t: t.broadcast(one, t.rank), r"calls broadcast\(source=0\) where rank 1 calls broadcast\(source=1\)"),
    (lambda t: t.broadcast(None), "broadcast: rank 0 is the source, and must give a tensor."),
    (lambda t: t.broadcast(two if t.rank else one), r"rank 0 sends float32 \[1\] where rank 1 has float32 \[2\]"),
    (lambda t: t.gather(one, True), "gather: to must be a rank from 0 to 1, not True."),
    (lambda t: t.all_to_all([one]), "all_to_all takes a list of 2 tensors, one for each rank, not 1."),
    (lambda t: t.reduce_scatter(one), "reduce_scatter takes a list of 2 tensors, one for each rank, not Tensor."),
    (lambda t: t.reduce_scatter([one, two if t.rank else one]), r"rank 1 brings float32 \[2"),
    (lambda t: t.send(one, t.rank), "send: rank 0 has no message for itself; to must be another rank."),
    (lambda t: t.recv(5), "recv: source must be a rank from 0 to 1, not 5."),
    (lambda t: t.recv(1, tag=-1), "recv: a tag is an integer from 0 to 1048575, not -1."),
    (lambda t: t.split(0, "a#1"), "split: a name is a text without #, not 'a#1'."),
    (lambda t: t.split("a"), "split: a colour is an integer from 0 on, not 'a'."),
    (lambda t: t.post_recv(1 - t.rank).source, "a message has a source once it was waited for."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_is_refused(call, said):
    with pytest.raises(AbreastError, match=said) as caught:
        World(2).map(call)
    assert str(caught.value).count("\n") == 0


def test_devices_must_be_alike():
    with pytest.raises(
        AbreastError, match="all_gather: all tensors must be on one kind of device, not rank 0 on cpu, "
    ):
        World(2).map(lambda team: team.all_gather(torch.ones(1, device="meta" if team.rank else "cpu")))


def test_worlds_that_make_no_sense():
    for wrong in (0, -1, True, 2.0):
        with pytest.raises(AbreastError, match="at least one rank"):
            World(wrong)
    from abreast.machine import Machine

    with pytest.raises(AbreastError, match=r"write World\(machine=...\)"):
        World(Machine())
    with pytest.raises(AbreastError, match="str cannot be called"):
        World(2).map("worker")


@given(st.lists(st.integers(0, 4), min_size=2, max_size=5), st.sampled_from([torch.float32, torch.int16, torch.bool]))
def test_uneven_shapes(lengths, dtype):
    xs = [torch.arange(n * 3).reshape(n, 3).to(dtype) for n in lengths]

    def worker(team):
        parts = [x[: team.rank] for x in xs]
        return team.all_gather(xs[team.rank]), team.all_to_all(parts), team.broadcast(xs[0] if team.rank == 0 else None)

    for r, (gathered, swapped, sent) in enumerate(World(len(xs)).map(worker)):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(gathered, xs))
        assert all(torch.equal(part, xs[r][:s]) for s, part in enumerate(swapped)) and torch.equal(sent, xs[0])


def test_one_rank_stays_on_the_callers_thread():
    def worker(team):
        assert threading.current_thread() is threading.main_thread()
        assert team.group.size() == 1 and team.split(0).group.rank() == 0
        x = torch.ones(2)
        torch.distributed.all_reduce(x)
        return x.sum().item()

    assert World().map(worker) == [2] and not torch.distributed.is_initialized()
    with pytest.raises(AbreastError, match="deadlock: rank 0 waits for a message from any rank"):
        World().map(lambda team: torch.distributed.recv(torch.ones(1), group=team.group))


def test_ctrl_c_ends_a_rank_that_computes(interruptible):
    def worker(team):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start() if team.rank == 0 else team.barrier()
        while True:
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        World(3).map(worker)
    assert World(3).map(lambda team: team.rank) == [0, 1, 2]


def test_more_ranks_than_threads(monkeypatch):
    start, started = threading.Thread.start, []

    def scarce(thread):
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    with pytest.raises(AbreastError, match="no more than 3 threads to spare for 5 ranks"):
        World(5).map(lambda team: team.rank)
    assert not any(thread.is_alive() for thread in started)


def test_a_thousand_ranks():
    def worker(team: Team):
        team.lane.add("step")
        return int(team.all_reduce(torch.tensor(team.rank)))

    world = World(1000)
    assert world.map(worker) == [499500] * 1000
    assert world.ledger.rounds == 2 * 999 and world.ledger.span == 1
