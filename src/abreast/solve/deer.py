"""DEER and quasi-DEER (Lim et al., 2024; Gonzalez et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from abreast.core import Method
from abreast.solve.linearize import Dense, Diagonal, Linearization
from abreast.solve.loop import Loop
from abreast.solve.newton import Solver
from abreast.solve.problem import Recurrence
from abreast.solve.window import Change, Constant, Guess, Stop, Window


@dataclass(frozen=True)
class DEER(Solver):
    """A nonlinear recurrence as a sequence of linear ones: Newton's method, each step an associative scan.

    atol, rtol: the change that is let pass, entry by entry. guess: the first values, zeros. window: states solved for
    at once (T x d^2 numbers of Jacobians are held, so a window also bounds memory). max_sweeps: None for no limit.
    Source: Lim, Zhu, Selfridge, Kasim, "Parallelizing non-linear sequential models over the sequence length", 2024.
    """

    linearization: Linearization = Dense()
    atol: float = 1e-6
    rtol: float = 1e-4
    max_sweeps: int | None = None
    window: int | None = None
    guess: Guess = Constant(0.0)

    def line(self) -> Linearization:
        return self.linearization

    def settings_of(self, problem: Recurrence) -> tuple[Window, Stop, int | None]:
        return Window(self.window, self.guess), Change(self.atol, self.rtol), self.max_sweeps

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "no change let pass is the loop", replace(self, atol=0.0, rtol=0.0, max_sweeps=None), Loop()
        yield "a window of one state is the loop", replace(self, window=1, max_sweeps=None), Loop()


@dataclass(frozen=True)
class QuasiDEER(DEER):
    """DEER with the Jacobian's diagonal only: O(T d) where DEER is O(T d^3), for more sweeps.

    Source: Gonzalez, Warrington, Smith, Linderman, "Towards scalable and stable parallelization of nonlinear RNNs",
    NeurIPS 2024.
    """

    linearization: Linearization = Diagonal()
