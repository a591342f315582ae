"""Normalizing flows whose channel and pixel mixing is the inverse of a convolution.

The inverse is what training runs (data to latent), so that sampling is an ordinary convolution: one round where the
layers turned round need an anti-diagonal sweep. Axes: B pictures, C channels, H x W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abreast.core import AbreastError, Lane
from abreast.solve.inverse_conv import Corner, corner_conv2d, inverse_conv2d


class InverseConv2d(nn.Module):
    """z = W^-1 x for a convolution W padded at one corner, unit triangular there: log |det| = 0.

    kernel: taps each way. turned: z = W x instead, and the inverse is what costs. Weights start at 0.01 x normal, since
    large ones make the inverse grow without bound.
    """

    def __init__(self, channels: int, kernel: int = 3, corner: Corner = "TL", turned: bool = False):
        super().__init__()
        self.corner, self.turned = corner, turned
        self.weight = nn.Parameter(0.01 * torch.randn(channels, channels, kernel, kernel))

    def forward(self, x: Tensor, lane: Lane | None = None) -> Tensor:
        """Data to latent, [B, C, H, W]."""
        return self._convolved(x, lane) if self.turned else inverse_conv2d(x, self.weight, self.corner, lane)

    def inverse(self, z: Tensor, lane: Lane | None = None) -> Tensor:
        """Latent to data."""
        return inverse_conv2d(z, self.weight, self.corner, lane) if self.turned else self._convolved(z, lane)

    def _convolved(self, x: Tensor, lane: Lane | None) -> Tensor:
        if lane is not None:
            lane.add("diagonal", float(x[:, 0].numel()))
        return corner_conv2d(x, self.weight, self.corner)


class Step(nn.Module):
    """Actnorm, inverse convolutions from all four corners, an affine coupling."""

    def __init__(self, channels: int, hidden: int, kernel: int, turned: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.mixing = nn.ModuleList(InverseConv2d(channels, kernel, c, turned) for c in ("TL", "BR", "TR", "BL"))
        self.kept = channels // 2
        last = nn.Conv2d(hidden, 2 * (channels - self.kept), 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.net = nn.Sequential(
            nn.Conv2d(self.kept, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1), nn.ReLU(), last
        )

    def coupling(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.net(kept).chunk(2, 1)
        return torch.tanh(log_scale), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z [B, C, H, W] and log |det| [B]."""
        x = (x + self.shift) * self.scale.exp()
        det = self.scale.sum() * x[0, 0].numel()
        for layer in self.mixing:
            x = layer(x)
        kept, moved = x.split([self.kept, x.shape[1] - self.kept], 1)
        log_scale, shift = self.coupling(kept)
        return torch.cat((kept, moved * log_scale.exp() + shift), 1), det + log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, lane: Lane | None = None) -> Tensor:
        kept, moved = z.split([self.kept, z.shape[1] - self.kept], 1)
        log_scale, shift = self.coupling(kept)
        x = torch.cat((kept, (moved - shift) * (-log_scale).exp()), 1)
        for layer in reversed(self.mixing):
            x = layer.inverse(x, lane)  # type: ignore[operator]
        return x * (-self.scale).exp() - self.shift

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Actnorm from data: zero mean and unit variance in each channel."""
        self.shift.copy_(-x.mean((0, 2, 3))[:, None, None])
        self.scale.copy_(-(x.std((0, 2, 3)) + 1e-2).log()[:, None, None])


class InverseFlow(nn.Module):
    """A multi-scale flow of pictures of `values` grey levels: squeeze, `depth` steps, half of the channels out; again.

    levels: how often the picture is halved. turned: the same layers the other way round, whose training is ordinary
    convolutions and whose sampling needs the sweeps. Source: Nagar and Varma, "Parallel Backpropagation for Inverse of
    a Convolution with Application to Normalizing Flows", 2024. Raises AbreastError where a side cannot be halved so
    often.
    """

    def __init__(
        self, levels: int = 2, depth: int = 2, side: int = 8, channels: int = 1, values: int = 17, hidden: int = 48,
        kernel: int = 3, turned: bool = False, seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        if levels < 1 or depth < 1 or side % 2**levels:
            raise AbreastError(f"a side of {side} pixels is not halved {levels} times, with at least one step each.")
        self.values, self.shape, self.blocks = values, (channels, side, side), nn.ModuleList()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for level in range(levels):
                channels *= 4
                self.blocks.append(nn.ModuleList(Step(channels, hidden, kernel, turned) for _ in range(depth)))
                channels //= 2 if level < levels - 1 else 1

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents, those of the first level first, and log |det| [B], of x [B, C, H, W] in [-0.5, 0.5]."""
        out, det = [], x.new_zeros(len(x))
        for level, block in enumerate(self.blocks):
            x = F.pixel_unshuffle(x, 2)
            for step in block:  # type: ignore[attr-defined]
                x, change = step(x)
                det = det + change
            if level < len(self.blocks) - 1:
                x, left = x.chunk(2, 1)
                out.append(left)
        return [*out, x], det

    def inverse(self, latents: list[Tensor], lane: Lane | None = None) -> Tensor:
        """Pictures [B, C, H, W] of latents; lane: records the rounds of the convolutions and their inverses."""
        x = latents[-1]
        for level in reversed(range(len(self.blocks))):
            if level < len(self.blocks) - 1:
                x = torch.cat((x, latents[level]), 1)
            for step in reversed(self.blocks[level]):  # type: ignore[call-overload]
                x = step.inverse(x, lane)
            x = F.pixel_shuffle(x, 2)
        return x

    def bits(self, x: Tensor, noise: Tensor) -> Tensor:
        """Bits per pixel [B] of grey levels x [B, C, H, W], dequantised by noise in [0, 1) of the same shape."""
        latents, det = self((x + noise) / self.values - 0.5)
        normal = sum(-0.5 * (z * z + math.log(2 * math.pi)).flatten(1).sum(1) for z in latents)
        return -(normal + det) / (math.log(2) * x[0].numel()) + math.log2(self.values)

    def loss(self, x: Tensor) -> Tensor:
        """Mean bits per pixel, under fresh noise."""
        x = x.view(-1, *self.shape).to(next(self.parameters()).dtype)
        return self.bits(x, torch.rand_like(x)).mean()

    @torch.no_grad()
    def standardise(self, x: Tensor) -> InverseFlow:
        """Actnorm of every step from pictures x, before training."""
        x = (x.view(-1, *self.shape).to(next(self.parameters()).dtype) + 0.5) / self.values - 0.5
        for level, block in enumerate(self.blocks):
            x = F.pixel_unshuffle(x, 2)
            for step in block:  # type: ignore[attr-defined]
                step.standardise(x)
                x = step(x)[0]
            if level < len(self.blocks) - 1:
                x = x.chunk(2, 1)[0]
        return self
