"""Score distillation: an optimiser's path whose gradients come from a denoiser (Poole et al., "DreamFusion", 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from abreast.core import AbreastError
from abreast.core.noise import uniform
from abreast.solve.optimizer import MakeOptimizer
from abreast.solve.path import OptimizerPath


class ScoreDistillation(OptimizerPath):
    """Parameters that a denoiser finds likely: the gradient at theta is w (e(x_t, t) - e), x_t being theta noised by e
    to a random level t; both are functions of the step's seed.

    denoiser: (sample [n, *shape], timestep [n]) -> object with `.sample`, the noise; it has `alphas_cumprod`, else
    give them. Where a row's rounding depends on the others', as in float32 networks, exact methods are so only up to
    rounding. start [*shape]. noises: range of levels t, as shares of the schedule. w = 1 - alphas_cumprod[t]. Raises
    AbreastError where there is no schedule.
    """

    def __init__(
        self, denoiser: Any, start: Tensor, make_optimizer: MakeOptimizer, steps: int, seeds: int | Sequence[int] = 0,
        noises: tuple[float, float] = (0.02, 0.98), alphas_cumprod: Tensor | None = None, objective: Any = None,
    ):  # fmt: skip
        alphas = getattr(denoiser, "alphas_cumprod", None) if alphas_cumprod is None else alphas_cumprod
        if alphas is None:
            raise AbreastError(f"{type(denoiser).__name__} has no alphas_cumprod: give them.")
        self._set("denoiser", denoiser)
        self._set("alphas", alphas)
        self._set("noises", noises)
        super().__init__(_no_loss, start, make_optimizer, steps, seeds, objective=objective)

    def gradients(self, seeds: Sequence[int], x: Tensor) -> Tensor:
        import numpy as np

        keys, shape = np.asarray(seeds), (len(seeds), *self.params.shape)
        lo, hi = self.noises  # type: ignore[attr-defined]
        alphas = self.alphas.to(x)  # type: ignore[attr-defined]
        share = torch.from_numpy(np.atleast_1d(uniform(0, "distillation level", keys)))
        t = ((lo + (hi - lo) * share) * len(alphas)).long()
        u = torch.from_numpy(uniform(0, "distillation noise", keys, n=x.shape[1]))
        noise = torch.special.ndtri(u).to(x).view(shape)
        a = alphas[t].view(-1, *[1] * (len(shape) - 1))
        noised = a.sqrt() * x.view(shape) + (1 - a).sqrt() * noise
        with torch.no_grad():
            found = self.denoiser(noised, t).sample  # type: ignore[attr-defined]
        return ((1 - a) * (found - noise)).view(x.shape)


def _no_loss(params: Any, seed: Any) -> Tensor:
    raise AbreastError("score distillation is given by its gradient: there is no loss to evaluate.")
