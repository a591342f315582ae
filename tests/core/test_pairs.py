"""Sums read off ledgers against numbers computed by hand."""

import pytest
from scripted import Letters, Speculative

from abreast.core import Kind, Ledger, run
from abreast.core.ledger import meet
from abreast.machine import Machine, replay
from abreast.workers import World


def test_chain_speculation_with_a_perfect_drafter():
    problem = Letters(n=60)
    held = run(problem, Speculative(gamma=4, cost=0.1), against=run(problem, problem.reference))
    ledger = held.ledger
    assert held.kept and ledger.calls("target") == 12
    assert ledger.span == pytest.approx(12 * 1.4)
    assert ledger.work == pytest.approx(12 * 5.4)
    assert ledger.total("accepted") == 48 and ledger.series("drafted") == [4] * 12
    assert ledger.path() == {"draft": 48, "target": 12}


def test_a_drafter_beside_its_target():
    world = World(machine=Machine())
    target, draft = world.lane(), world.lane("draft")
    world.ledger.kinds["draft"] = Kind(unit=0.25)
    for _ in range(16):
        target.add("target", 4)
        for _ in range(4):
            draft.add("draft")
        meet(target, draft)
    ledger = world.ledger
    assert ledger.span == ledger.makespan == 16
    assert set(ledger.idle().values()) == {0}
    assert replay(ledger, Machine(devices=1)).makespan == 32


def test_sweeps_with_scans_in_their_own_column():
    ledger = Ledger()
    ledger.kinds["scan"] = Kind(unit=0)
    lane = ledger.lane("0")
    for _ in range(6):
        lane.add("f", 32)
        lane.add("scan", 32, span=5)
    assert (ledger.span, ledger.work, ledger.longest("scan")) == (6, 6 * 32, 30)
    assert ledger.path() == {"f": 6, "scan": 6}


@pytest.mark.parametrize(("width", "span"), [(1, 1280), (8, 160), (64, 20)])
def test_environment_lanes(width, span):
    ledger = Ledger()
    for _ in range(64 // width * 20):
        ledger.lane("0").add("step", width)
    assert (ledger.work, ledger.span) == (1280, span)


def local_sgd(machine=None, overlap=False):
    """4 workers, 32 steps, all-gather of 48 bytes after every 4; overlapped, its result is awaited one round later."""
    ledger = Ledger(machine)
    ranks, net = [ledger.lane(str(r)) for r in range(4)], ledger.lane("net")
    for _ in range(8):
        for lane in ranks:
            for _ in range(4):
                lane.add("step")
        before = net.last
        net.wait(*ranks)
        sent = net.add("all_gather", 4, span=3, bytes=4 * 3 * 48)
        for lane in ranks:
            if not overlap:
                lane.wait(sent)
            elif before >= 0:
                lane.wait(before)
    if overlap:
        for lane in ranks:
            lane.wait(net)
    ledger.close()
    return ledger


EXCHANGE = {"latency": 0.01, "link": 4800.0}  # 3 rounds and 576 bytes over 4 links: 0.06 s


def test_local_sgd_counts():
    ledger = local_sgd()
    assert (ledger.work, ledger.span, ledger.bytes, ledger.rounds) == (128, 32, 8 * 4 * 3 * 48, 24)
    assert ledger.loose(ledger.lane("0")) == []


def test_local_sgd_with_a_slow_worker():
    ledger = local_sgd(Machine(speed={"3": 0.5}, **EXCHANGE))
    assert ledger.makespan == pytest.approx(8 * (8 + 0.06))
    assert ledger.idle()["0"] == pytest.approx(32.48)


def test_exposed_transfers():
    blocking, overlapped = local_sgd(Machine(**EXCHANGE)), local_sgd(Machine(**EXCHANGE), overlap=True)
    assert blocking.makespan == pytest.approx(32.48)
    assert blocking.exposed() == pytest.approx((0.48, 4608))
    assert overlapped.makespan == pytest.approx(32.06)
    assert overlapped.exposed() == pytest.approx((0.06, 576))


def vote(machine):
    """Five traces; three of them agree when the clock shows 8, and the other two are stopped."""
    world = World(machine=machine)
    root = world.lane()
    traces = [root.fork(f"trace {i}") for i in range(5)]
    for i, tokens in enumerate([4, 6, 8, 8, 8]):
        for _ in range(tokens):
            traces[i].add("token")
    root.wait(*traces[:3])
    world.ledger.close()
    return world.ledger


def test_voting_with_early_stop():
    ledger = vote(Machine())
    root = ledger.lane("0")
    assert ledger.makespan == 8 and ledger.rows("token") == 34
    assert ledger.wasted(root) == 16 and ledger.loose(root) == ["0/trace 3", "0/trace 4"]
    assert replay(ledger, Machine(devices=2)).makespan == 20
    assert "0" not in ledger.idle()


def pipeline(orders, p, halves):
    """Record a schedule table (for each stage its operations in order) by going round the stages."""
    ledger, at, ids = Ledger(), [0] * p, {}
    ledger.kinds = {"F": Kind(), "B": Kind(1 if halves else 2), "W": Kind()}
    while any(i < len(order) for i, order in zip(at, orders)):
        moved = False
        for stage, order in enumerate(orders):
            while at[stage] < len(order):
                kind, m = order[at[stage]]
                near = {"F": stage - 1, "B": stage + 1}.get(kind, p)
                needs = [(kind, near, m)] if 0 <= near < p else []
                if any(need not in ids for need in needs):
                    break
                frees = "W" if halves else "B"
                memory = {"F": 1, frees: -1}.get(kind, 0)
                after = [ids[need] for need in needs]
                ids[kind, stage, m] = ledger.add(kind, lane=str(stage), after=after, memory=memory)
                at[stage], moved = at[stage] + 1, True
        assert moved, "the table waits for itself"
    return ledger


def one_f_one_b(p, m):
    for stage in range(p):
        ahead = min(p - 1 - stage, m)
        yield [("F", i) for i in range(ahead)] + [
            op for i in range(m) for op in ([("F", i + ahead)] * (i + ahead < m) + [("B", i)])
        ]


def zero_bubble(p, m, ahead, late):
    """Backward, weights, forward by turns: stage s starts `ahead(s)` forwards early and its weights `late(s)` late."""
    for s in range(p):
        order = [("F", i) for i in range(min(ahead(s), m))]
        for k in range(m):
            order += [("B", k)] + [("W", k - late(s))] * (k >= late(s)) + [("F", k + ahead(s))] * (k + ahead(s) < m)
        yield order + [("W", k) for k in range(m - late(s), m)]


@pytest.mark.parametrize(
    ("orders", "halves", "makespan", "idle", "peak"),
    [
        (list(one_f_one_b(4, 8)), False, 33, 18, 4),
        (list(zero_bubble(4, 8, lambda s: 4 - s, lambda s: s)), True, 27, 6, 4),
        (list(zero_bubble(4, 8, lambda s: 7 - 2 * s, lambda s: 2 * s)), True, 27, 0, 7),
    ],
    ids=["1F1B", "ZB-H1", "ZB-H2"],
)
def test_pipeline_schedules(orders, halves, makespan, idle, peak):
    ledger = pipeline(orders, 4, halves)
    timed = replay(ledger, Machine())
    assert ledger.span == timed.makespan == makespan
    assert sum(timed.idle(inner=True).values()) == idle
    assert max(ledger.peak().values()) == peak
    assert max(timed.peak(place={}).values()) == peak


def test_a_method_inside_another():
    world, problems = World(), [Letters(n=n) for n in (10, 30, 20)]
    alone = [run(problem, Speculative()).ledger for problem in problems]
    traces = [world.lane(f"trace {i}") for i in range(3)]
    for problem, trace in zip(problems, traces):
        Speculative().run(problem, world.at(trace))
        trace.fork("check").add("target")
    world.lane().wait(*traces)
    ledger = world.ledger
    assert ledger.span == pytest.approx(max(one.span for one in alone) + 1)
    assert ledger.work == pytest.approx(sum(one.work for one in alone) + 3)
    assert ledger.loose(world.lane()) == [f"0/trace {i}/check" for i in range(3)]
