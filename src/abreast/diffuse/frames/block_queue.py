"""A long video as a queue of blocks of frames: who is denoised when, next to whom, and from which noise.

Axes: B samples, C channels, L frames, H and W. Block 0 holds the first frames. It leads: block b joins at iteration b
and makes its step k - b at iteration k, so that from the newest block to the oldest each is one step cleaner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abreast.core import uniform
from abreast.diffuse.schedule import step_at

if TYPE_CHECKING:
    from abreast.diffuse.problem import Sampling


@dataclass(frozen=True)
class Task:
    """One block's pass through the network in one iteration. step: the index that it is at. before: frames of the block
    before it that stand in front of its own; newest: nothing follows it, and a new iteration begins."""

    iteration: int
    block: int
    step: int
    before: int
    own: int
    newest: bool


@dataclass(frozen=True)
class Plan:
    """L = `frames` frames in blocks of `block`, the first of up to `context` more; `steps` steps each."""

    frames: int
    block: int
    context: int
    steps: int

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each block; all fit into one where they are no more than block + context."""
        blocks = max(1, -(-(self.frames - self.context) // self.block))
        return (self.frames - (blocks - 1) * self.block, *[self.block] * (blocks - 1))

    def slice(self, b: int) -> slice:
        """The frames of block b."""
        start = sum(self.lengths[:b])
        return slice(start, start + self.lengths[b])

    @property
    def edges(self) -> tuple[int, ...]:
        """The first frame of each block but the first."""
        return tuple(self.slice(b).start for b in range(1, len(self.lengths)))

    def tasks(self) -> Iterator[Task]:
        """Iteration by iteration, in each from the newest block to the oldest."""
        blocks, T = len(self.lengths), self.steps
        for k in range(T + blocks - 1):
            newest = min(k, blocks - 1)
            for b in range(newest, max(0, k - T + 1) - 1, -1):
                yield Task(k, b, k - b, self.context if b else 0, self.lengths[b], b == newest)


def ticks(steps: int, blocks: int, stages: int) -> int:
    """How long a pipeline takes whose stages each need one tick for a block.

    Iteration k (from 1) holds q_k = min(k, B, T, T + B - k) blocks. The next one starts max(q, N) ticks later while a
    block still joins, since its newest block waits for the update of the one before it; else max(q, N + 1), where it
    waits for its own; a single block N. The last iteration ends N after its start.
    """
    total = 0
    for k in range(1, steps + blocks - 1):
        held = min(k, blocks, steps, steps + blocks - k)
        joins = k + 1 <= blocks
        total += max(held, stages) if joins or held == 1 else max(held, stages + 1)
    return total + stages


class BlockQueue:
    """The states of all blocks, each with a scheduler of its own, on the one rank that steps them."""

    def __init__(self, problem: Sampling, plan: Plan, share_noise: bool):
        self.problem, self.plan = problem, plan
        self.states: list[Tensor] = list(starts(problem, plan, share_noise))
        self.schedulers = [problem.fresh() for _ in plan.lengths]

    def input(self, task: Task) -> Tensor:
        """What the network sees [B, C, before + own, H, W]: the last frames of the block before, as they stand, and the
        block's own."""
        own = self.states[task.block]
        if not task.before:
            return own
        return torch.cat((self.states[task.block - 1][:, :, -task.before :], own), 2)

    def step(self, task: Task, out: Tensor) -> None:
        """Step a block on with the network's output for its own frames."""
        problem, b, i = self.problem, task.block, task.step

        def noise() -> Tensor:
            return problem.draw(i)[:, :, self.plan.slice(b)]

        self.states[b] = step_at(self.schedulers[b], i, out, self.states[b], noise, **problem.options)

    def video(self) -> Tensor:
        """All blocks [B, C, L, H, W]."""
        return torch.cat(self.states, 2)


def starts(problem: Sampling, plan: Plan, share_noise: bool) -> Iterator[Tensor]:
    """The first state of each block.

    share_noise: blocks share a template of block + context frames of the problem's noise: the next is [its last
    `context` frames | its first `block` frames in another order], and a block takes the template's last frames. Else
    each has its own frames of the noise.
    """
    x = problem.x0
    if not share_noise:
        for b in range(len(plan.lengths)):
            yield x[:, :, plan.slice(b)]
        return
    template = x[:, :, : plan.block + plan.context]
    for b, own in enumerate(plan.lengths):
        if b:
            order = uniform(problem.seed, "block noise", b, n=plan.block).argsort()
            template = torch.cat((template[:, :, plan.block :], template[:, :, torch.from_numpy(order)]), 2)
        yield template[:, :, -own:]


def continuity(video: Tensor, edges: Sequence[int]) -> float:
    """Mean squared change from one frame to the next at the edges of blocks, by that within blocks; 1 is seamless.
    video [B, C, L, H, W]."""
    change = (video[:, :, 1:] - video[:, :, :-1]).double().square().mean((0, 1, 3, 4))
    at = torch.zeros(len(change), dtype=torch.bool)
    at[[e - 1 for e in edges]] = True
    return float(change[at].mean() / change[~at].mean()) if edges else 1.0


def nbytes(*values: Any) -> float:
    """Bytes of tensors."""
    return float(sum(t.numel() * t.element_size() for t in values))
