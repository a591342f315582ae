"""The reference: one step after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from abreast.core import IDENTICAL, Guarantee, Method
from abreast.solve.problem import Recurrence, check_finite
from abreast.workers import World


@dataclass(frozen=True)
class Loop(Method):
    """x_1, then x_2, and so on; differentiable by autograd's own way through the loop."""

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL

    def run(self, problem: Recurrence, world: World) -> torch.Tensor:
        lane, x, states = world.lane(), problem.x0, []
        index = torch.arange(problem.steps, device=x.device)
        f = problem.begin()
        with lane.measure("f", problem.steps, span=problem.steps):
            for i in range(problem.steps):
                x = f(index[i : i + 1], x[None])[0]
                states.append(x)
        out = torch.stack(states)
        if not bool(torch.isfinite(out).all()):
            bad = int((~torch.isfinite(out)).flatten(1).any(1).nonzero()[0])
            check_finite(out[bad], bad)
        return out
