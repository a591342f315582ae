"""Sampling as a recurrence whose expensive part is batched and whose cheap part is taken in order.

Axes: T steps, n indices abreast, B samples. The form is that of a split recurrence: `evaluate` computes what is
expensive for many states at once, `advance` steps on with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from abreast.core import Lane
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.levels import held
from abreast.diffuse.schedule import fork

if TYPE_CHECKING:
    from abreast.diffuse.problem import Sampling


class StepChain:
    """x_{i+1} = advance(i, x_i, evaluate(i, x_i)). T: steps. x0: the first state [B, *]. carry: the scheduler's state
    before the first step.

    hold: as what an output is kept between evaluations ("output", "v", "x0", "epsilon": see `levels.held`); it is
    turned back into the network's output at the state that `advance` has by then.
    """

    def __init__(self, problem: Sampling, lane: Lane, hold: str = "output"):
        self.problem, self.hold = problem, hold
        self.denoiser = Denoiser(problem, lane)
        self.T: int = problem.length
        self.x0: Tensor = problem.x0
        self.carry: Any = problem.fresh()

    def evaluate(self, i: Any, x: Tensor, ctx: Any = None) -> Tensor:
        """What is held of the guided outputs at states x [n, B, *] of indices i [n]; one call, one event."""
        return held(self.problem.scheduler, i, self.denoiser(i, x), x, "output", self.hold)

    def advance(self, i: int, x: Tensor, g: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """State x_{i+1} [B, *] and the scheduler that has made this step; the one given stays as it is."""
        scheduler = fork(carry)
        out = held(self.problem.scheduler, i, g, x, self.hold, "output")
        return self.problem.step(scheduler, i, out, x), scheduler
