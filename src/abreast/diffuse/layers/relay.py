"""What stages on different ranks send to each other: the outputs that a later stage reads, in one message for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from abreast.diffuse.stages import Stages
from abreast.workers import Handle, Team


def needs(stages: Stages, inputs: Mapping[str, Any]) -> list[list[str]]:
    """For each stage the modules of earlier stages whose outputs it reads itself. inputs: of one call.

    Found by a backward pass through each stage: what has no slope is not read.
    """
    with torch.no_grad():
        made, _ = stages.replay(inputs, {})
    return [_read_by(stages, k, inputs, made) for k in range(len(stages))]


def _read_by(stages: Stages, k: int, inputs: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    leaves: list[tuple[str, Tensor]] = []

    def leaf(name: str, t: Any) -> Any:
        if not isinstance(t, Tensor) or not t.is_floating_point():
            return t
        leaves.append((name, t.detach().clone().requires_grad_()))
        return leaves[-1][1]

    before = [name for part in stages.parts[:k] for name in part.units]
    if not before:
        return []
    with torch.enable_grad():
        given = {name: tree_map(partial(leaf, name), made[name]) for name in before}
        ends = tree_flatten(stages.replay(inputs, given, stages.parts[k].units[-1] if k < len(stages) - 1 else None))[0]
        total = torch.stack([t.sum() for t in ends if isinstance(t, Tensor) and t.requires_grad]).sum()
        slopes = torch.autograd.grad(total, [t for _, t in leaves], allow_unused=True)
    read = {name for (name, _), slope in zip(leaves, slopes) if slope is not None}
    return [name for name in before if name in read]


class Relay:
    """A rank's side. owned: modules by stage, stage k being rank k's. reads: by rank, the modules that it reads.

    What is received stands in the cache in place of what was there, whose shapes tell how to unpack.
    """

    def __init__(self, team: Team, owned: Sequence[Sequence[str]], reads: Sequence[Sequence[str]]):
        self.team = team
        self.wanted: list[tuple[int, list[str]]] = []  # from rank, which
        self.given: list[tuple[int, list[str]]] = []  # to rank, which
        self.coming: list[tuple[list[str], Handle[Tensor]]] = []
        for rank, names in enumerate(reads):
            for stage, units in enumerate(owned):
                shared = [name for name in names if name in units]
                if shared and rank == team.rank:
                    self.wanted.append((stage, shared))
                if shared and stage == team.rank:
                    self.given.append((rank, shared))

    def send(self, made: Mapping[str, Any]) -> None:
        """Send on what others read of these outputs, and expect what they send."""
        for to, names in self.given:
            self.team.post_send(packed([made[name] for name in names]), to)
        for source, names in self.wanted:
            self.coming.append((names, self.team.post_recv(source)))

    def receive(self, cache: dict[str, Any]) -> None:
        """Put what has been sent to this rank since into the cache."""
        for names, handle in self.coming:
            cache.update(zip(names, unpacked(handle.wait(), [cache[name] for name in names])))
        self.coming = []


def packed(values: Any) -> Tensor:
    """The bytes of all tensors in a tree."""
    parts = [t.contiguous().view(-1).view(torch.uint8) for t in tree_flatten(values)[0] if isinstance(t, Tensor)]
    return torch.cat(parts)


def unpacked(raw: Tensor, like: Any) -> Any:
    """The tree that was packed, given one of the same shapes."""
    leaves, form = tree_flatten(like)
    found, at = [], 0
    for t in leaves:
        if isinstance(t, Tensor):
            size = t.numel() * t.element_size()
            found.append(raw[at : at + size].clone().view(t.dtype).view(t.shape))
            at += size
        else:
            found.append(t)
    return tree_unflatten(found, form)
