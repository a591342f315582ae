"""AsyncDiff: every stage of the network at once, each on what the one before it gave a step ago (Chen et al., 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Ledger, Method, Run
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.layers.relay import Relay, needs
from abreast.diffuse.problem import Sampling
from abreast.diffuse.sequential import Sequential, fewer_steps
from abreast.diffuse.stages import Stages
from abreast.workers import Team, World


@dataclass(frozen=True)
class AsyncStages(Method):
    """After `warmup` plain steps each rank runs one stage of the network, fed with what the stages before gave in the
    step before; so the output at a step derives from the state `stages` - 1 steps earlier. Timestep and prompt are
    current, skip connections as old as any output.

    stages: how many, one rank each, of about equal work. stride: 2 computes at every second step for two at once: the
    stages with the timestep of the later step, and one more rank the last stage with that of the earlier. time_shift:
    shows the network the timestep of one step before, which is nearer to the state that the output derives from.
    Source: Chen, Ma, Fang, Tan, Wang, "AsyncDiff: Parallelizing Diffusion Models by Asynchronous Denoising", NeurIPS
    2024. Raises AbreastError for a setting out of range, a denoiser without modules, or another number of ranks.
    """

    stages: int = 2
    stride: int = 1
    warmup: int = 1
    time_shift: bool = False

    def __post_init__(self) -> None:
        if self.stages < 1 or self.warmup < 1 or self.stride not in (1, 2):
            raise AbreastError(
                "AsyncStages needs stages >= 1, warmup >= 1 (the first step fills the caches) and stride 1 or 2, "
                f"not {self.stages}, {self.warmup} and {self.stride}."
            )

    @property
    def ranks(self) -> int:
        """One for each stage, and with stride 2 another for the last stage."""
        return self.stages + self.stride - 1

    def promise(self, problem: Any) -> Guarantee:
        whole = self.stages == self.stride == 1 and not self.time_shift
        return IDENTICAL if whole or self.warmup >= problem.length else MEASURED

    def span(self, steps: int, share: float) -> float:
        """Of a run: `warmup` evaluations, then the largest stage's share of one at every `stride`-th step."""
        warm = min(self.warmup, steps)
        return warm + ceil((steps - warm) / self.stride) * share

    def run(self, problem: Sampling, world: World) -> Tensor:
        denoiser = Denoiser(problem, Ledger().lane("0"))
        stages = denoiser.stages(self.stages)
        reads = needs(stages, denoiser.inputs(0, problem.x0, denoiser.groups(denoiser.branches)[0]))
        with torch.no_grad():
            return world.with_ranks(self.ranks).map(lambda team: self._rank(problem, stages, reads, team))[0]

    def _rank(self, problem: Sampling, stages: Stages, reads: list[list[str]], team: Team) -> Tensor:
        me = _Rank(problem, stages, reads, team)
        scheduler, x = problem.fresh(), problem.x0
        own: Tensor | None = None
        for i in range(problem.length):
            phase = (i - self.warmup) % self.stride
            if i < self.warmup:
                out = me.whole(i, x)
            elif phase == 0:
                # The stages work for the stride's last step, the extra rank for this one.
                ahead = i if me.extra else min(i + self.stride - 1, problem.length - 1)
                more = i + self.stride < problem.length
                own = me.part(i, x, ahead - self.time_shift, more)
                out = team.broadcast(own if team.rank == team.size - 1 else None, team.size - 1)
            else:
                out = team.broadcast(own if team.rank == self.stages - 1 else None, self.stages - 1)
            x = problem.step(scheduler, i, out, x)
        return x

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one stage is one step at a time", replace(self, stages=1, stride=1, time_shift=False), Sequential()
        yield "warming up for ever is one step at a time", replace(self, warmup=1_000_000), Sequential()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        return fewer_steps(run.ledger.span)


class _Rank:
    """One rank: its stage, and for every call (of branches that share one) what the other stages gave last."""

    def __init__(self, problem: Sampling, stages: Stages, reads: list[list[str]], team: Team):
        self.denoiser = Denoiser(problem, team.lane)
        self.stages, self.team = stages, team
        self.extra = team.rank == len(stages)
        self.stage = min(team.rank, len(stages) - 1)
        self.groups = self.denoiser.groups(self.denoiser.branches)
        self.caches: dict[tuple[str, ...], dict[str, Any]] = {}
        ranks = [*range(len(stages)), *[len(stages) - 1] * (team.size - len(stages))]
        owned = [part.units for part in stages.parts]
        self.relays = {group: Relay(team, owned, [reads[k] for k in ranks]) for group in self.groups}

    def whole(self, i: int, x: Tensor) -> Tensor:
        """A plain evaluation, which fills the caches."""
        outs: dict[str, Tensor] = {}
        for group in self.groups:
            with self._measured(group, 1.0):
                self.caches[group], out = self.stages.replay(self.denoiser.inputs(i, x, group), {})
            outs |= self.denoiser.outputs(out, x, group)
        return self.denoiser.combine(outs)

    def part(self, i: int, x: Tensor, at: int, more: bool) -> Tensor | None:
        """This rank's stage at state x, shown the timestep of index `at`; the last stage's output. more: whether others
        will want what it gave."""
        outs: dict[str, Tensor] = {}
        for group in self.groups:
            cache, relay = self.caches[group], self.relays[group]
            relay.receive(cache)
            with self._measured(group, self.stages.parts[self.stage].share):
                mine, out = self.stages(self.stage, self.denoiser.inputs(i, x, group, at=[at]), cache)
            if more:
                relay.send(mine)
            if out is not None:
                outs |= self.denoiser.outputs(out, x, group)
        return self.denoiser.combine(outs) if outs else None

    def _measured(self, group: tuple[str, ...], share: float) -> Any:
        share *= len(group) / len(self.denoiser.branches)
        return self.team.lane.measure(self.denoiser.kind, share, span=share)
