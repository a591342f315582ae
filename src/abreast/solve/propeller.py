"""DreamPropeller: an optimiser's path by Picard-like windows (Zhou et al., 2024); and plain descent, a sceptic's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Method, Run
from abreast.solve.loop import Loop
from abreast.solve.path import OptimizerPath, follow
from abreast.solve.split import SplitRule
from abreast.solve.window import Threshold, Window
from abreast.workers import World


@dataclass(frozen=True)
class Descent(Method):
    """The plain loop with other settings, a sceptic's: fewer rounds, the mean gradient of several seeds, a larger
    learning rate. rounds: None takes the problem's steps. Raises AbreastError for settings below 1, or lr not above
    0."""

    rounds: int | None = None
    batch: int = 1
    lr: float = 1.0

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.rounds is not None and self.rounds < 1) or not self.lr > 0:
            raise AbreastError(
                f"descent has at least one round and one seed and lr above 0, not {self.rounds}, {self.batch} and "
                f"{self.lr}."
            )

    def promise(self, problem: Any) -> Guarantee:
        plain = self.batch == 1 and self.lr == 1 and self.rounds in (None, problem.steps)
        return IDENTICAL if plain else MEASURED

    def run(self, problem: OptimizerPath, world: World) -> Tensor:
        if not isinstance(problem, OptimizerPath):
            raise AbreastError(f"an OptimizerPath is wanted, not a {type(problem).__name__}.")
        return problem.descend(world.lane(), self.rounds or problem.steps, self.batch, self.lr)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "the problem's own settings are the loop", Descent(), Loop()


@dataclass(frozen=True)
class Propeller(Method):
    """Gradients of a window's steps at guessed parameters, all at once; then the optimiser rolls from the window's
    exact start with them, and the window moves to the first state that the roll changed by more than a threshold.

    window: steps at once, one for each worker. threshold: of the mean squared change of a state x 1e6. ema, adapt: the
    threshold follows the middle position's error ("median") or the mean one; None keeps it. With threshold 0 and no
    adapting the path is the loop's own.
    Source: Zhou et al., "DreamPropeller: Supercharge Text-to-3D Generation with Parallel Sampling", CVPR 2024. Raises
    AbreastError for an empty window or a negative threshold.
    """

    window: int = 7
    threshold: float = 30.0
    ema: float = 0.9
    adapt: Literal["median", "mean"] | None = "median"

    def __post_init__(self) -> None:
        if self.window < 1 or not self.threshold >= 0 or not 0 <= self.ema <= 1:
            raise AbreastError(
                f"Propeller needs window >= 1, threshold >= 0 and ema from 0 to 1, not {self.window}, "
                f"{self.threshold} and {self.ema}."
            )
        if self.adapt not in ("median", "mean", None):
            raise AbreastError(f"adapt is median, mean or None, not {self.adapt!r}.")

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.window == 1 or (self.threshold == 0 and self.adapt is None) else MEASURED

    def run(self, problem: OptimizerPath, world: World) -> Tensor:
        def rule(lane: Any, team: Any) -> SplitRule:
            return SplitRule(problem, lane, team)

        return follow(problem, world, rule, Window(self.window), Threshold(self.threshold, self.ema, self.adapt))

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no change let pass is the loop", replace(self, threshold=0.0, adapt=None), Loop()
        yield "a window of one step is the loop", replace(self, window=1), Loop()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        for lr in (1.0, 2.0, 4.0):
            yield Descent(int(run.ledger.longest("f")), self.window, lr)
