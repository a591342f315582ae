"""Jacobi's iteration and Picard's: sweeps without a Jacobian (Song et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from abreast.core import Method
from abreast.solve.linearize import Identity, Linearization, Zero
from abreast.solve.loop import Loop
from abreast.solve.newton import Solver
from abreast.solve.problem import Recurrence
from abreast.solve.window import Change, Guess, Hold, Stop, Window


@dataclass(frozen=True)
class Jacobi(Solver):
    """Every state from the old value of the one before it, all at once, until nothing changes.

    tol: the change that is let pass; 0 is equality, and the answer then the loop's, after as many sweeps as steps at
    the latest. window: states at once.
    Source: Song, Meng, Liao, Ermon, "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving",
    ICML 2021.
    """

    tol: float = 0.0
    window: int | None = None
    guess: Guess = Hold()
    max_sweeps: int | None = None

    def line(self) -> Linearization:
        return Zero()

    def settings_of(self, problem: Recurrence) -> tuple[Window, Stop, int | None]:
        return Window(self.window, self.guess), Change(self.tol), self.max_sweeps

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no change let pass is the loop", replace(self, tol=0.0, max_sweeps=None), Loop()
        yield "a window of one state is the loop", replace(self, window=1, max_sweeps=None), Loop()


@dataclass(frozen=True)
class Picard(Jacobi):
    """Every state as the window's first plus all that the steps between add, at the old states: A = I."""

    def line(self) -> Linearization:
        return Identity()
