"""Ranks that are processes: the same values and events as inline; errors, deaths, and what comes after them."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from abreast import AbreastError, World
from abreast.machine import Machine
from abreast.workers import Pool

from .programs import facts, program
from .test_workers_inline import REFUSED


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("n", [2, 4])
def test_random_programs_are_the_same_inline_and_on_processes(n, seed, pools):
    worlds = World(n), World(pool=pools(n))
    got = []
    for world in worlds:
        torch.manual_seed(seed)
        random.seed(seed)
        world.lane().add("before")
        values = [world.map(program(seed)), world.map(program(seed + 100, 4))]
        got.append((values, torch.rand(2).tolist(), random.random()))
    assert got[0] == got[1]
    inline, processes = (world.ledger for world in worlds)
    assert facts(inline) == facts(processes)
    assert processes.total("exposed") + processes.total("hidden") == processes.bytes > 0
    assert (inline.rounds, inline.work, inline.span) == (processes.rounds, processes.work, processes.span)
    assert processes.loose(worlds[1].lane()) == inline.loose(worlds[0].lane())


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_is_refused_is_refused_in_the_same_words(call, said, pool2):
    with pytest.raises(AbreastError, match=said):
        World(pool=pool2).map(call)


def test_an_error_in_a_rank_is_raised_as_it_is(pool4):
    class Own(Exception):
        pass

    def worker(team):
        if team.rank == 2:
            raise Own("here")
        team.barrier()

    before = time.monotonic()
    with pytest.raises(Exception, match="here") as caught:
        World(pool=pool4).map(worker)
    assert type(caught.value).__name__ == "Own" and "raised on rank 2 of 4" in caught.value.__notes__[0]
    assert "in worker" in caught.value.__notes__[0] and time.monotonic() - before < 5
    assert World(pool=pool4).map(lambda team: int(team.all_reduce(torch.tensor(1)))) == [4] * 4


def test_what_does_not_travel_is_said(pool2):
    lock = threading.Lock()
    with pytest.raises(AbreastError, match=r"this worker does not travel to processes: .*lock"):
        World(pool=pool2).map(lambda team: lock)
    with pytest.raises(AbreastError, match=r"what the worker returned on rank 0 does not travel: .*lock"):
        World(pool=pool2).map(lambda team: threading.Lock())
    with pytest.raises(AbreastError, match="virtual time needs ranks in one process"):
        World(machine=Machine(), pool=pool2)
    with pytest.raises(AbreastError, match="a world on this pool has its 2 ranks, not 3"):
        World(3, pool=pool2)
    with pytest.raises(AbreastError, match="at least one process, not 0"):
        Pool(0)


def test_messages_that_nobody_took_do_not_reach_the_next_job(pool2):
    world = World(pool=pool2)
    world.map(lambda team: team.send(torch.tensor(1), 1) if team.rank == 0 else None)
    world.map(lambda team: team.post_recv(1) and None if team.rank == 0 else None)

    def worker(team):
        return int(team.recv(0)) if team.rank else team.send(torch.tensor(2), 1)

    assert world.map(worker) == [None, 2]


def test_a_message_reaches_a_rank_that_is_late(pool2):
    def worker(team):
        half = team.split(0)
        if team.rank == 0:
            half.post_send(torch.arange(100_000), 1)
            return team.send(torch.tensor(5), 1)
        time.sleep(0.3)
        return int(team.recv(0)), int(half.recv(0).sum())

    for _ in range(2):
        assert World(pool=pool2).map(worker) == [None, (5, 100_000 * 99_999 // 2)]


def test_ctrl_c_ends_a_job_and_the_next_one_runs(pool2, interruptible):
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        World(pool=pool2).map(lambda team: time.sleep(30) if team.rank else team.barrier())
    timer.join()
    assert World(pool=pool2).map(lambda team: int(team.all_reduce(torch.tensor(1)))) == [2, 2]


def test_the_callers_torch_state_is_the_ranks(pool2):
    with torch.no_grad():
        assert World(pool=pool2).map(lambda team: torch.is_grad_enabled()) == [False, False]
    assert World(pool=pool2).map(lambda team: torch.is_grad_enabled()) == [True, True]


def test_ranks_have_torchs_own_group(pool4):
    def worker(team):
        from torch import distributed as dist

        half = team.split(team.rank // 2)
        x = torch.tensor([1.0 + team.rank])
        dist.all_reduce(x, group=team.group)
        y = torch.tensor([1.0 + team.rank])
        dist.all_reduce(y, group=half.group)
        return x.item(), y.item(), dist.get_rank(), dist.get_world_size(), half.group.size()

    for _ in range(2):
        got = World(pool=pool4).map(worker)
        assert got == [(10, 3, 0, 4, 2), (10, 3, 1, 4, 2), (10, 7, 2, 4, 2), (10, 7, 3, 4, 2)]


def test_calls_in_crossed_order_of_two_groups_when_posted(pool2):
    """One rank posts on the first group and then on the second, the other the reverse: posting does not block."""

    def worker(team):
        one, two = team.split(0, "a"), team.split(0, "b")
        first, second = (one, two) if team.rank else (two, one)
        x = torch.tensor([2.0 + team.rank])
        handles = {group.rank + 10 * (group is one): group.post_all_reduce(x) for group in (first, second)}
        return [float(handle.wait()) for _, handle in sorted(handles.items())]

    assert World(pool=pool2).map(worker) == World(2).map(worker) == [[5, 5], [5, 5]]


def alive(pids, seconds=5.0):
    """Which of these processes are there after so many seconds, or none as soon as there is none."""
    end = time.monotonic() + seconds
    while pids and time.monotonic() < end:
        for pid in list(pids):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                pids.remove(pid)
        time.sleep(0.02)
    return pids


def test_killed_at_any_moment(pool4):
    """kill -9 of one of 4 processes, 20 times, in the middle of training: one clear error each within seconds, the next
    job is right, and nobody is left over."""

    def training(team):
        x = torch.ones(1000)
        for _ in range(2000):
            x = team.all_reduce(x, "mean")
            team.send(x, (team.rank + 1) % team.size)
            team.recv((team.rank - 1) % team.size)

    World(pool=pool4).map(lambda team: team.barrier())
    moments, victims = random.Random(0), []
    for _ in range(20):
        victim, delay = moments.randrange(4), moments.random() * 0.2
        pid = World(pool=pool4).map(lambda team: os.getpid())[victim]
        victims.append(pid)
        killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        killer.start()
        began = time.monotonic()
        with pytest.raises(AbreastError) as caught:
            World(pool=pool4).map(training)
        took = time.monotonic() - began
        killer.join()
        assert str(caught.value) == (
            f"rank {victim} of 4 was killed (SIGKILL) during a job, which is lost; "
            "the next job runs on all ranks again."
        )
        assert took < delay + 5
        assert World(pool=pool4).map(lambda team: int(team.all_reduce(torch.tensor(team.rank)))) == [6] * 4
    assert alive(victims) == []


def test_killed_between_jobs(pool2):
    os.kill(World(pool=pool2).map(lambda team: os.getpid())[1], signal.SIGKILL)
    time.sleep(0.3)
    assert World(pool=pool2).map(lambda team: int(team.all_reduce(torch.tensor(1)))) == [2, 2]


def test_a_rank_that_hangs_or_leaves_is_an_error_in_time():
    with Pool(2, limit=2.0) as pool:
        with pytest.raises(AbreastError, match="rank 1 of 2 took longer than 2 s: give the pool a longer limit"):
            World(pool=pool).map(lambda team: time.sleep(60) if team.rank else None)
        with pytest.raises(AbreastError, match="rank 0 waited 2 s for a message from rank 1"):
            World(pool=pool).map(lambda team: team.recv(1) if team.rank == 0 else None)
        with pytest.raises(AbreastError, match="rank 1 of 2 ended with exit code 5"):
            World(pool=pool).map(lambda team: os._exit(5) if team.rank else team.barrier())
        assert World(pool=pool).map(lambda team: team.rank) == [0, 1]
    with pytest.raises(AbreastError, match="this pool is closed"):
        World(pool=pool).map(lambda team: team.rank)


SCRIPT = """
import os
import torch
from abreast.workers import World

world = World.torchrun(size=2)
torch.manual_seed(0)

def worker(team):
    team.lane.add("step")
    x = team.all_reduce(torch.randn(3) + team.rank)
    if team.rank == 0:
        team.send(x, 1)
    got = team.recv(0) if team.rank else x
    half = team.split(team.rank)
    return {"x": got, "size": half.size, "draw": torch.rand(2)}

values = world.map(worker)
after = [x.tolist() for x in world.map(lambda team: torch.rand(1))]
text = [{name: torch.as_tensor(x).tolist() for name, x in value.items()} for value in values]
ledger = world.ledger
said = f"{text} {after} {ledger.bytes} {ledger.rounds} {ledger.total('exposed')} {ledger.loose(world.lane())}"
os.write(1, (said + chr(10)).encode())
"""


def test_one_script_inline_and_under_torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = subprocess.run([sys.executable, script], env=env, check=True, capture_output=True, text=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    torchrun += ["--rdzv-endpoint", "127.0.0.1:0", str(script)]
    ranks = subprocess.run(torchrun, env=env, check=True, capture_output=True, text=True, timeout=100)
    assert alone.stdout and sorted(ranks.stdout.splitlines()) == alone.stdout.splitlines() * 2


def test_a_script_without_a_guard_and_no_orphans_when_it_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time, torch\n"
        "from abreast.workers import Pool, World\n"
        "def worker(team):\n"
        "    return os.getpid()\n"
        "print(*World(pool=Pool(2)).map(worker), flush=True)\n"
        "time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(pids) == 2 and alive(pids) == []
