"""ParaStep: devices take consecutive steps together, each walking ahead with its last output (Wang et al., 2025)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Lane, Method
from abreast.diffuse.problem import Sampling
from abreast.diffuse.recurrence import StepChain
from abreast.diffuse.sequential import Sequential
from abreast.diffuse.steps.swept import Solving, Swept
from abreast.solve.engine import iterate
from abreast.solve.split import ReuseLast, ReuseOwn, SplitRule
from abreast.solve.window import Cycles, Settled, Stop, Sweeps
from abreast.workers import Team


@dataclass(frozen=True)
class ParaStep(Swept):
    """After `warmup` plain steps, cycles of `parallel` steps: position r walks r steps ahead with the output it had in
    the last cycle ("own"; on one device "newest" may take the newest of all), evaluates there, and the true state is
    advanced with all outputs in order.

    verify: None takes a cycle as it is; a number keeps sweeping until no state changes by more, 0 until none does, when
    the sample is the sequential one; v is then held instead of the output. Over as many ranks as steps each holds one
    position: outputs go to rank 0, one state comes back.
    Source: Wang, Li, Gao, Zheng, "Communication-Efficient Diffusion Denoising Parallelization via Reuse-then-Predict
    Mechanism", 2025. Raises AbreastError for fewer than one step at once, and a negative warm-up.
    """

    parallel: int = 4
    warmup: int = 5
    reuse: Literal["own", "newest"] = "own"
    verify: float | None = None

    def __post_init__(self) -> None:
        if self.parallel < 1 or self.warmup < 0:
            raise AbreastError(f"ParaStep needs parallel >= 1 and warmup >= 0, not {self.parallel} and {self.warmup}.")
        if self.reuse not in ("own", "newest"):
            raise AbreastError(f"reuse is own or newest, not {self.reuse!r}.")

    def promise(self, problem: Any) -> Guarantee:
        if self.parallel == 1 or self.verify == 0 or self.warmup >= problem.length:
            return IDENTICAL
        return MEASURED

    def span(self, steps: int) -> int:
        """Dependent evaluations of a run that is not verified."""
        warm = min(self.warmup, steps)
        return warm + ceil((steps - warm) / self.parallel)

    def sweeps(self, problem: Sampling, lane: Lane, team: Team | None) -> Solving:
        if team is not None and team.size != self.parallel:
            raise AbreastError(f"ParaStep with {self.parallel} steps at once runs on as many ranks, not {team.size}.")
        chain = StepChain(problem, "output" if self.verify is None else "v")
        alone = team is not None and self.verify is None and self.reuse == "own" and problem.free
        rule = (Star if alone else SplitRule)(chain, lane, team)
        guess = ReuseOwn() if self.reuse == "own" else ReuseLast()
        stop: Stop = Sweeps(1) if self.verify is None else Settled(self.verify)
        return iterate(rule, Cycles(self.parallel, guess, self.warmup), stop, lane, keep=False)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one step at once is one step at a time", replace(self, parallel=1), Sequential()
        yield "verified to the bit it is one step at a time", replace(self, verify=0.0), Sequential()


class Star(SplitRule):
    """A cycle with the traffic of the paper: every rank's output goes to rank 0, which advances, and the state at the
    cycle's end comes back. A rank's own output is all it needs to walk ahead."""

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        n, team = len(x) - 1, self.team
        assert team is not None
        if n == 1:  # warm-up: every rank makes the step
            return super().sweep(b, x, ages)
        own, r = x[:0], team.rank
        if r < n:
            own = self.evaluate(torch.tensor([b + r]), x[r : r + 1], ages[r : r + 1])
            self.g = own.expand(team.size, *own.shape[1:])
        outs = team.gather(own)
        new = x[1:].clone()
        if outs is not None:
            new, self.carries = self.problem.roll(b, x, torch.cat(outs[:n]), self.carry)
        else:
            self.carries = [self.carry] * n
        new[-1] = team.broadcast(new[-1] if team.rank == 0 else None)
        return new
