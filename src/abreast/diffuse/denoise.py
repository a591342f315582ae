"""The denoiser on a lane: guided outputs at any indices, many at once, and an event for every call.

Axes: B samples, n indices abreast. The ledger's unit is one full evaluation of all B samples: a guided pair is 1, one
branch of it 1/2, in span as in work; n indices in one call are work n and span 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abreast.core import AbreastError, Kind, Lane
from abreast.diffuse.networks import cut, join, spread
from abreast.diffuse.schedule import Scaler

if TYPE_CHECKING:
    from abreast.diffuse.problem import Sampling
    from abreast.diffuse.sites import Site
    from abreast.diffuse.stages import Stages


class Denoiser:
    """A problem's network on a lane. branches: "cond" alone, or with "uncond", in the order of their rows."""

    def __init__(self, problem: Sampling, lane: Lane, kind: str = "denoise"):
        self.problem, self.lane, self.kind = problem, lane, kind
        self.network: Any = problem.denoiser
        self.scale = Scaler(problem.scheduler)
        guidance = problem.guidance
        self.branches: tuple[str, ...] = ("cond",) if guidance is None else guidance.order
        self.conds = {"cond": problem.cond, "uncond": None if guidance is None else guidance.null}
        self.event = -1
        if kind not in lane.ledger.kinds:
            flops = problem.flops if lane.ledger.machine is not None else 0.0
            lane.ledger.kinds[kind] = Kind(flops=flops, reads=_weight(self.network.module))

    def __call__(self, i: Any, x: Tensor, branch: str | None = None, *, at: Any = None) -> Tensor:
        """The network's output at index i and state x [B, *], guided; or at indices i [n] and x [n, B, *], at once.

        branch: the plain output of this branch alone. at: indices whose timesteps the network is shown instead. The
        output has x's shape; where the scheduler uses learned variances, twice the channels.
        """
        names = self.branches if branch is None else (branch,)
        if branch is not None and branch not in self.branches:
            raise AbreastError(f"the branches are {', '.join(self.branches)}; there is no {branch}.")
        outs: dict[str, Tensor] = {}
        for group in self.groups(names):
            outs |= self._call(group, i, x, at)
        return self.combine(outs) if len(names) > 1 else outs[names[0]]

    def groups(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """Which branches share a call."""
        guidance = self.problem.guidance
        return [tuple(names)] if guidance is None or guidance.together else [(name,) for name in names]

    def combine(self, outs: Mapping[str, Tensor]) -> Tensor:
        """The guided output of both branches' outputs."""
        guidance = self.problem.guidance
        if guidance is None:
            return outs["cond"]
        return outs["uncond"] + guidance.scale * (outs["cond"] - outs["uncond"])

    def rows(self, names: Sequence[str], i: Any, x: Tensor, at: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Scaled states [N, *], timesteps [N] and conditions of the N = len(names) x n x B rows of one call."""
        index, states = _listed(i, x)
        n, batch = len(index), states.shape[1]
        seen = torch.stack([self.scale(k, state) for k, state in zip(index, states)])
        shown = index if at is None else _indices(at)
        times = self.problem.times[torch.tensor(shown, device=self.problem.times.device)]
        cond = join([spread(self.conds[name], n, batch) for name in names], n * batch)
        once = seen.flatten(0, 1)
        t = times.repeat_interleave(batch)
        return once.repeat(len(names), *[1] * (once.ndim - 1)), t.repeat(len(names)), cond

    def inputs(self, i: Any, x: Tensor, names: Sequence[str] | None = None, at: Any = None) -> dict[str, Any]:
        """The keyword arguments of the module's forward for one call: for methods that run the module in parts."""
        self._module()
        return self.network.inputs(*self.rows(names or self.branches, i, x, at))

    def outputs(self, raw: Any, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """By branch the outputs, shaped like x, in what the module returned for `inputs`."""
        return self._split(self.network.finish(raw), x, names or self.branches)

    @cached_property
    def sites(self) -> list[Site]:
        """The modules that mix positions."""
        from abreast.diffuse.sites import find_sites

        return find_sites(self._module())

    def stages(self, n: int) -> Stages:
        """The module cut into n consecutive parts of about equal work, by a trace at the first state (two evaluations,
        not recorded)."""
        from abreast.diffuse.stages import Stages

        module = self._module()
        return Stages(module, n, self.inputs(0, self.problem.x0, self.groups(self.branches)[0]))

    def record(self, n: float, share: float = 1.0, **facts: Any) -> int:
        """An event of n indices through this share of the network (a stage, patch or branch): for what was computed
        elsewhere; its id."""
        self.event = self.lane.add(self.kind, n * share, span=share, **facts)
        return self.event

    def _call(self, group: Sequence[str], i: Any, x: Tensor, at: Any) -> dict[str, Tensor]:
        seen, t, cond = self.rows(group, i, x, at)
        share = len(group) / len(self.branches)
        n = 1 if isinstance(i, int) else len(x)
        with self.lane.measure(self.kind, n * share, span=share), torch.no_grad():
            out = self._tiled(seen, t, cond)
        self.event = self.lane.last
        return self._split(out, x, group)

    def _split(self, out: Tensor, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """By branch the rows of one call; learned variances that the scheduler does not use are cut off."""
        channels = self.problem.noise.shape[1]
        if out.shape[1] == 2 * channels and not _learned(self.problem.scheduler):
            out = out[:, :channels]
        parts = out.reshape(len(names), *x.shape[: x.ndim - self.problem.noise.ndim + 1], *out.shape[1:])
        return dict(zip(names, parts))

    def _module(self) -> torch.nn.Module:
        if self.network.module is None:
            raise AbreastError("this denoiser is a function: it has no parts. Give the diffusers model itself.")
        return self.network.module

    def _tiled(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        tile, rows = self.problem.tile, len(x)
        if tile is None:
            return self.network(x, t, cond)
        outs = [
            self.network(cut(x, k, k + tile, rows), cut(t, k, k + tile, rows), cut(cond, k, k + tile, rows))
            for k in range(0, rows, tile)
        ]
        return torch.cat(outs)[:rows]


def _indices(i: Any) -> list[int]:
    return [i] if isinstance(i, int) else torch.as_tensor(i).reshape(-1).tolist()


def _listed(i: Any, x: Tensor) -> tuple[list[int], Tensor]:
    """Indices [n] and states [n, B, *]."""
    if isinstance(i, int):
        return [i], x[None]
    index = _indices(i)
    if len(index) != len(x):
        raise AbreastError(f"{len(index)} indices need as many states, not {len(x)}.")
    return index, x


def _learned(scheduler: Any) -> bool:
    return str(scheduler.config.get("variance_type", "")).startswith("learned")


def _weight(module: torch.nn.Module | None) -> float:
    """Bytes of the module's parameters."""
    return 0.0 if module is None else float(sum(p.numel() * p.element_size() for p in module.parameters()))
