"""LightningCP: deep features kept from a key step, and the steps after it predicted at once by the shallow layers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Lane, Method, Run
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.layers.feature_cache import FeatureCache
from abreast.diffuse.layers.foreground import ForegroundAttention, Mask
from abreast.diffuse.problem import Sampling
from abreast.diffuse.recurrence import StepChain
from abreast.diffuse.sequential import Sequential, fewer_steps, loop
from abreast.diffuse.steps.swept import shown
from abreast.solve.engine import iterate
from abreast.solve.split import SplitRule, walk
from abreast.solve.window import Sweeps, Window
from abreast.workers import World


@dataclass(frozen=True)
class _Cached(Method):
    """What both ways to use a feature cache share: when the full network runs, and what the shallow one is spared."""

    interval: int = 4
    deep_boundary: int = 1
    foreground: float | Mask | None = None
    drop_reference: tuple[str, ...] = ()
    first: int = 2
    last: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.foreground, Tensor):
            object.__setattr__(self, "foreground", Mask.of(self.foreground))
        if self.interval < 1 or self.first < 0 or self.last < 0:
            raise AbreastError(
                f"{type(self).__name__} needs interval >= 1 and first, last >= 0, "
                f"not {self.interval}, {self.first} and {self.last}."
            )

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.interval == 1 or self.first + self.last >= problem.length else MEASURED

    @property
    def window(self) -> Window:
        return Cycles(self.interval, first=self.first, last=self.last)

    def cache(self, problem: Sampling, lane: Lane) -> FeatureCache:
        seen = None if self.foreground is None else ForegroundAttention(self.foreground, problem.noise.shape)
        return FeatureCache(Denoiser(problem, lane), self.deep_boundary, self.drop_reference, seen)

    def cycles(self, steps: int) -> tuple[int, int]:
        """Full evaluations of a run of so many steps, and cycles that have shallow ones."""
        ends = [0]
        while ends[-1] < steps:
            ends.append(self.window.end(ends[-1], steps))
        return len(ends) - 1, sum(b - a > 1 for a, b in pairwise(ends))

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        whole = replace(self, interval=1, foreground=None)
        yield "only key steps are one step at a time", whole, Sequential()
        if self.foreground is not None:
            yield (
                "a foreground that is everything is none",
                replace(self, foreground=1.0),
                replace(self, foreground=None),
            )


@dataclass(frozen=True)
class LightningCP(_Cached):
    """Every `interval` steps the full network runs at the true state; the states of the steps that follow are estimated
    by stepping on with its output, and the shallow layers predict at all of them in one call, with the deep features of
    the key step.

    deep_boundary: how many blocks at either end are shallow. foreground: confines attention of the shallow blocks to
    what moves: a mask [H, W] (a tensor becomes a `Mask`), or a share of the picture. drop_reference: conditions by name
    (a reference picture's features) that shallow calls do without. first, last: how many steps are full at either end.
    Source: "Lightning Fast Caching-based Parallel Denoising Prediction for Accelerating Talking Head Generation", 2025;
    how the foreground is found and which steps are full are ours. Raises AbreastError for settings out of range, and a
    network without blocks.
    """

    def span(self, steps: int, share: float) -> float:
        """Of a run: an evaluation for each cycle, and the shallow layers' share of one where a cycle has more steps."""
        full, more = self.cycles(steps)
        return full + more * share

    def steps(self, problem: Sampling, world: World) -> Generator[tuple[int, Tensor | None], None, Tensor]:
        """Yields the number of final states after each cycle."""
        lane = world.lane()
        rule = _Lead(_Chain(problem, self.cache(problem, lane)), lane)
        return (yield from shown(iterate(rule, self.window, Sweeps(1), lane, keep=False)))

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        yield from fewer_steps(run.ledger.span)
        yield CachedSteps(
            self.interval, self.deep_boundary, self.foreground, self.drop_reference, self.first, self.last
        )


@dataclass(frozen=True)
class CachedSteps(_Cached):
    """The same cache one step after the other: the shallow layers run at the true states. What is left of LightningCP
    without the parallel part; also known as DeepCache.
    Source: Ma, Fang, Wang, "DeepCache: Accelerating Diffusion Models for Free", CVPR 2024."""

    def span(self, steps: int, share: float) -> float:
        """Of a run: an evaluation for each cycle, and the shallow layers' share of one for every other step."""
        full, _ = self.cycles(steps)
        return full + (steps - full) * share

    def steps(self, problem: Sampling, world: World) -> Generator[tuple[int, Tensor], None, Tensor]:
        cache, end = self.cache(problem, world.lane()), 0

        def predict(i: int, x: Tensor) -> Tensor:
            nonlocal end
            if i < end:
                return cache.shallow(torch.tensor([i]), x[None])[0]
            end = self.window.end(i, problem.length)
            return cache.key(i, x)

        return loop(problem, predict)

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        return fewer_steps(run.ledger.span)


@dataclass(frozen=True)
class Cycles(Window):
    """Windows of `size` between `first` and `last` single steps."""

    first: int = 0
    last: int = 0

    def end(self, begin: int, steps: int) -> int:
        stop = steps - self.last
        if begin < self.first or begin >= stop:
            return min(begin + 1, steps)
        return min(super().end(begin, steps), stop)


class _Chain(StepChain):
    """Sampling whose evaluation is full at a final state, and shallow at an estimated one."""

    def __init__(self, problem: Sampling, cache: FeatureCache):
        super().__init__(problem)
        self.cache = cache

    def on(self, lane: Lane) -> Any:
        def evaluate(i: Tensor, x: Tensor, ages: Tensor) -> Tensor:
            # The engine counts a final state as old as can be.
            if len(i) == 1 and int(ages[0]) >= self.T:
                return self.cache.key(int(i[0]), x[0])[None]
            return self.cache.shallow(i, x)

        return evaluate


class _Lead(SplitRule):
    """The window's first state is evaluated alone; the others are where that leads, and evaluated together."""

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        n = len(x) - 1
        i = torch.arange(b, b + n)
        g = self.evaluate(i[:1], x[:1], ages[:1])
        if n > 1:
            ahead = walk(self, b, x[0], g[0], n - 1)
            g = torch.cat((g, self.evaluate(i[1:], ahead, ages[1:])))
        self.i, self.g = i, g
        new, self.carries = self.problem.roll(b, x, g, self.carry)
        return new
