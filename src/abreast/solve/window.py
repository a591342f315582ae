"""Which states are unknown at once, what they are taken for at first, and when one counts as found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from abreast.core import AbreastError

if TYPE_CHECKING:
    from abreast.solve.engine import Rule


@dataclass(frozen=True)
class Guess:
    """The first values of states that enter the window."""

    def fill(self, rule: Rule, at: int, last: Tensor, n: int) -> Tensor:
        """[n, B, *state] for the states at + 1 .. at + n, `last` [B, *state] being state `at`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Hold(Guess):
    """Copies of the last state."""

    def fill(self, rule: Rule, at: int, last: Tensor, n: int) -> Tensor:
        return last.expand(n, *last.shape).clone()


@dataclass(frozen=True)
class Constant(Guess):
    """One value for every entry."""

    value: float = 0.0

    def fill(self, rule: Rule, at: int, last: Tensor, n: int) -> Tensor:
        return torch.full((n, *last.shape), self.value, dtype=last.dtype, device=last.device)


@dataclass(frozen=True)
class OneStep(Guess):
    """What a step makes of the zero state: one batched call, counted."""

    def fill(self, rule: Rule, at: int, last: Tensor, n: int) -> Tensor:
        return rule.steps(at, torch.zeros(n, *last.shape, dtype=last.dtype, device=last.device))


@dataclass(frozen=True)
class Given(Guess):
    """These states [T, B, *state]: a solution of something near."""

    states: Tensor = field(repr=False, compare=False)

    def fill(self, rule: Rule, at: int, last: Tensor, n: int) -> Tensor:
        return self.states[at : at + n].clone()


@dataclass(frozen=True)
class Window:
    """size: how many states are solved for at once, None for all. guess: what they are at first."""

    size: int | None = None
    guess: Guess = Hold()

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise AbreastError(f"a window holds at least one state, not {self.size}.")

    def end(self, begin: int, steps: int) -> int:
        """The window's last state, when it begins after state `begin`."""
        return steps if self.size is None else min(begin + self.size, steps)


Test = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Cycles(Window):
    """`warmup` single steps first, then windows of `size`."""

    warmup: int = 0

    def end(self, begin: int, steps: int) -> int:
        return min(begin + 1, steps) if begin < self.warmup else super().end(begin, steps)


@dataclass(frozen=True)
class Stop:
    """Tells the states that have not settled yet. slides: the window moves on with what has settled, else only when all
    of it has."""

    slides: ClassVar[bool] = True

    def begin(self) -> Test:
        """The test of one run: (new, old, i, age) -> [n] bool, True where the state i + 1 still moves. new and old
        [n, B, *state]; age: sweeps since the window was last refilled."""
        return self.moving

    def moving(self, new: Tensor, old: Tensor, i: Tensor, age: int) -> Tensor:
        raise NotImplementedError

    @property
    def tolerance(self) -> float:
        """The change that is let pass; 0: none."""
        return 0.0


@dataclass(frozen=True)
class Change(Stop):
    """|new - old| <= atol + rtol |new|, entry by entry. Raises AbreastError below 0."""

    atol: float = 0.0
    rtol: float = 0.0

    def __post_init__(self) -> None:
        if not (self.atol >= 0 and self.rtol >= 0):
            raise AbreastError(f"tolerances are at least 0, not atol = {self.atol}, rtol = {self.rtol}.")

    @property
    def tolerance(self) -> float:
        return self.atol + self.rtol

    def moving(self, new: Tensor, old: Tensor, i: Tensor, age: int) -> Tensor:
        if self.atol == self.rtol == 0:
            return (new != old).flatten(1).any(1)
        return ~((new - old).abs() <= self.atol + self.rtol * new.abs()).flatten(1).all(1)


@dataclass(frozen=True)
class Settled(Change):
    """`Change`, but a window is refilled only when all of it has settled."""

    slides: ClassVar[bool] = False


@dataclass(frozen=True)
class Sweeps(Stop):
    """No test: a window is taken after `count` sweeps."""

    count: int = 1
    slides: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise AbreastError(f"at least one sweep is made, not {self.count}.")

    @property
    def tolerance(self) -> float:
        return float("inf")

    def moving(self, new: Tensor, old: Tensor, i: Tensor, age: int) -> Tensor:
        return torch.full((len(new),), age < self.count, device=new.device)


@dataclass(frozen=True)
class NoiseScaled(Stop):
    """Mean squared change over the entries of a batch member at most (tolerance x scale_{i+1})^2, scale being what
    noise the step leaves; where that is 0 only a state that did not change has settled (Shih et al., 2023)."""

    tol: float
    scale: tuple[float, ...]

    @property
    def tolerance(self) -> float:
        return self.tol

    def moving(self, new: Tensor, old: Tensor, i: Tensor, age: int) -> Tensor:
        scale = torch.tensor(self.scale, dtype=torch.float64, device=new.device)[i + 1] * self.tol
        error = (new - old).flatten(2).double().pow(2).mean(-1)
        return (error > scale[:, None] ** 2).any(1)


@dataclass(frozen=True)
class Threshold(Stop):
    """Mean squared change x `scale` at most a threshold e, which follows e <- ema e + (1 - ema) error once a sweep:
    the error of the middle position ("median") or the mean one (Zhou et al., "DreamPropeller", 2024). adapt None keeps
    it fixed."""

    e: float
    ema: float = 0.9
    adapt: Literal["median", "mean"] | None = "median"
    scale: float = 1e6

    @property
    def tolerance(self) -> float:
        return float("inf") if self.adapt else self.e

    def begin(self) -> Test:
        now = self.e

        def moving(new: Tensor, old: Tensor, i: Tensor, age: int) -> Tensor:
            nonlocal now
            error = (new - old).flatten(1).double().pow(2).mean(1) * self.scale
            above = error > now
            if self.adapt:
                seen = error[len(error) // 2] if self.adapt == "median" else error.mean()
                now = self.ema * now + (1 - self.ema) * float(seen)
            return above

        return moving
