"""A denoiser with a known answer: the exact one for data drawn from a mixture of Gaussians.

Axes: B rows, K components, D coordinates of one flattened sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import nn

from abreast.core.errors import AbreastError

_PREDICTIONS = ("epsilon", "sample", "v_prediction")


class Prediction(NamedTuple):
    """What diffusers' models return: `.sample`, and `[0]` as well."""

    sample: torch.Tensor


class Mixture(nn.Module):
    """The best possible denoiser of x0 ~ sum_k w_k N(m_k, v_k I), in the call convention of diffusers' models.

    Noised data are x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e, with `a = alphas_cumprod` (default: 1000 linear betas from
    1e-4 to 0.02). Means are uniform on the sphere of `radius` unless `means`, `[K, *shape]`, are given; then
    `components`, `shape`, `radius` and `seed` are not used. Timesteps between two integers, as some schedulers ask
    for, interpolate sigma = sqrt(1 / a - 1) linearly, as those schedulers do. `class_labels` of 0 to K - 1 ask for
    that component alone, K for the whole mixture.

    Computes in the sample's own type. A row's result does not depend on the other rows; in float64 not even in its
    last bit. Raises AbreastError for shapes, weights or timesteps that make no sense.
    """

    means: torch.Tensor
    variances: torch.Tensor
    weights: torch.Tensor
    alphas_cumprod: torch.Tensor

    def __init__(
        self,
        components: int = 8,
        shape: Sequence[int] = (16,),
        radius: float = 4.0,
        variance: float | Sequence[float] = 0.05,
        seed: int = 0,
        *,
        prediction: str = "epsilon",
        means: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        alphas_cumprod: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        if prediction not in _PREDICTIONS:
            raise AbreastError(f"A mixture predicts {', '.join(_PREDICTIONS)}, not {prediction!r}.")
        if means is None:
            if components < 1 or not shape or min(shape) < 1:
                raise AbreastError(f"A mixture has components and a shape, not {components} of {tuple(shape)}.")
            generator = torch.Generator().manual_seed(seed)
            means = torch.randn(components, *shape, generator=generator, dtype=torch.float64)
            means *= radius / means.flatten(1).norm(dim=1).view(-1, *[1] * len(shape))
        if means.ndim < 2:
            raise AbreastError(f"Means have shape [components, ...], not {list(means.shape)}.")
        K = len(means)
        variances = torch.as_tensor(variance, dtype=torch.float64).expand(K).clone()
        weights = torch.full((K,), 1 / K) if weights is None else weights
        if weights.shape != (K,) or (weights < 0).any() or weights.sum() <= 0 or (variances <= 0).any():
            raise AbreastError(f"{K} components have {K} weights, none negative, and positive variances.")
        if alphas_cumprod is None:
            # In float32, as diffusers' schedulers compute it: then the two agree to the bit.
            alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float32), 0)
        if alphas_cumprod.ndim != 1 or not ((alphas_cumprod > 0) & (alphas_cumprod <= 1)).all():
            raise AbreastError("alphas_cumprod is one row of numbers above 0 and up to 1.")
        self.prediction = prediction
        self.shape = tuple(means.shape[1:])
        tables = {"means": means, "variances": variances, "weights": weights / weights.sum()}
        for name, table in (tables | {"alphas_cumprod": alphas_cumprod}).items():
            self.register_buffer(name, table.detach().to(torch.float64), persistent=False)
        self.config = SimpleNamespace(
            in_channels=self.shape[0],
            out_channels=self.shape[0],
            sample_size=self.shape[-1],
            num_class_embeds=K + 1,
            prediction_type=prediction,
        )

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.means.dtype == torch.float64 else self.means.dtype

    @property
    def device(self) -> torch.device:
        return self.means.device

    def levels(self, timestep: Any, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(a) and sqrt(1 - a) of each row's timestep, `[B]` in float64; `timestep` is a number or `[B]`."""
        t = torch.as_tensor(timestep, device=self.device, dtype=torch.float64)
        if t.numel() not in (1, rows) or t.ndim > 1:
            raise AbreastError(f"{rows} rows have one timestep or {rows}, not {list(t.shape)}.")
        last = len(self.alphas_cumprod) - 1
        if not ((t >= 0) & (t <= last)).all():
            raise AbreastError(f"Timesteps of this mixture go from 0 to {last}, not to {t.flatten().tolist()}.")
        t = t.expand(rows)
        below = t.floor().long()
        a, b = self.alphas_cumprod[below], self.alphas_cumprod[(below + 1).clamp(max=last)]
        sigma_a, sigma_b = ((1 - a) / a).sqrt(), ((1 - b) / b).sqrt()
        sigma = sigma_a + (t - below) * (sigma_b - sigma_a)
        a = torch.where(t == below, a, 1 / (1 + sigma * sigma))
        return a.sqrt(), (1 - a).sqrt()

    def forward(
        self,
        sample: torch.Tensor,
        timestep: Any,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> Prediction:
        """The exact prediction for `sample` `[B, *shape]`; other arguments of diffusers' models are ignored."""
        x, signal, noise = self._flat(sample, timestep)
        clean = self._clean(x, signal, noise, class_labels)
        if self.prediction == "sample":
            guess = clean
        else:
            guess = (x - signal * clean) / noise
            if self.prediction == "v_prediction":
                guess = signal * guess - noise * clean
        return Prediction(guess.view_as(sample))

    def log_density(
        self, sample: torch.Tensor, timestep: Any, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """log p_t(x) of each row, `[B]`."""
        x, signal, noise = self._flat(sample, timestep)
        return self._joint(x, signal, noise, class_labels)[0].logsumexp(1)

    def data(self, n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """`n` samples `[n, *shape]` of the mixture itself, and the component `[n]` that each came from."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights.cpu(), n, replacement=True, generator=generator).to(self.device)
        noise = torch.randn(n, *self.shape, generator=generator, dtype=torch.float64).to(self.means)
        spread = self.variances[which].sqrt().view(-1, *[1] * len(self.shape))
        return (self.means[which] + spread * noise).to(dtype), which

    def _flat(self, sample: torch.Tensor, timestep: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if tuple(sample.shape[1:]) != self.shape:
            raise AbreastError(
                f"This mixture denoises [B, {', '.join(map(str, self.shape))}], not {list(sample.shape)}."
            )
        signal, noise = self.levels(timestep, len(sample))
        return sample.flatten(1), signal.to(sample.dtype)[:, None], noise.to(sample.dtype)[:, None]

    def _joint(
        self, x: torch.Tensor, signal: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log w_k N(x; sqrt(a) m_k, s_k) and s_k, both `[B, K]`, and x - sqrt(a) m_k `[B, K, D]`."""
        means = self.means.to(x.dtype).flatten(1)
        spread = signal * signal * self.variances.to(x.dtype) + noise * noise
        off = x[:, None] - signal[:, :, None] * means
        D = x.shape[1]
        constant = self.weights.log().to(x.dtype) - 0.5 * D * (2 * torch.pi * spread).log()
        joint = constant - 0.5 * (off * off).sum(2) / spread
        if labels is not None:
            K = len(means)
            if labels.shape != (len(x),) or (labels < 0).any() or (labels > K).any():
                raise AbreastError(f"Class labels are one number from 0 to {K} a row, {K} for all components.")
            own = (labels[:, None] == K) | (labels[:, None] == torch.arange(K, device=x.device))
            joint = joint.masked_fill(~own, -torch.inf)
        return joint, spread, off

    def _clean(
        self, x: torch.Tensor, signal: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """E[x0 | x_t], `[B, D]`: each component's posterior mean, weighted by its posterior probability."""
        joint, spread, off = self._joint(x, signal, noise, labels)
        shrink = self.variances.to(x.dtype) * signal / spread
        posterior = joint.softmax(1)
        return (posterior[:, :, None] * (self.means.to(x.dtype).flatten(1) + shrink[:, :, None] * off)).sum(1)
