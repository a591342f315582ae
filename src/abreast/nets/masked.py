"""Networks in which output j sees inputs before j only: sampled from one node at a time, or all at once.

With the random numbers drawn beforehand a sample is the solution of a triangular system: `net.system(uniforms)`.
Axes: B members, N nodes (pixels in raster order, layers), k of them, H hidden units, C channels, g growth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abreast.core import AbreastError

if TYPE_CHECKING:
    from abreast.solve import TriangularSystem


class MADE(nn.Module):
    """A masked autoencoder of N binary nodes: one hidden layer, whose units each see the nodes below their degree.

    Source: Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", 2015.
    Raises AbreastError for fewer than two nodes.
    """

    sees: Tensor
    heard: Tensor

    def __init__(self, nodes: int = 64, hidden: int = 500, seed: int = 0):
        super().__init__()
        if nodes < 2 or hidden < 1:
            raise AbreastError(f"MADE has two nodes and one hidden unit at least, not {nodes} and {hidden}.")
        self.nodes = nodes
        generator = torch.Generator().manual_seed(seed)
        degree, place = torch.arange(hidden) % (nodes - 1) + 1, torch.arange(nodes)
        self.weight_in = nn.Parameter(torch.randn(hidden, nodes, generator=generator) / nodes**0.5)
        self.bias_in = nn.Parameter(torch.zeros(hidden))
        self.weight_out = nn.Parameter(torch.randn(nodes, hidden, generator=generator) / hidden**0.5)
        self.bias_out = nn.Parameter(torch.zeros(nodes))
        self.register_buffer("sees", (place[None] < degree[:, None]).float())
        self.register_buffer("heard", (degree[None] <= place[:, None]).float())

    def logits(self, x: Tensor, nodes: Tensor | slice = slice(None)) -> Tensor:
        """Of node = 1 given the nodes before it, [B, k], from x [B, N]."""
        hidden = F.linear(x.to(self.bias_in.dtype), self.weight_in * self.sees, self.bias_in)
        return F.linear(torch.relu(hidden), (self.weight_out * self.heard)[nodes], self.bias_out[nodes])

    def loss(self, x: Tensor) -> Tensor:
        """Nats a picture, mean over x [B, N] of zeros and ones."""
        x = x.flatten(1).to(self.bias_in.dtype)
        return F.binary_cross_entropy_with_logits(self.logits(x), x, reduction="none").sum(1).mean()

    def system(self, uniforms: Tensor) -> TriangularSystem:
        """Samples [B, N] as a triangular system: node j is 1 where uniform j is below its probability."""
        from abreast.solve import TriangularSystem

        def part(x: Tensor, nodes: Tensor | slice, u: Tensor) -> Tensor:
            return (u[:, nodes] < torch.sigmoid(self.logits(x, nodes))).long()

        x0 = torch.zeros(_drawn(uniforms, self.nodes).shape, dtype=torch.long)
        return TriangularSystem(lambda x, u: part(x, slice(None), u), x0, given=(uniforms,), part=part)


class PixelCNN(nn.Module):
    """Masked convolutions over a picture of side x side pixels; each pixel's value, 0 .. values - 1, has a discretised
    logistic law whose mean and scale come from the pixels before it.

    Source: van den Oord et al., "Pixel recurrent neural networks", 2016; Salimans et al., "PixelCNN++", 2017.
    """

    before_5: Tensor
    before_3: Tensor

    def __init__(self, side: int = 8, values: int = 17, channels: int = 32, depth: int = 3):
        super().__init__()
        self.side, self.values = side, values
        self.first = nn.Conv2d(1, channels, 5, padding=2)
        self.rest = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth))
        self.last = nn.Conv2d(channels, 2, 1)
        self.register_buffer("before_5", _before(5, centre=False))
        self.register_buffer("before_3", _before(3, centre=True))

    def law(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, N] and scale [B, N] of each pixel's logistic, from pixels x [B, N]."""
        picture = (x.to(self.first.weight.dtype) / (self.values - 1) - 0.5).view(-1, 1, self.side, self.side)
        h = F.conv2d(picture, self.first.weight * self.before_5, self.first.bias, padding=2)
        for layer in self.rest:
            assert isinstance(layer, nn.Conv2d)
            h = h + F.conv2d(torch.relu(h), layer.weight * self.before_3, layer.bias, padding=1)
        mean, scale = self.last(torch.relu(h)).flatten(2).unbind(1)
        return (mean + 0.5) * (self.values - 1), (scale.clamp(-5, 3)).exp() + 1e-3

    def loss(self, x: Tensor) -> Tensor:
        """Nats a picture, mean over x [B, ...] of pixel values."""
        x = x.flatten(1)
        mean, scale = self.law(x)
        upper = torch.where(x == self.values - 1, torch.inf, (x + 0.5 - mean) / scale)
        lower = torch.where(x == 0, -torch.inf, (x - 0.5 - mean) / scale)
        return -(torch.sigmoid(upper) - torch.sigmoid(lower)).clamp(min=1e-9).log().sum(1).mean()

    def system(self, uniforms: Tensor) -> TriangularSystem:
        """Samples [B, N] as a triangular system: the logistic at each pixel's uniform, rounded."""
        from abreast.solve import TriangularSystem

        def f(x: Tensor, u: Tensor) -> Tensor:
            mean, scale = self.law(x)
            drawn = mean + scale * torch.logit(u.to(mean.dtype))
            return drawn.round().clamp(0, self.values - 1).long()

        return TriangularSystem(
            f, torch.zeros(_drawn(uniforms, self.side**2).shape, dtype=torch.long), given=(uniforms,)
        )


class DenseNetTower(nn.Module):
    """Layers that each see the inputs and the outputs of all before: g new features, a rectified sum.

    Source: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", 2017.
    """

    sees: Tensor

    def __init__(self, inputs: int = 64, layers: int = 24, growth: int = 12, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers, self.growth = layers, growth
        seen = inputs + growth * torch.arange(layers)
        scale = (2 / seen)[:, None].sqrt()
        self.weight_in = nn.Parameter(torch.randn(layers, growth, inputs, generator=generator) * scale[..., None])
        self.weight = nn.Parameter(
            torch.randn(layers, growth, layers, growth, generator=generator) * scale[..., None, None]
        )
        self.bias = nn.Parameter(torch.zeros(layers, growth))
        place = torch.arange(layers)
        self.register_buffer("sees", (place[None] < place[:, None]).float()[:, None, :, None])

    def some(self, x: Tensor, layers: Tensor | slice, inputs: Tensor) -> Tensor:
        """Outputs [B, k, g] of some layers, from the outputs x [B, N, g] of all and inputs [B, I]."""
        own = torch.einsum("kgi,bi->bkg", self.weight_in[layers], inputs)
        return torch.relu(own + torch.einsum("kgnh,bnh->bkg", (self.weight * self.sees)[layers], x) + self.bias[layers])

    def system(self, inputs: Tensor) -> TriangularSystem:
        """The outputs [B, N, g] of all layers on inputs [B, I] as a triangular system."""
        from abreast.solve import TriangularSystem

        x0 = inputs.new_zeros(len(inputs), self.layers, self.growth)
        return TriangularSystem(lambda x, u: self.some(x, slice(None), u), x0, given=(inputs,), part=self.some)


def _before(size: int, centre: bool) -> Tensor:
    """[size, size]: 1 where a tap is before the centre in raster order, or the centre."""
    mask = torch.zeros(size * size)
    mask[: size * size // 2 + centre] = 1
    return mask.view(size, size)


def _drawn(uniforms: Tensor, nodes: int) -> Tensor:
    if uniforms.dim() != 2 or uniforms.shape[1] != nodes:
        raise AbreastError(f"uniforms are [members, {nodes}], one for each node, not {list(uniforms.shape)}.")
    return uniforms
