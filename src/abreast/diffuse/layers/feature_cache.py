"""Deep features kept from one evaluation, and evaluations of the shallow layers alone that put them back.

Axes: B samples, n indices abreast; a call has N = branches x n x B rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from abreast.core import AbreastError
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.flops import Counting
from abreast.diffuse.layers.foreground import ForegroundAttention
from abreast.diffuse.networks import cut
from abreast.diffuse.stages import Stages

Group = tuple[str, ...]


class FeatureCache:
    """A network whose deep layers are computed at key states only.

    boundary: how many blocks at either end are shallow. Of a UNet the features entering the last `boundary` decoder
    blocks are kept; of a transformer what its middle blocks add. drop: conditions by name that shallow calls do
    without. foreground: what attention of the shallow blocks is confined to in shallow calls.

    Features belong to one noise level, branch and sample, and are kept for each. Raises AbreastError for a network of
    neither kind, and a boundary that leaves no deep block.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        boundary: int,
        drop: Collection[str] = (),
        foreground: ForegroundAttention | None = None,
    ):
        self.denoiser, self.drop, self.foreground = denoiser, frozenset(drop), foreground
        problem = denoiser.problem
        self.groups: list[Group] = denoiser.groups(denoiser.branches)
        inputs = denoiser.inputs(0, problem.x0, self.groups[0])
        module = denoiser.network.module
        head, deep, self.adds = layers(module, boundary)
        missing = self.drop - set(problem.cond or ())
        if missing:
            raise AbreastError(f"there is no condition {min(missing)} that shallow calls could do without.")
        self.stages = Stages(module, 1, cut(inputs, 0, 1, len(inputs[denoiser.network.x])))
        self.deep = [name for name in self.stages.units if _within(name, deep)]
        self.head = [name for name in self.stages.units if _within(name, head)]
        if foreground is not None:
            foreground.find(module, [name for name in self.stages.units if name not in self.deep])
        self.kept: dict[Group, dict[str, Any]] = {}
        self.full = 0.0
        self.shares: dict[tuple[int, Any], float] = {}

    def key(self, i: int, x: Tensor) -> Tensor:
        """The full network's guided output at state x [B, *]; its deep features are kept."""
        lane, outs = self.denoiser.lane, dict[str, Tensor]()
        counting = nullcontext(Counting()) if self.full else Counting()
        with lane.measure(self.denoiser.kind, 1.0), torch.no_grad(), counting as counter:
            for group in self.groups:
                with self._attention("keep", group, 1):
                    made, raw = self.stages.replay(self.denoiser.inputs(i, x, group), {})
                self.kept[group] = {name: made[name] for name in (*self.head[-1:], *self.deep)}
                outs |= self.denoiser.outputs(raw, x, group)
        self.full = self.full or counter.total
        out = self.denoiser.combine(outs)
        if self.foreground is not None:
            self.foreground.look(self.denoiser.problem.scheduler, i, x, out)
        return out

    def shallow(self, i: Tensor, x: Tensor) -> Tensor:
        """Guided outputs at states x [n, B, *] of indices i [n], in one call, with the features kept last."""
        n, ledger = len(x), self.denoiser.lane.ledger
        start, outs = ledger.clock(), dict[str, Tensor]()
        kind = (n, None if self.foreground is None else self.foreground.size)
        with nullcontext(Counting()) if kind in self.shares else Counting() as counter, torch.no_grad():
            for group in self.groups:
                inputs = self.denoiser.inputs(i, x, group)
                inputs = {name: value for name, value in inputs.items() if name not in self.drop}
                with self._attention("use", group, n):
                    outs |= self.denoiser.outputs(self._put_back(inputs, group, n), x, group)
        share = self.shares.setdefault(kind, counter.total / (n * max(self.full, 1.0)))
        clock = {} if ledger.machine is not None else {"start": start, "end": ledger.clock()}
        self.denoiser.record(n, share, **clock)
        return self.denoiser.combine(outs)

    def _put_back(self, inputs: Mapping[str, Any], group: Group, n: int) -> Any:
        kept = {name: self._spread(value, group, n) for name, value in self.kept[group].items()}
        if not self.adds:
            given = {name: kept[name] for name in self.deep}
            return self.stages.replay(inputs, given)[1]
        first, _ = self.stages.replay(inputs, {}, self.head[-1])
        # Some blocks carry text beside the picture; both are added to.
        leaving = tree_map(_added, first[self.head[-1]], kept[self.deep[-1]], kept[self.head[-1]])
        return self.stages.replay(inputs, {**first, **dict.fromkeys(self.deep, leaving)})[1]

    def _spread(self, value: Any, group: Group, n: int) -> Any:
        """What one index's rows gave, for n indices' rows."""

        def rows(t: Any) -> Any:
            if not isinstance(t, Tensor) or n == 1:
                return t
            each = t.unflatten(0, (len(group), 1, -1))
            return each.expand(len(group), n, *each.shape[2:]).flatten(0, 2)

        return tree_map(rows, value)

    def _attention(self, mode: str, group: Group, n: int) -> Any:
        if self.foreground is None:
            return nullcontext()
        return self.foreground.within(mode, group, lambda value: self._spread(value, group, n))


def layers(module: nn.Module | None, boundary: int) -> tuple[list[str], list[str], bool]:
    """Of the shallow blocks in front, and of the deep ones, the names; and whether the deep ones only add to what
    enters them."""
    name = "a function" if module is None else type(module).__name__
    ups = getattr(module, "up_blocks", None)
    if ups is not None:
        n = len(ups)
        if not 1 <= boundary < n:
            raise AbreastError(f"{name} has {n} levels: keep 1 to {n - 1} of them shallow, not {boundary}.")
        downs = [f"down_blocks.{k}" for k in range(n)]
        deep = [*downs[boundary:], "mid_block", *(f"up_blocks.{k}" for k in range(n - boundary))]
        return downs[:boundary], deep, False
    found = [k for k in ("transformer_blocks", "blocks") if isinstance(getattr(module, k, None), nn.ModuleList)]
    if len(found) != 1 or hasattr(module, "single_transformer_blocks"):
        raise AbreastError(f"features are kept of UNets and of transformers with one list of blocks, not of {name}.")
    blocks = [f"{found[0]}.{k}" for k in range(len(getattr(module, found[0])))]
    most = (len(blocks) - 1) // 2
    if not most:
        raise AbreastError(f"{name} has {len(blocks)} blocks: none is deep when the first and the last are shallow.")
    if not 1 <= boundary <= most:
        raise AbreastError(f"{name} has {len(blocks)} blocks: keep 1 to {most} at either end shallow, not {boundary}.")
    return blocks[:boundary], blocks[boundary:-boundary], True


def _added(entering: Any, deep: Any, shallow: Any) -> Any:
    return entering + (deep - shallow) if isinstance(entering, Tensor) else entering


def _within(name: str, blocks: Collection[str]) -> bool:
    return any(name == block or name.startswith(f"{block}.") for block in blocks)
