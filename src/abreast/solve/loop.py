"""The reference of every problem of this room: one step, or one node, after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from abreast.core import IDENTICAL, AbreastError, Guarantee, Lane, Method
from abreast.solve.problem import Recurrence, check_finite
from abreast.workers import World


@dataclass(frozen=True)
class Loop(Method):
    """x_1, then x_2, and so on; differentiable by autograd's own way through the loop."""

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL

    def run(self, problem: Any, world: World) -> torch.Tensor:
        if not isinstance(problem, Recurrence):
            return unrolled(problem, world)
        lane, x, states = world.lane(), problem.x0, []
        lane.ledger.kinds.setdefault("f", problem.kind)
        index = torch.arange(problem.steps, device=x.device)
        f = problem.begin()
        start = lane.ledger.clock()
        for i in range(problem.steps):
            x = f(index[i : i + 1], x[None])[0]
            states.append(x)
        record(lane, problem.steps, start)
        out = torch.stack(states)
        if not bool(torch.isfinite(out).all()):
            bad = int((~torch.isfinite(out)).flatten(1).any(1).nonzero()[0])
            check_finite(out[bad], bad)
        return out


def record(lane: Lane, steps: int, start: float) -> None:
    """One event a step, from `start` until now in equal parts: a clock read at every step would slow the loop."""
    if lane.ledger.machine is not None:
        for _ in range(steps):
            lane.add("f")
        return
    each = (lane.ledger.clock() - start) / steps
    for i in range(steps):
        lane.add("f", start=start + i * each, end=start + (i + 1) * each)


def unrolled(problem: Any, world: World) -> torch.Tensor:
    """What a problem that is no plain recurrence makes of itself, one thing after the other: its `unroll(lane)`."""
    if not hasattr(problem, "unroll"):
        raise AbreastError(f"a {type(problem).__name__} says nothing of its own order: it has no unroll(lane).")
    return problem.unroll(world.lane())
