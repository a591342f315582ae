"""OptEx: steps on predicted gradients, then all true ones at once (Shu et al., 2024).

Axes: n = parallel points of a round, h remembered ones, P parameter entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Kind, Lane, Method, Run
from abreast.solve.loop import Loop
from abreast.solve.path import OptimizerPath, follow
from abreast.solve.propeller import Descent
from abreast.solve.split import SplitRule
from abreast.solve.surrogate import Held, Matern, Oracle, Predictor
from abreast.solve.window import Guess, Sweeps, Threshold, Window
from abreast.workers import World


@dataclass(frozen=True)
class OptEx(Method):
    """A round: from the newest parameters walk ahead on gradients that a Gaussian process predicts from the last ones,
    evaluate the true gradients at all points walked, and take the step from the last point with its own.

    parallel: points of a round. history: remembered points. kernel: `Matern(nu)`, or another `Predictor`. noise: added
    to the kernel's diagonal. pick: the point from which the round's step is taken, the "last", that of the least
    "loss" (one more evaluation of each, forward only) or of the least gradient "norm". verify: instead of taking the
    last point's word, roll the optimiser with the true gradients and go on from the first state that this changed by
    more than `verify` (mean squared); 0 is the loop's own path.
    Source: Shu et al., "OptEx: Expediting First-Order Optimization with Approximately Parallelized Iterations", 2024;
    the length scale is ours. Raises AbreastError for settings without meaning.
    """

    parallel: int = 4
    history: int = 20
    kernel: Predictor = Matern(2.5)
    noise: float = 1e-3
    pick: Literal["last", "loss", "norm"] = "last"
    verify: float | None = None

    def __post_init__(self) -> None:
        if self.parallel < 1 or self.history < 1 or not self.noise > 0:
            raise AbreastError(
                f"OptEx needs parallel >= 1, history >= 1 and noise > 0, not {self.parallel}, {self.history} and "
                f"{self.noise}."
            )
        if self.pick not in ("last", "loss", "norm"):
            raise AbreastError(f"pick is last, loss or norm, not {self.pick!r}.")
        if self.verify is not None and not self.verify >= 0:
            raise AbreastError(f"verify is a mean squared change from 0 on, or None, not {self.verify}.")

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.parallel == 1 or self.verify == 0 else MEASURED

    def run(self, problem: OptimizerPath, world: World) -> Tensor:
        def rule(lane: Lane, team: Any) -> SplitRule:
            return Remembering(self, problem, lane, team)

        stop = Sweeps(1) if self.verify is None else Threshold(self.verify, adapt=None, scale=1.0)
        return follow(problem, world, rule, Window(self.parallel, Surrogate()), stop)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one point a round is the loop", replace(self, parallel=1), Loop()
        yield "exact predictions are the loop", replace(self, kernel=Oracle(), pick="last", verify=None), Loop()
        yield "verified to no change it is the loop", replace(self, verify=0.0), Loop()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        rounds = int(run.ledger.longest("f"))
        yield replace(self, kernel=Held())
        yield Descent(rounds, lr=float(self.parallel))
        yield Descent(rounds, batch=self.parallel)


class Remembering(SplitRule):
    """Evaluates a window and keeps the pairs; without `verify` the window's walked states are taken as they are, and
    only the step from the picked one is made anew."""

    def __init__(self, method: OptEx, problem: OptimizerPath, lane: Lane, team: Any = None):
        super().__init__(problem, lane, team)
        self.method, self.path = method, problem
        self.points = problem.x0.new_zeros(0, problem.x0.shape[1])
        self.gradients = torch.zeros_like(self.points)
        self.walked: list[Any] = []  # carries of the states that were guessed last

    def predictor(self) -> Any:
        """(step, x [P]) -> [P]; zero before anything is known."""
        if not len(self.points) and not isinstance(self.method.kernel, Oracle):
            return lambda step, x: torch.zeros_like(x)
        return self.method.kernel.on(self.path, self.points, self.gradients, self.method.noise)

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        if self.method.verify is not None:
            new = super().sweep(b, x, ages)
            self._keep()
            return new
        self.evaluated(b, x, ages)
        self._keep()
        assert self.g is not None
        n, carries = len(self.g), [self.carry, *self.walked]
        j = self._picked(b)
        end, carry = self.problem.advance(b + j, x[j], self.g[j], carries[j])
        self.carries = [*self.walked[: n - 1], carry]
        self.lane.ledger.note(self.lane.last, advances=n)
        return torch.cat((x[1:n], end[None]))

    def _keep(self) -> None:
        assert self.g is not None
        self.points = torch.cat((self.points, self.x[:, 0]))[-self.method.history :]
        self.gradients = torch.cat((self.gradients, self.g[:, 0]))[-self.method.history :]

    def _picked(self, b: int) -> int:
        assert self.g is not None
        if self.method.pick == "last":
            return len(self.g) - 1
        if self.method.pick == "norm":
            return int(self.g.flatten(1).norm(dim=1).argmin())
        self.lane.ledger.kinds.setdefault("loss", Kind(unit=1 / 3))
        with self.lane.measure("loss", len(self.g)):
            losses = self.path.losses([self.path.seed(k) for k in range(b, b + len(self.g))], self.x[:, 0])
        return int(losses.argmin())


@dataclass(frozen=True)
class Surrogate(Guess):
    """Walk ahead with predicted gradients, on a copy of the optimiser's state."""

    def fill(self, rule: Any, at: int, last: Tensor, n: int) -> Tensor:
        predict, carry, y = rule.predictor(), rule.newest_carry(), last
        states, rule.walked = [], []
        for k in range(n):
            y, carry = rule.problem.advance(at + k, y, predict(at + k, y[0])[None], carry)
            states.append(y)
            rule.walked.append(carry)
        return torch.stack(states)
