"""DualParal: blocks of frames at staggered noise levels flow through a pipeline of layer shards (Wang et al., 2025)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Ledger, Method, Run
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.frames.block_queue import BlockQueue, Plan, Task
from abreast.diffuse.frames.shard import Shard, shards
from abreast.diffuse.problem import Sampling
from abreast.diffuse.sequential import Sequential, fewer_steps
from abreast.diffuse.stages import Stages
from abreast.workers import Handle, Team, World


@dataclass(frozen=True)
class DualPipeline(Method):
    """A long video in blocks of frames, each one step cleaner than the next, that pass through `stages` ranks from the
    newest to the oldest in every iteration; a rank holds one stage of the layers, and each layer of it the keys and
    values of the block that passed just before. So time and memory of an iteration do not grow with the video.

    block: frames of a block (the first has up to `context` more). context: frames that a block sees of both
    neighbours: the last of the cleaner one, as they stand after the last iteration, run through the layers in front of
    its own; the first of the noisier one as keys and values. share_noise: blocks share their noise in another order.
    Source: Wang, Ma, Ma, Yang, Wang, "Minute-Long Videos with Dual Parallelisms", 2025. Raises AbreastError for
    settings out of range, a network that is no Wan-like video transformer, and another number of ranks.
    """

    stages: int = 2
    block: int = 8
    context: int = 8
    share_noise: bool = True

    def __post_init__(self) -> None:
        if self.stages < 1 or self.block < 1 or not 0 <= self.context <= self.block:
            raise AbreastError(
                "DualPipeline needs stages >= 1, block >= 1 and 0 <= context <= block, "
                f"not {self.stages}, {self.block} and {self.context}."
            )

    def plan(self, problem: Sampling) -> Plan:
        """Blocks and tasks. Raises AbreastError where the states are no videos, or frames do not fill whole patches."""
        shape = problem.noise.shape
        if len(shape) != 5:
            raise AbreastError(f"blocks of frames need a video, noise [B, C, F, H, W], not {list(shape)}.")
        module = problem.denoiser.module
        patch = module.config.patch_size[0] if hasattr(module, "rope") else 1
        if any(size % patch for size in (shape[2], self.block, self.context)):
            sizes = f"{shape[2]}, {self.block} and {self.context}"
            raise AbreastError(f"video, block and context are multiples of the patch of {patch} frames, not {sizes}.")
        plan = Plan(shape[2], self.block, self.context, problem.length)
        longest = max(plan.lengths[0] + self.context, self.block + 2 * self.context) if len(plan.lengths) > 1 else 1
        if hasattr(module, "rope") and longest // patch > module.rope.max_seq_len:
            raise AbreastError(
                f"a block with its neighbours has {longest // patch} positions, this network {module.rope.max_seq_len}."
            )
        return plan

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if problem.noise.ndim == 5 and len(self.plan(problem).lengths) == 1 else MEASURED

    def run(self, problem: Sampling, world: World) -> Tensor:
        plan = self.plan(problem)
        stages = shards(Denoiser(problem, Ledger().lane("0")), self.stages, plan.lengths[0])
        whole = problem.flops
        values = world.with_ranks(self.stages).map(lambda team: self._rank(problem, plan, stages, whole, team))
        assert values[0] is not None
        return values[0]

    def _rank(self, problem: Sampling, plan: Plan, stages: Stages, whole: float, team: Team) -> Tensor | None:
        shard = Shard(Denoiser(problem, team.lane), stages, team.rank, plan, whole)
        if team.rank == 0:
            return self._lead(BlockQueue(problem, plan, self.share_noise), plan, shard, team)
        tasks = list(plan.tasks())
        coming = team.post_recv(team.rank - 1)
        for n, task in enumerate(tasks):
            hidden = coming.wait()
            if n + 1 < len(tasks):
                coming = team.post_recv(team.rank - 1)
            team.post_send(shard(task, None, hidden), 0 if shard.last else team.rank + 1)
        return None

    def _lead(self, queue: BlockQueue, plan: Plan, shard: Shard, team: Team) -> Tensor:
        """The first rank: its stage, and the queue. Outputs come back in the order in which blocks were sent off; a
        block waits for its own last update and that of the block before it, and no longer."""
        flying: deque[tuple[Task, Handle[Tensor]]] = deque()

        def land() -> None:
            task, output = flying.popleft()
            queue.step(task, output.wait())

        for task in plan.tasks():
            while any(other.block in (task.block, task.block - 1) for other, _ in flying):
                land()
            given = shard(task, queue.input(task), None)
            if shard.last:
                queue.step(task, given)
            else:
                team.post_send(given, 1)
                flying.append((task, team.post_recv(team.size - 1)))
        while flying:
            land()
        with torch.no_grad():
            return queue.video()

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "ranks change nothing", self, replace(self, stages=1)
        yield "one block is the whole video", replace(self, block=720_720, context=0), Sequential()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        yield from fewer_steps(run.ledger.span)
        if self.context or self.share_noise:
            yield replace(self, context=0, share_noise=False)
