"""What a gradient is taken for before it is evaluated: a regression of those that were.

Axes: h remembered points, P parameter entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abreast.core import AbreastError

Predict = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Predictor:
    """Makes of remembered points and gradients, [h, P] each and the newest last, a function (step, x [P]) -> [P]."""

    def on(self, problem: Any, points: Tensor, gradients: Tensor, noise: float) -> Predict:
        raise NotImplementedError


@dataclass(frozen=True)
class Matern(Predictor):
    """Gaussian-process regression, one kernel for all entries: mu(x) = k(x)^T (K + noise I)^-1 G.

    nu: 0.5, 1.5 or 2.5. The length scale is `scale` x the median distance of the remembered points from the newest.
    Raises AbreastError for another nu.
    """

    nu: float = 2.5
    scale: float = 2.0

    def __post_init__(self) -> None:
        if self.nu not in (0.5, 1.5, 2.5) or not self.scale > 0:
            raise AbreastError(f"a Matern kernel has nu 0.5, 1.5 or 2.5 and a scale above 0, not {self}.")

    def on(self, problem: Any, points: Tensor, gradients: Tensor, noise: float) -> Predict:
        points, gradients = points.double(), gradients.double()
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        others = distance[-1, :-1]
        length = float(others.median()) * self.scale if len(others) else 1.0
        length = length if length > 0 else 1.0
        K = self(distance / length)
        K.diagonal().add_(noise)
        weights = torch.cholesky_solve(gradients, _cholesky(K))

        def predict(step: int, x: Tensor) -> Tensor:
            k = self((points - x.double()).norm(dim=1) / length)
            return (k @ weights).to(x.dtype)

        return predict

    def __call__(self, r: Tensor) -> Tensor:
        """k at distance r, in length scales."""
        s = (2 * self.nu) ** 0.5 * r
        polynomial = {0.5: 1 + 0 * s, 1.5: 1 + s, 2.5: 1 + s + s * s / 3}[self.nu]
        return polynomial * torch.exp(-s)


@dataclass(frozen=True)
class Held(Predictor):
    """The newest gradient, wherever it is asked for."""

    def on(self, problem: Any, points: Tensor, gradients: Tensor, noise: float) -> Predict:
        return lambda step, x: gradients[-1]


@dataclass(frozen=True)
class Oracle(Predictor):
    """The gradient itself, evaluated and not counted: what the best of predictors would give."""

    def on(self, problem: Any, points: Tensor, gradients: Tensor, noise: float) -> Predict:
        none = torch.zeros(1, dtype=torch.long)
        return lambda step, x: problem.evaluate(torch.tensor([step]), x[None, None], none)[0, 0]


def _cholesky(K: Tensor) -> Tensor:
    """Of K, with as much added to its diagonal as it takes."""
    jitter = 0.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(K + jitter * torch.eye(len(K), dtype=K.dtype, device=K.device))
        if not int(failed):
            return factor
        jitter = max(10 * jitter, 1e-10)
