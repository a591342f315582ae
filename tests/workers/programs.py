"""Random programs of collectives, messages, work and draws, for any back end; and what of a ledger must be the same."""

from __future__ import annotations

import random
from collections import Counter

import torch

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int16]
STEPS = (
    "all_gather all_reduce reduce_scatter all_to_all broadcast gather barrier "
    "ring any later posted work draw sub nested"
).split()


def program(seed, length=12):
    """A worker that makes `length` random steps and returns the numbers it saw."""
    plan = random.Random(seed)
    steps = [(plan.choice(STEPS), plan.randrange(1 << 30)) for _ in range(length)]

    def worker(team):
        seen, waiting = [], []
        halves = team.split(team.rank % 2, "half")
        for step, key in steps:
            one = random.Random(key)
            seen.append(STEP[step](team, halves, one, waiting))
        for handle in waiting:
            seen.append(handle.wait())
        return [leaf.tolist() for leaf in leaves(seen)]

    return worker


def leaves(x):
    if isinstance(x, torch.Tensor):
        return [x.double() if x.is_floating_point() else x]
    return [leaf for item in x or [] for leaf in leaves(item)]


def data(team, one, shape=None, floats=False):
    dtype = one.choice(DTYPES[:3] if floats else DTYPES)
    shape = [one.randrange(4) for _ in range(one.randrange(3))] if shape is None else shape
    source = torch.Generator().manual_seed(one.randrange(1 << 30) + team.rank)
    return (torch.randn(shape, generator=source) * 100).to(dtype)


def uneven(team, one):
    seed = one.randrange(1 << 30)
    return data(team, random.Random(seed + team.rank), [random.Random(seed - team.rank).randrange(5), 2])


def all_gather(team, halves, one, waiting):
    return team.all_gather(uneven(team, one))


def all_reduce(team, halves, one, waiting):
    op = one.choice(["sum", "mean", "max", "min"])
    return [team.all_reduce(data(team, one, floats=op == "mean"), op)]


def reduce_scatter(team, halves, one, waiting):
    return [team.reduce_scatter([data(team, one, [k, 3]) for k in range(team.size)])]


def all_to_all(team, halves, one, waiting):
    return team.all_to_all([uneven(team, random.Random(one.random() + k)) for k in range(team.size)])


def broadcast(team, halves, one, waiting):
    source = one.randrange(team.size)
    x = uneven(team, one)
    return [team.broadcast(x if team.rank == source else None, source)]


def gather(team, halves, one, waiting):
    return team.gather(uneven(team, one), to=one.randrange(team.size))


def barrier(team, halves, one, waiting):
    team.barrier()


def ring(team, halves, one, waiting):
    by, tag = one.randrange(1, team.size), one.randrange(3)
    for i in range(2):
        team.send(data(team, one, [i + 1]), (team.rank + by) % team.size, tag + i)
    return [team.recv((team.rank - by) % team.size, tag + 1), team.recv((team.rank - by) % team.size, tag)]


def any_source(team, halves, one, waiting):
    """One rank takes a message of every other, in whatever order: what it keeps does not depend on it."""
    to, tag = one.randrange(team.size), 7 + one.randrange(1000)
    if team.rank != to:
        team.send(torch.tensor([team.rank]), to, tag)
        return []
    got = {}
    for _ in range(team.size - 1):
        handle = team.post_recv(None, tag)
        value = int(handle.wait())
        got[value] = handle.source
    return [torch.tensor(sorted(got.items()))]


def later(team, halves, one, waiting):
    waiting.append(
        team.post_all_gather(uneven(team, one)) if one.random() < 0.5 else team.post_all_reduce(data(team, one))
    )


def posted(team, halves, one, waiting):
    tag = 2000 + one.randrange(1000)
    handles = [team.post_recv((team.rank - 1) % team.size, tag) for _ in range(2)]
    sent = [team.post_send(data(team, one), (team.rank + 1) % team.size, tag) for _ in range(2)]
    if one.random() < 0.5:
        team.lane.add("step")
        sent[0].wait()
    return [handle.wait() for handle in reversed(handles)]


def work(team, halves, one, waiting):
    team.lane.add("step", one.randrange(1, 4) + team.rank)
    if one.random() < 0.3:
        side = team.lane.fork("aside")
        side.add("aside")
        team.lane.wait(side)
    team.lane.ledger.note(team.lane.last, loss=one.random())


def draw(team, halves, one, waiting):
    return [torch.rand(team.rank + 1), torch.nn.functional.dropout(torch.ones(5)), torch.tensor(random.random())]


def sub(team, halves, one, waiting):
    return [*halves.all_gather(uneven(halves, one)), halves.all_reduce(data(halves, one))]


def nested(team, halves, one, waiting):
    colour = one.randrange(2) if team.size == 2 else team.rank // 2
    inner = team.split(colour)
    return [inner.all_reduce(data(inner, one))]


STEP = {name: {"any": any_source}.get(name, globals().get(name)) for name in STEPS}


def facts(ledger):
    """Every event, with the kinds and lanes of what it waits for, and its notes."""
    where = lambda i: (ledger.events[i].kind, ledger.events[i].lane)  # noqa: E731
    return Counter(
        (e.kind, e.lane, e.size, e.span, e.bytes, tuple(sorted(map(where, e.after))), str(ledger.notes.get(i)))
        for i, e in enumerate(ledger.events)
    )
