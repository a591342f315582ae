"""PCM: a denoiser tuned so that one Picard sweep lands nearer to the fixed point, which the plain one then finishes
(Hwang et al., 2025).

Axes: T steps, n positions of a window, B samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Lane, Ledger, Method, Run
from abreast.core.problem import exhaust
from abreast.diffuse.batch import batch_step
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.levels import tolerance_scale
from abreast.diffuse.problem import Sampling
from abreast.diffuse.recurrence import Sums
from abreast.diffuse.sequential import Sequential, loop
from abreast.diffuse.steps.paradigms import ParaDiGMS
from abreast.diffuse.steps.swept import Solving, Swept
from abreast.nets.lora import LoRA
from abreast.solve.engine import iterate
from abreast.solve.split import SplitRule
from abreast.solve.window import Change, NoiseScaled, Stop, Window
from abreast.workers import Team


@dataclass(frozen=True)
class PCM(Swept):
    """Picard iteration whose first sweeps of a position use a tuned denoiser: its adapters' strength falls from 1 to 0
    over `switch_after` sweeps. The window's first position always uses the plain one, and no state counts as settled
    before it and all before it have been swept plainly: the end is Picard's.

    tuned: a `LoRA` of the problem's denoiser (`train_pcm`). switch_after None never switches. space: strength of the
    "weights", or a mixture of both denoisers' "outputs", which costs twice the work. window, tolerance: as in
    ParaDiGMS. Source: Hwang et al., "PCM: Picard Consistency Model for Fast Parallel Sampling of Diffusion Models",
    CVPR 2025 (the schedule of the switch is ours). Raises AbreastError for a window or a switch below 1.
    """

    tuned: LoRA = field(repr=False, compare=False)
    window: int = 16
    tolerance: float = 0.1
    switch_after: int | None = 2
    space: Literal["weights", "outputs"] = "weights"

    def __post_init__(self) -> None:
        if self.window < 1 or (self.switch_after is not None and self.switch_after < 0) or not self.tolerance >= 0:
            raise AbreastError(
                "PCM needs window >= 1, tolerance >= 0 and switch_after >= 0 or None, not "
                f"{self.window}, {self.tolerance} and {self.switch_after}."
            )
        if self.space not in ("weights", "outputs"):
            raise AbreastError(f"space is weights or outputs, not {self.space!r}.")

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.tolerance == 0 and self.switch_after is not None else MEASURED

    def sweeps(self, problem: Sampling, lane: Lane, team: Team | None) -> Solving:
        if problem.tile is not None:
            raise AbreastError("PCM sets the adapters' strength row by row, so calls cannot be cut into tiles.")
        stop: Stop = Change()
        if self.tolerance:
            stop = NoiseScaled(self.tolerance, tuple(tolerance_scale(problem.scheduler).tolist()))
        rule = _Switched(_Chain(problem, self), lane, team)
        return iterate(rule, Window(self.window), stop, lane, keep=False)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "tolerance 0 is one step at a time", replace(self, tolerance=0.0, switch_after=2), Sequential()
        yield "switched at once it is Picard's", replace(self, switch_after=0), ParaDiGMS(self.window, self.tolerance)

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        yield ParaDiGMS(self.window, self.tolerance)
        yield from super().controls(run)

    def strength(self, ages: Tensor) -> Tensor:
        """[n] from 1 to 0 by how many sweeps each position has had."""
        if self.switch_after == 0:
            return torch.zeros(len(ages))
        if self.switch_after is None:
            return (ages < ages.max().clamp(min=1)).float()
        return (1 - ages / self.switch_after).clamp(min=0.0)


class _Chain(Sums):
    """Picard's form with the tuned denoiser in the first sweeps."""

    def __init__(self, problem: Sampling, method: PCM):
        super().__init__(problem)
        self.method = method

    def on(self, lane: Lane) -> Any:
        plain, B = Denoiser(self.problem, lane), len(self.x0)
        around = self.problem.denoiser.around(self.method.tuned)
        tuned = Denoiser(replace(self.problem, denoiser=around, steps=None), lane)

        def evaluate(i: Tensor, x: Tensor, ages: Tensor) -> Tensor:
            strength = self.method.strength(ages).to(x)
            if not bool(strength.any()):
                return plain(i, x)
            if self.method.space == "outputs":
                lean = strength.view(-1, *[1] * (x.dim() - 1))
                self.method.tuned.strength = 1.0
                return (1 - lean) * plain(i, x) + lean * tuned(i, x)
            self.method.tuned.strength = strength.repeat_interleave(B)
            return tuned(i, x)

        return evaluate


class _Switched(SplitRule):
    """No state has settled before it and all before it were swept plainly."""

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        new = super().sweep(b, x, ages)
        method: PCM = self.problem.method  # type: ignore[attr-defined]
        if method.switch_after is not None:
            self.unsure = method.strength(ages).cummax(0).values > 0
        return new


def train_pcm(
    problem: Sampling, rank: int = 8, steps: int = 2000, rate: float = 1e-3, batch: int = 256,
    iterates: int = 4, decay: float = 0.999, seed: int = 0,
) -> LoRA:  # fmt: skip
    """Adapters for the problem's denoiser; its noise is what training starts from, so sample from another.

    A Picard sweep adds up what each step does; it lands on the fixed point X* if every step does what it does there. So
    the tuned step at a random position of an early iterate X^k is drawn to X*_{i+1} - X*_i: one evaluation an example,
    instead of a whole sweep. The weights kept are an average over the steps. Raises AbreastError for a scheduler that
    remembers earlier steps, for guidance, and for a denoiser that is no module.
    """
    if problem.denoiser.module is None or problem.guidance is not None:
        raise AbreastError("PCM is trained on a module without guidance: give the diffusers model itself.")
    if not problem.free:
        raise AbreastError(
            f"{type(problem.scheduler).__name__} remembers earlier steps: use a scheduler that does not."
        )
    early, fixed = _trajectories(problem, iterates)
    size = (fixed[1:] - fixed[:-1]).flatten(2).pow(2).mean((1, 2))
    tuned = LoRA(problem.denoiser.module, rank, seed)
    weights = list(tuned.adapters())
    average = [w.detach().clone() for w in weights]
    optimiser = torch.optim.Adam(weights, lr=rate)
    denoiser = problem.denoiser.around(tuned)
    generator = torch.Generator().manual_seed(seed)
    T, N = problem.length, len(problem.noise)
    for step in range(steps):
        k, i, n = (torch.randint(high, (batch,), generator=generator) for high in (iterates, T, N))
        x = early[k, i, n]
        out = denoiser(x, problem.times[i], picked(problem.cond, n, N))
        after = batch_step(problem.scheduler, i, out[:, None], x[:, None])[:, 0]
        wanted = fixed[i + 1, n] - fixed[i, n]
        loss = ((after - x - wanted).flatten(1).pow(2).mean(1) / size[i]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for kept, w in zip(average, weights):
                kept.lerp_(w, 1 - min(decay, (1 + step) / (10 + step)))
    with torch.no_grad():
        for kept, w in zip(average, weights):
            w.copy_(kept)
    return tuned


@torch.no_grad()
def _trajectories(problem: Sampling, iterates: int) -> tuple[Tensor, Tensor]:
    """Whole-window Picard iterates X^0 .. [K, T, N, *] (inputs of the steps), and the fixed point [T + 1, N, *]."""
    lane, states = Ledger().lane("0"), [problem.x0]
    exhaust(loop(problem, Denoiser(problem, lane)), lambda item: states.append(item[1]))
    chain = Sums(problem)
    evaluate, index = chain.on(lane), torch.arange(problem.length)
    x, early = problem.x0.expand(problem.length + 1, *problem.x0.shape).clone(), []
    for _ in range(iterates):
        early.append(x[:-1])
        g = torch.stack([evaluate(index[i : i + 1], x[i : i + 1], None)[0] for i in range(problem.length)])
        x = torch.cat((x[:1], chain.roll(0, x, g, chain.carry0)[0]))
    return torch.stack(early), torch.stack(states)


def picked(cond: Any, n: Tensor, rows: int) -> Any:
    """Rows n of a condition of that many rows, by name or not."""
    if isinstance(cond, Mapping):
        return {name: picked(value, n, rows) for name, value in cond.items()}
    return cond[n] if isinstance(cond, Tensor) and cond.dim() and len(cond) == rows else cond
