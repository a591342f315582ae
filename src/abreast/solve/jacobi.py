"""Jacobi's iteration and Picard's: sweeps without a Jacobian (Song et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from abreast.core import AbreastError, Method
from abreast.solve.linearize import Identity, Linearization, Zero
from abreast.solve.loop import Loop
from abreast.solve.newton import Solver
from abreast.solve.problem import Recurrence
from abreast.solve.rounds import solve_rounds
from abreast.solve.triangular import TriangularSystem
from abreast.solve.window import Change, Guess, Hold, Stop, Window
from abreast.workers import World


@dataclass(frozen=True)
class Jacobi(Solver):
    """Every state from the old value of the one before it, all at once, until nothing changes.

    tol: the change that is let pass; 0 is equality, and the answer then the loop's, after as many sweeps as steps at
    the latest. window: states at once. On a triangular system the states are its nodes, of all levels or a window of
    them, and the first guess is the system's own x0.
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

    def run(self, problem: Any, world: World) -> torch.Tensor:
        if isinstance(problem, TriangularSystem) and isinstance(self.line(), Zero):
            if self.guess != Hold():
                raise AbreastError("a triangular system starts from its own x0: Jacobi's guess is for recurrences.")
            return solve_rounds(problem, world, tol=self.tol, window=self.window, most=self.max_sweeps)
        return super().run(problem, world)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no change let pass is the loop", replace(self, tol=0.0, max_sweeps=None), Loop()
        yield "a window of one state is the loop", replace(self, window=1, max_sweeps=None), Loop()


@dataclass(frozen=True)
class Picard(Jacobi):
    """Every state as the window's first plus all that the steps between add, at the old states: A = I."""

    def line(self) -> Linearization:
        return Identity()
