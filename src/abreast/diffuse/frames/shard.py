"""One rank's layers of a video transformer, with the keys and values that the block before it left in them.

Axes: N rows (branches x samples), S tokens (frames first), D channels, h heads of width d.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from abreast.core import AbreastError
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.flops import Counting
from abreast.diffuse.frames.block_queue import Plan, Task, nbytes
from abreast.diffuse.layers.relay import needs
from abreast.diffuse.stages import Stages

Kept = dict[str, tuple[Tensor, Tensor]]  # by layer: keys and values [N, S, D], before norm and rotation


def shards(denoiser: Denoiser, n: int, frames: int) -> Stages:
    """The transformer in n stages, each of which reads the one before it alone.

    frames: of the input that it is cut by. Raises AbreastError for anything but a Wan-like video transformer.
    """
    module = denoiser.network.module
    blocks = getattr(module, "blocks", None)
    if blocks is None or not all(hasattr(block, "attn1") for block in blocks) or not hasattr(module, "rope"):
        name = "a function" if module is None else type(module).__name__
        raise AbreastError(f"blocks of frames need a video transformer like WanTransformer3DModel, not {name}.")
    inputs = denoiser.inputs(0, denoiser.problem.x0[:, :, :frames], denoiser.groups(denoiser.branches)[0])
    stages = Stages(module, n, inputs)
    chain: list[list[str]] = [[]]
    chain += [[part.units[-1]] for part in stages.parts[:-1]]
    if needs(stages, inputs) != chain:
        raise AbreastError(f"{type(module).__name__} is no chain of blocks: a stage reads more than the one before.")
    return stages


@dataclass
class Shard:
    """Stage k of the stages. whole: operations of a full evaluation. Events are shares of one."""

    denoiser: Denoiser
    stages: Stages
    k: int
    plan: Plan
    whole: float
    after: dict[tuple[str, ...], Kept] = field(default_factory=dict)
    shares: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module = self.denoiser.network.module
        self.groups = self.denoiser.groups(self.denoiser.branches)
        self.patch: tuple[int, int, int] = tuple(module.config.patch_size)
        part = self.stages.parts[self.k]
        self.layers = {name: module.get_submodule(name).attn1 for name in part.units if name.startswith("blocks.")}
        everywhere = nbytes(*module.parameters()) - sum(nbytes(*u.parameters()) for u in self.stages.units.values())
        own = sum(nbytes(*self.stages.units[name].parameters()) for name in part.units)
        self.denoiser.lane.add("load", 0.0, span=0.0, memory=own + everywhere)

    @property
    def last(self) -> bool:
        return self.k == len(self.stages) - 1

    def __call__(self, task: Task, x: Tensor | None, hidden: Tensor | None) -> Tensor:
        """Run a block through these layers.

        x [B, C, before + own, H, W]: on the first rank. hidden: what the rank before gave. Returns what the next rank
        is to be given; on the last one the guided output for the block's own frames.
        """
        ledger, frames = self.denoiser.lane.ledger, task.before + task.own
        start, held = ledger.clock(), sum(_size(kept) for kept in self.after.values())
        if x is None:
            shape = self.denoiser.problem.noise.shape
            x = self.denoiser.problem.noise.new_zeros(()).expand(*shape[:2], frames, *shape[3:])
        if task.newest:
            self.after = {}
        seen = (frames, task.newest)
        known = seen in self.shares
        with nullcontext(Counting()) if known else Counting() as counter, torch.no_grad():
            hiddens = [None] * len(self.groups) if hidden is None else hidden.chunk(len(self.groups))
            outs = [self._run(task, x, group, h) for group, h in zip(self.groups, hiddens)]
        if not known:
            self.shares[seen] = counter.total / self.whole
        clock = {} if ledger.machine is not None else {"start": start, "end": ledger.clock()}
        kept = sum(_size(kept) for kept in self.after.values())
        self.denoiser.record(1, self.shares[seen], memory=kept, **clock)
        if held:
            self.denoiser.lane.add("free", 0.0, span=0.0, memory=-held)
        if not self.last:
            return torch.cat(outs)
        by_branch = {name: out for group, raw in zip(self.groups, outs) for name, out in
                     self.denoiser.outputs((raw,), x, group).items()}  # fmt: skip
        return self.denoiser.combine(by_branch)[:, :, task.before :]

    def _run(self, task: Task, x: Tensor, group: tuple[str, ...], hidden: Tensor | None) -> Tensor:
        inputs = self.denoiser.inputs(task.step, x, group)
        state = inputs[self.denoiser.network.x]
        with self._context(task, state, group):
            made, out = self.stages(self.k, inputs, self._carried(state, hidden))
        return self.denoiser.network.finish(out) if self.last else made[self.stages.parts[self.k].units[-1]]

    def _carried(self, state: Tensor, hidden: Tensor | None) -> Mapping[str, Any]:
        """What earlier modules gave: the last of them `hidden`, the others anything of the right shape."""
        if hidden is None:
            return {}
        before = [name for part in self.stages.parts[: self.k] for name in part.units]
        carried = dict.fromkeys(before, hidden)
        embedding = self.stages.units[before[0]]
        if len(before) > 1 and isinstance(embedding, nn.Conv3d):
            grid = [size // p for size, p in zip(state.shape[2:], self.patch)]
            carried[before[0]] = hidden.new_zeros(()).expand(len(state), embedding.out_channels, *grid)
        return carried

    @contextmanager
    def _context(self, task: Task, state: Tensor, group: tuple[str, ...]) -> Iterator[None]:
        """Within the block, self-attention also sees the first frames of the block that passed before, and keeps this
        block's own first frames for the next."""
        if not self.plan.context:
            yield
            return
        frames, tall, wide = (size // p for size, p in zip(state.shape[2:], self.patch))
        first, more = task.before // self.patch[0], self.plan.context // self.patch[0]
        keep = slice(first * tall * wide, (first + more) * tall * wide)
        after = self.after.get(group, {})
        length = (frames + more) * self.patch[0] if after else state.shape[2]
        rope = self.denoiser.network.module.rope
        rotary = rope(state.new_zeros(()).expand(*state.shape[:2], length, *state.shape[3:]))
        kept: Kept = {}
        plain = {name: attn.processor for name, attn in self.layers.items()}
        try:
            for name, attn in self.layers.items():
                attn.processor = _Attention(name, keep, after.get(name), rotary, kept)
            yield
        finally:
            for name, attn in self.layers.items():
                attn.processor = plain[name]
        self.after[group] = kept if task.block else {}


@dataclass
class _Attention:
    """Self-attention in place of the layer's own. rotary_after: rotation of all keys, the added ones at the end."""

    name: str
    keep: slice
    after: tuple[Tensor, Tensor] | None
    rotary_after: tuple[Tensor, Tensor]
    kept: Kept

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None,
        rotary_emb: Any = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        self.kept[self.name] = key[:, self.keep].clone(), value[:, self.keep].clone()
        if self.after is not None:
            key, value = torch.cat((key, self.after[0]), 1), torch.cat((value, self.after[1]), 1)
        query, key = attn.norm_q(query), attn.norm_k(key)
        q, k, v = (t.unflatten(2, (attn.heads, -1)) for t in (query, key, value))
        q, k = _rotated(q, *rotary_emb), _rotated(k, *self.rotary_after)
        out = dispatch_attention_fn(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False)
        out = out.flatten(2, 3).type_as(query)
        return attn.to_out[1](attn.to_out[0](out))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N, S, h, d], pairs of neighbouring channels rotated, as Wan does."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2).type_as(x)


def _size(kept: Kept) -> float:
    return sum(nbytes(*pair) for pair in kept.values())
