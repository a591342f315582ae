"""The reference, one step after the other, and the control that every faster sampler stands beside: fewer steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from abreast.core import AbreastError, Method, Run
from abreast.core.problem import IDENTICAL, Guarantee
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.problem import Sampling
from abreast.diffuse.spacing import fewer
from abreast.workers import World

Predict = Callable[[int, Tensor], Tensor]


def loop(problem: Sampling, predict: Predict) -> Generator[tuple[int, Tensor], None, Tensor]:
    """The sampler's loop with another way to predict: out = predict(i, x), x = step(i, out, x).

    predict: from index and state [B, *] to the guided output, as `Denoiser` does. Yields (i + 1, state) after each
    step and returns the last state.
    """
    scheduler, x = problem.fresh(), problem.x0
    for i in range(problem.length):
        x = problem.step(scheduler, i, predict(i, x), x)
        yield i + 1, x
    return x


@dataclass(frozen=True)
class Sequential(Method):
    """Denoise one step at a time, as every pipeline does."""

    def steps(self, problem: Sampling, world: World) -> Generator[tuple[int, Tensor], None, Tensor]:
        return loop(problem, Denoiser(problem, world.lane()))

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL


@dataclass(frozen=True)
class FewerSteps(Method):
    """Sample plainly with as many evaluations as another method's span: what a sceptic would do instead.

    span: how many evaluations at most. scheduler: None is the problem's own; "dpm-solver++" its second-order multistep
    solver (Lu et al., 2022); else a diffusers scheduler. spacing: "even" over the timesteps (of a custom schedule:
    over its indices); "quadratic" closer together towards the picture (Song et al., 2021). Raises AbreastError for a
    span below 1, and a scheduler that cannot be spaced so.
    """

    span: int
    scheduler: Any = None
    spacing: Literal["even", "quadratic"] = "even"

    def __post_init__(self) -> None:
        if not isinstance(self.span, int) or self.span < 1:
            raise AbreastError(f"span is a whole number of evaluations from 1 on, not {self.span!r}.")
        if self.spacing not in ("even", "quadratic"):
            raise AbreastError(f"spacing is even or quadratic, not {self.spacing!r}.")

    def steps(self, problem: Sampling, world: World) -> Generator[tuple[int, Tensor], None, Tensor]:
        coarse = fewer(problem.scheduler, self.span, self.scheduler, self.spacing)
        options = {} if type(coarse) is not type(problem.scheduler) else problem.options
        short = replace(problem, scheduler=coarse, steps=None, start=None, options=options)
        return Sequential().steps(short, world)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        if self.scheduler is None and self.spacing == "even":
            yield "the same again", self, replace(self)


def fewer_steps(span: float) -> Iterator[Method]:
    """The mandatory controls of a method of this span: plain sampling with as many steps, evenly and quadratically
    spaced, and with a second-order multistep solver (quadratically: on exact denoisers the stronger rival, by up to
    four times at equal steps). `def controls(self, run): yield from fewer_steps(run.ledger.span)`
    """
    steps = max(1, round(span))
    yield FewerSteps(steps)
    yield FewerSteps(steps, spacing="quadratic")
    yield FewerSteps(steps, scheduler="dpm-solver++", spacing="quadratic")


def controls(run: Run[Any]) -> Iterator[Method]:
    """`fewer_steps` at the span of a run."""
    return fewer_steps(run.ledger.span)
