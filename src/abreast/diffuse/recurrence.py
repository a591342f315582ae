"""Sampling as a recurrence: the network is the evaluation, which is made for many steps at once, the scheduler the
advance, which is cheap.

Axes: T steps, n indices abreast, B samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abreast.core import AbreastError, Lane
from abreast.diffuse.batch import batch_step
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.levels import held
from abreast.diffuse.schedule import draws, fork
from abreast.solve import Recurrence, SplitRecurrence

if TYPE_CHECKING:
    from abreast.diffuse.problem import Sampling


class StepChain(SplitRecurrence):
    """What is held between evaluations is the network's output, said as `hold` ("output", "v", "x0", "epsilon": see
    `levels.held`); it is turned back into an output at the state that the scheduler has reached by then."""

    def __init__(self, problem: Sampling, hold: str = "output"):
        self.problem, self.hold = problem, hold
        self.T, self.x0, self.carry0 = problem.length, problem.x0, problem.fresh()

    def on(self, lane: Lane) -> Any:
        denoiser = Denoiser(self.problem, lane)

        def evaluate(i: Tensor, x: Tensor, ages: Tensor) -> Tensor:
            return self.said(i, denoiser(i, x), x)

        return evaluate

    def said(self, i: Tensor, out: Tensor, x: Tensor) -> Tensor:
        """The network's outputs as what is held."""
        return held(self.problem.scheduler, i, out, x, "output", self.hold)

    def advance(self, i: int, x: Tensor, g: Tensor, carry: Any) -> tuple[Tensor, Any]:
        scheduler = fork(carry)
        out = held(self.problem.scheduler, i, g, x, self.hold, "output")
        return self.problem.step(scheduler, i, out, x), scheduler


class Sums(StepChain):
    """Picard's form: a new state is the window's first plus all that the steps between add, each at its old state."""

    def __init__(self, problem: Sampling):
        super().__init__(problem)
        self.drawing = draws(problem.scheduler, **problem.options)

    def roll(self, b: int, x: Tensor, g: Tensor, carry: Any) -> tuple[Tensor, list[Any]]:
        n, problem = len(g), self.problem
        if problem.free:
            index = torch.arange(b, b + n)
            noise = torch.stack([problem.draw(i) for i in index.tolist()]) if self.drawing else None
            after = batch_step(problem.scheduler, index, g, x[:-1], noise, **problem.options)
            carries = [carry] * n
        else:
            states, carries, at = [], [], carry
            for k in range(n):
                y, at = self.advance(b + k, x[k], g[k], at)
                states.append(y)
                carries.append(at)
            after = torch.stack(states)
        new = x[0] + (after - x[:-1]).cumsum(0)
        new[0] = after[0]
        return new, carries


def as_recurrence(problem: Sampling, lane: Lane) -> Recurrence:
    """The same as a plain recurrence x_{i+1} = f(i, x_i), for every solver of `abreast.solve`: quasi-Newton methods
    need the derivative of a whole step. The network is counted on `lane`. Raises AbreastError for a scheduler that
    remembers earlier steps."""
    if not problem.free:
        name = type(problem.scheduler).__name__
        raise AbreastError(f"{name} remembers earlier steps, so its steps are no function of the state alone.")
    denoiser = Denoiser(problem, lane)
    noise = (
        torch.stack([problem.draw(i) for i in range(problem.length)])
        if draws(problem.scheduler, **problem.options)
        else None
    )

    def f(i: Tensor, x: Tensor) -> Tensor:
        drawn = None if noise is None else noise[i]
        return batch_step(problem.scheduler, i, denoiser(i, x), x, drawn, **problem.options)

    return Recurrence(f, problem.x0, problem.length)
