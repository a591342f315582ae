"""Low-rank adapters whose strength is set for each row of a call (Hu et al., 2022).

Axes: N rows of a call, R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from abreast.core import AbreastError


class LoRA(nn.Module):
    """A module with W x + strength B A x in place of each of its linear maps; the weights of the module are shared, not
    copied, and stay as they are.

    strength: a number, or one for each row [N]; a call of more rows repeats them. Raises AbreastError where the module
    has no linear map.
    """

    def __init__(self, module: nn.Module, rank: int = 8, seed: int = 0):
        super().__init__()
        if rank < 1:
            raise AbreastError(f"an adapter has a rank from 1 on, not {rank}.")
        shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
        self.module = copy.deepcopy(module, shared)
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        self.strength: Tensor | float = 1.0
        generator = torch.Generator().manual_seed(seed)
        places = [
            (parent, name, child)
            for parent in self.module.modules()
            for name, child in parent.named_children()
            if type(child) is nn.Linear
        ]
        if not places:
            raise AbreastError(f"{type(module).__name__} has no linear map that could be adapted.")
        for parent, name, child in places:
            setattr(parent, name, _Adapted(child, rank, generator, self))

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.module(*args, **kwargs)

    def adapters(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        return (p for m in self.modules() if isinstance(m, _Adapted) for p in (m.down, m.up))

    def rows(self, x: Tensor) -> Tensor | float:
        """The strength, shaped to be multiplied with x [N, ...]."""
        if not isinstance(self.strength, Tensor):
            return self.strength
        times, left = divmod(len(x), len(self.strength))
        if left:
            raise AbreastError(f"{len(self.strength)} strengths do not fit {len(x)} rows.")
        return self.strength.to(x).repeat(times).view(-1, *[1] * (x.dim() - 1))


class _Adapted(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, generator: torch.Generator, owner: LoRA):
        super().__init__()
        self.base = base
        down = torch.randn(rank, base.in_features, generator=generator) / base.in_features**0.5
        self.down = nn.Parameter(down.to(base.weight))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank).to(base.weight))
        self.owner = (owner,)  # in a tuple, so that it is no child of this module

    def forward(self, x: Tensor) -> Tensor:
        change = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        return self.base(x) + self.owner[0].rows(x) * change
