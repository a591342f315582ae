"""What the solvers of recurrences share, and the plain one: Newton's method on the whole trajectory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch

from abreast.core import BOUNDED, IDENTICAL, MEASURED, AbreastError, Guarantee, Method
from abreast.core.problem import exhaust
from abreast.solve.engine import LinearRule, Solved, iterate
from abreast.solve.gradient import attach
from abreast.solve.linearize import Auto, Linearization, resolve
from abreast.solve.loop import Loop
from abreast.solve.problem import Recurrence
from abreast.solve.window import Change, Given, OneStep, Stop, Sweeps, Window
from abreast.workers import World


@dataclass(frozen=True)
class Solver(Method):
    """One sweep after the other over a window of unknown states, until none moves.

    A subclass gives three things: `line` (what stands for the Jacobian), `window` and `stop`. max_sweeps: None lets it
    go on until the end is reached, which is the loop's own answer at the latest after as many sweeps as steps.
    """

    def line(self) -> Linearization:
        raise NotImplementedError

    def rule(self, problem: Recurrence, lane: Any, team: Any) -> LinearRule:
        """How a sweep is made."""
        return LinearRule(problem, self.line(), lane, team)

    def settings_of(self, problem: Recurrence) -> tuple[Window, Stop, int | None]:
        """window, stop, max_sweeps."""
        raise NotImplementedError

    def promise(self, problem: Any) -> Guarantee:
        tolerance = self.settings_of(problem)[1].tolerance
        if tolerance == inf:
            return MEASURED
        return IDENTICAL if tolerance <= problem.rounding else BOUNDED(tolerance)

    def run(self, problem: Recurrence, world: World) -> torch.Tensor:
        check(problem, self.settings_of(problem)[1])
        with torch.no_grad():
            if world.size > 1:
                solved = world.map(lambda team: self._solve(problem, team.lane, team))[0]
                lane = world.lane()
            else:
                lane = world.lane()
                solved = self._solve(problem, lane, None)
        return attach(problem, solved.states, resolve(self.line(), problem), lane)

    def _solve(self, problem: Recurrence, lane: Any, team: Any) -> Solved:
        """Sweeps; again from what they found, with a tenth of the tolerance and at last with none, where the residual
        is above what `Change` lets pass, as it can be where the linearization is not the Jacobian."""
        window, stop, most = self.settings_of(problem)
        near = max(stop.tolerance, problem.rounding) if isinstance(stop, Change) else inf
        solved, sweeps = Solved(problem.x0[:0], 0, ""), 0
        for factor in (0.1, 0.1, 0.0, 0.0):
            solved = exhaust(iterate(self.rule(problem, lane, team), window, stop, lane, most and most - sweeps))
            sweeps += solved.sweeps
            residual = problem.residual(solved.states)
            lane.add("check", problem.steps, span=0.0)
            lane.ledger.note(lane.last, residual=residual, status=solved.status)
            if not residual > near or solved.status != "converged" or sweeps == most:
                break
            assert isinstance(stop, Change)
            window = replace(window, guess=Given(solved.states))
            stop = Change(stop.atol * factor, stop.rtol * factor)
        return solved


def check(problem: Recurrence, stop: Stop) -> None:
    """Raise AbreastError where no state could ever settle."""
    if not isinstance(problem, Recurrence):
        raise AbreastError(f"a Recurrence is wanted, not a {type(problem).__name__}.")
    eps = torch.finfo(problem.x0.dtype).eps
    if 0 < stop.tolerance < eps:
        raise AbreastError(
            f"a tolerance of {stop.tolerance:g} is below what {problem.x0.dtype} can tell apart ({eps:.1g}): "
            "give a larger one, or 0 for equality."
        )


@dataclass(frozen=True)
class Newton(Solver):
    """Newton's method on all states at once, each sweep one affine scan.

    linearization: Auto takes the recurrence's own structure. sweeps: a fixed number (three is what ParaRNN's cells
    need), tol None; or tol: the change below which a state has settled, sweeps then being no limit. omega damps. The
    guess is what a step makes of the zero state.
    Source: Danieli et al., "ParaRNN", 2025. Raises AbreastError for fewer than one sweep.
    """

    linearization: Linearization = Auto()
    sweeps: int = 3
    tol: float | None = None
    omega: float = 1.0
    window: Window = Window(guess=OneStep())

    def __post_init__(self) -> None:
        if self.sweeps < 1 or not 0 < self.omega <= 1:
            raise AbreastError(f"Newton needs sweeps >= 1 and 0 < omega <= 1, not {self.sweeps} and {self.omega}.")

    def line(self) -> Linearization:
        return self.linearization

    def rule(self, problem: Recurrence, lane: Any, team: Any) -> LinearRule:
        return LinearRule(problem, self.linearization, lane, team, self.omega)

    def settings_of(self, problem: Recurrence) -> tuple[Window, Stop, int | None]:
        stop: Stop = Sweeps(self.sweeps) if self.tol is None else Change(self.tol)
        return self.window, stop, None

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no change let pass is the loop", replace(self, tol=0.0), Loop()
        yield "a window of one state is the loop", replace(self, window=Window(1)), Loop()
