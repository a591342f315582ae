"""A recurrence whose step is an expensive evaluation, which can be made for many states at once, and a cheap advance,
which cannot: a denoiser and its scheduler, a gradient and its optimiser.

Axes: n states evaluated at once, B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abreast.core import Kind, Lane
from abreast.solve.engine import tile
from abreast.solve.problem import check_finite
from abreast.solve.window import Guess

if TYPE_CHECKING:
    from abreast.workers import Team

Evaluate = Callable[[Tensor, Tensor, Tensor], Tensor]


class SplitRecurrence:
    """x_{i+1}, carry_{i+1} = advance(i, x_i, evaluate(i, x_i), carry_i). Subclasses write these three.

    x0 [B, *state]; T steps; carry0: the advance's own state (a scheduler's history, an optimiser's moments). There is
    no gradient through it.
    """

    x0: Tensor
    T: int
    carry0: Any = None

    def evaluate(self, i: Tensor, x: Tensor, ages: Tensor) -> Tensor:
        """g [n, B, ...] of the steps i [n] at x [n, B, *state]; ages [n]: sweeps that each position has had."""
        raise NotImplementedError

    def advance(self, i: int, x: Tensor, g: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """The next state [B, *state] and carry; `carry` itself is left as it was."""
        raise NotImplementedError

    def roll(self, b: int, x: Tensor, g: Tensor, carry: Any) -> tuple[Tensor, list[Any]]:
        """New states b + 1 .. b + n from x [n + 1, B, *state] and g [n, ...], and the carry after each."""
        y, states, carries = x[0], [], []
        for k in range(len(g)):
            y, carry = self.advance(b + k, y, g[k], carry)
            states.append(y)
            carries.append(carry)
        return torch.stack(states), carries

    def on(self, lane: Lane) -> Evaluate:
        """`evaluate`, recorded on a lane: one event "f" of n rows."""

        def evaluate(i: Tensor, x: Tensor, ages: Tensor) -> Tensor:
            with lane.measure("f", len(x)):
                return self.evaluate(i, x, ages)

        return evaluate


class SplitRule:
    """Evaluate at the old states, all at once; then advance from the last final one with what came out.

    With a team each rank evaluates its part of the window, and everyone advances.
    """

    def __init__(self, problem: SplitRecurrence, lane: Lane, team: Team | None = None):
        self.problem, self.lane, self.team = problem, lane, team
        self.x0, self.T, self.carry = problem.x0, problem.T, problem.carry0
        self.evaluate = problem.on(lane)
        self.i, self.x = torch.zeros(0, dtype=torch.long), problem.x0[:0]
        self.g: Tensor | None = None  # [n, B, ...] of the last sweep, at the steps i
        self.carries: list[Any] = []
        self.unsure: Tensor | None = None
        self.prefix = True
        lane.ledger.kinds.setdefault("advance", Kind(unit=0.0))

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        g = self.evaluated(b, x, ages)
        new, self.carries = self.problem.roll(b, x, g, self.carry)
        self.lane.ledger.note(self.lane.last, advances=len(g))
        return new

    def evaluated(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        """g [n, B, ...] at the first n of x [n + 1, B, *state], each rank's part by itself."""
        n = len(x) - 1
        i, (lo, hi) = torch.arange(b, b + n, device=x.device), tile(n, self.team)
        g = self.evaluate(i[lo:hi], x[lo:hi], ages[lo:hi])
        if hi - lo < n and self.team:
            g = torch.cat(self.team.all_gather(g))
        check_finite(g[0], b)
        self.i, self.x, self.g = i, x[:-1], g
        return g

    def commit(self, count: int) -> None:
        self.carry = self.carries[count - 1]
        self.carries = self.carries[count:]

    def newest_carry(self) -> Any:
        """The carry at the newest state: the last that the last sweep rolled, or the committed one."""
        return self.carries[-1] if self.carries else self.carry

    def steps(self, b: int, x: Tensor) -> Tensor:
        raise NotImplementedError("a split recurrence has no step without its carry.")


@dataclass(frozen=True)
class ReuseLast(Guess):
    """Walk ahead with the newest evaluation there is; `Hold` before the first."""

    def fill(self, rule: Any, at: int, last: Tensor, n: int) -> Tensor:
        if rule.g is None:
            return last.expand(n, *last.shape).clone()
        return walk(rule, at, last, rule.g[-1], n)


@dataclass(frozen=True)
class ReuseOwn(Guess):
    """The r-th state ahead by r steps with what position r of the last window evaluated (Wang et al., "ParaStep",
    2025); `Hold` before the first."""

    def fill(self, rule: Any, at: int, last: Tensor, n: int) -> Tensor:
        if rule.g is None:
            return last.expand(n, *last.shape).clone()
        own = [rule.g[min(r, len(rule.g) - 1)] for r in range(1, n + 1)]
        return torch.stack([walk(rule, at, last, own[r - 1], r)[-1] for r in range(1, n + 1)])


def walk(rule: SplitRule, at: int, last: Tensor, g: Tensor, n: int) -> Tensor:
    """n states after state `at`, all advanced with one evaluation g. Where the window slides the carry at `at` is the
    one that the last sweep rolled."""
    y, states, carry = last, [], rule.newest_carry()
    for k in range(n):
        y, carry = rule.problem.advance(at + k, y, g, carry)
        states.append(y)
    return torch.stack(states)
