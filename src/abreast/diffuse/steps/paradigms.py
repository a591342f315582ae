"""ParaDiGMS: Picard iteration over a sliding window of steps (Shih et al., 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Lane, Method
from abreast.diffuse.levels import tolerance_scale
from abreast.diffuse.problem import Sampling
from abreast.diffuse.recurrence import StepChain, Sums
from abreast.diffuse.sequential import Sequential
from abreast.diffuse.steps.swept import Solving, Swept
from abreast.solve.engine import iterate
from abreast.solve.split import SplitRule
from abreast.solve.window import Change, Hold, NoiseScaled, Stop, Window
from abreast.workers import Team

Form = Literal["sums", "v", "x0", "epsilon"]


@dataclass(frozen=True)
class ParaDiGMS(Swept):
    """Denoise `window` consecutive states in one batched call, step on from the first with what came out, move the
    window past what no longer changes.

    tolerance: mean squared change of a state by the noise that its step leaves (`levels.tolerance_scale`), squared; 0
    lets only an unchanged state pass, and the sample is then the sequential one; else the tolerance bounds what a step
    lets pass, and the sample's distance is measured. hold: "sums" adds up what each step
    does at its old state (Picard's iteration); "v", "x0", "epsilon" step on with that held. Over several ranks each
    denoises its part of the window.
    Source: Shih, Belkhale, Ermon, Sadigh, Anari, "Parallel Sampling of Diffusion Models", NeurIPS 2023. Raises
    AbreastError for a window below 1 and a tolerance below 0.
    """

    window: int = 16
    tolerance: float = 0.1
    hold: Form = "sums"

    def __post_init__(self) -> None:
        if self.window < 1 or not self.tolerance >= 0:
            raise AbreastError(
                f"ParaDiGMS needs window >= 1 and tolerance >= 0, not {self.window} and {self.tolerance}."
            )

    def promise(self, problem: Any) -> Guarantee:
        return MEASURED if self.tolerance else IDENTICAL

    def chain(self, problem: Sampling) -> StepChain:
        return Sums(problem) if self.hold == "sums" else StepChain(problem, self.hold)

    def stop(self, problem: Sampling) -> Stop:
        if self.tolerance == 0:
            return Change()
        return NoiseScaled(self.tolerance, tuple(tolerance_scale(problem.scheduler).tolist()))

    def sweeps(self, problem: Sampling, lane: Lane, team: Team | None) -> Solving:
        rule = SplitRule(self.chain(problem), lane, team)
        return iterate(rule, Window(self.window, Hold()), self.stop(problem), lane, keep=False)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "tolerance 0 is one step at a time", replace(self, tolerance=0.0), Sequential()
        yield "a window of one step is one step at a time", replace(self, window=1), Sequential()
