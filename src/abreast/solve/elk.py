"""ELK: DEER that trusts its last iterate (Gonzalez et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from abreast.core import AbreastError, Method
from abreast.solve.deer import DEER
from abreast.solve.engine import LinearRule, moved
from abreast.solve.kalman import kalman_scan
from abreast.solve.linearize import Local
from abreast.solve.problem import Recurrence
from abreast.solve.scan import rounds


@dataclass(frozen=True)
class ELK(DEER):
    """DEER whose sweep is a Kalman filter that takes the last iterate for an observation of variance `sigma2`.

    Where the recurrence grows, so does the filter's uncertainty, and the old states hold the new ones back: nothing
    runs away, for more sweeps. sigma2: large is DEER. linearization: Dense, Diagonal (quasi-ELK) or BlockDiagonal. A
    state has settled when neither it nor its residual moves more than atol + rtol |x|: under damping a small change
    alone says little. It runs on one worker.
    Source: Gonzalez, Warrington, Smith, Linderman, "Towards scalable and stable parallelization of nonlinear RNNs",
    NeurIPS 2024. Raises AbreastError for sigma2 <= 0 and where the linearization has no matrix.
    """

    sigma2: float = 1e8

    def __post_init__(self) -> None:
        if not 0 < self.sigma2 < float("inf"):
            raise AbreastError(f"sigma2 is a variance above 0, not {self.sigma2}.")

    def rule(self, problem: Recurrence, lane: Any, team: Any) -> LinearRule:
        return FilterRule(problem, self, lane, team)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield from super().laws()
        free = replace(self, sigma2=1e30, atol=0.0, rtol=0.0, max_sweeps=2)
        deer = DEER(self.linearization, 0.0, 0.0, 2, self.window, self.guess)
        yield "with no trust in the last iterate it is DEER, after two sweeps too", free, deer


class FilterRule(LinearRule):
    """d_{i+1} = (I - K_i) (A_i d_i + r_i): the correction, damped by the filter's gain."""

    def __init__(self, problem: Recurrence, elk: ELK, lane: Any, team: Any = None):
        super().__init__(problem, elk.linearization, lane, team)
        if self.linearization.family.name not in ("dense", "diagonal"):
            raise AbreastError(f"ELK filters along a Jacobian, which {type(self.linearization).__name__} is not.")
        if team is not None and team.size > 1:
            raise AbreastError(f"ELK runs on one worker, not {team.size}.")
        self.elk = elk

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        new = super().sweep(b, x, ages)
        assert self.unsure is not None
        self.unsure |= self.far
        return new

    def solve(self, local: Local, old: Tensor, team: Any) -> Tensor:
        n, elk = len(old), self.elk
        r = local.f - old
        self.far = ~(r.abs() <= elk.atol + elk.rtol * local.f.abs()).flatten(1).all(1)
        assert local.A is not None
        shaped = r.view(n, old.shape[1], *self.linearization.shape(self.problem))
        with self.lane.measure("scan", n, span=float(rounds(n)), memory=-self._held(old)):
            d = kalman_scan(self.linearization.family, local.A, shaped, elk.sigma2)
        return moved(old, d.view(old.shape), local.f)
