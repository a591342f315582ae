"""The loop that every solver of this room is: sweep the window, see what has settled, move on.

Axes: T steps, n states of the window, B batch. State b is final; a sweep makes new values of the states b + 1 .. b + n.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from math import ceil, isfinite
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from abreast.core import Kind, Lane
from abreast.solve.linearize import Linearization, Local, resolve
from abreast.solve.problem import Recurrence, check_finite
from abreast.solve.scan import affine_scan, rounds, sharded_affine_scan
from abreast.solve.window import Stop, Window

if TYPE_CHECKING:
    from abreast.workers import Team


class Rule(Protocol):
    """How a sweep makes new states from old ones."""

    x0: Tensor
    T: int
    team: Team | None
    unsure: Tensor | None  # [n] bool: states of the last sweep that cannot have settled, their step not being finite
    prefix: bool  # whether a sweep's first state is always final

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        """x [n + 1, B, *state], the states b .. b + n -> new values of the last n. ages [n]: sweeps that each position
        has had; the first, whose state is final, counts as old as can be."""

    def steps(self, b: int, x: Tensor) -> Tensor:
        """The step function itself on x [n, B, *state] as the states b, b + 1, ...: counted."""

    def commit(self, count: int) -> None:
        """The first `count` states of the last sweep are final."""


@dataclass
class Solved:
    """states [T, B, *state], or the last alone. status: "converged", or "max_sweeps" where the states after those that
    settled are the last iterate's."""

    states: Tensor
    sweeps: int
    status: str


def iterate(
    rule: Rule, window: Window, stop: Stop, lane: Lane, max_sweeps: int | None = None, keep: bool = True
) -> Generator[int, None, Solved]:
    """Solve; yields the number of final states after each sweep, and returns `Solved`. keep: all states, else the last.

    Each sweep's first state is a step from a final one, so that after k sweeps k states at least are the loop's own; a
    rule without such a prefix goes on until the whole window has settled, or a hundred sweeps for each were in vain.
    """
    T = rule.T
    most = max_sweeps or (T if rule.prefix else 100 * ceil(T / max(1, window.end(0, T))))
    moving, begin, end, age, sweeps = stop.begin(), 0, window.end(0, rule.T), 0, 0
    x = torch.cat((rule.x0[None], window.guess.fill(rule, 0, rule.x0, end)))
    ages = torch.zeros(end, dtype=torch.long)
    ages[:1] = T
    done: list[Tensor] = []
    while begin < T and sweeps < most:
        new = rule.sweep(begin, x, ages)
        sweeps, age, ages = sweeps + 1, age + 1, ages + 1
        still = moving(new, x[1:], torch.arange(begin, end, device=x.device), age).nonzero()
        count = min(int(still[0]) + 1, len(new)) if len(still) else len(new)
        if rule.unsure is not None and bool(rule.unsure.any()):
            count = min(count, max(1, int(rule.unsure.nonzero()[0])))
        if not rule.prefix and count < len(new):
            count = 0
        rule.commit(count)
        change = float((new - x[1:]).abs().max())
        begin += count
        if rule.team is None or rule.team.rank == 0:
            lane.ledger.note(lane.last, prefix=begin, **({"change": change} if isfinite(change) else {}))
        done = done if keep else []
        done.append(new[:count] if keep else new[count - 1 : count])
        rest = new[count:]
        if stop.slides or not len(rest):
            end = window.end(begin, T)
        wanted = end - begin - len(rest)
        if wanted and not len(rest):
            age = 0
        at, last = begin + len(rest), new[-1]
        fresh = window.guess.fill(rule, at, last, wanted) if wanted else new[:0]
        x = torch.cat((new[count - 1 : count] if count else x[:1], rest, fresh))
        ages = torch.cat((ages[count:], ages.new_zeros(wanted)))
        ages[:1] = T
        yield begin
    status = "converged"
    if begin < T:
        status = "max_sweeps"
        last = x[-1]
        done += [x[1:], last.expand(T - begin - len(x) + 1, *last.shape)]
    return Solved(torch.cat(done) if keep else done[-1][-1:], sweeps, status)


class LinearRule:
    """x_{i+1} <- f(i, x_i) + A_i (x_i^new - x_i): one scan. In difference form, so that what has settled stays."""

    def __init__(
        self, problem: Recurrence, linearization: Linearization, lane: Lane, team: Team | None = None,
        omega: float = 1.0,
    ):  # fmt: skip
        self.problem, self.lane, self.team, self.omega = problem, lane, team, omega
        self.linearization = resolve(linearization, problem)
        self.x0, self.T = problem.x0.detach(), problem.steps
        self.unsure: Tensor | None = None
        self.prefix = problem.explicit
        kinds = lane.ledger.kinds
        kinds.setdefault("f", problem.kind)
        kinds.setdefault("scan", Kind(unit=0.0, flops=self.linearization.combine(problem)))
        kinds.setdefault("check", Kind(unit=0.0))

    def steps(self, b: int, x: Tensor) -> Tensor:
        i = torch.arange(b, b + len(x), device=x.device)
        with self.lane.measure("f", len(x)):
            return self.problem.evaluate(i, x)

    def commit(self, count: int) -> None:
        pass

    def sweep(self, b: int, x: Tensor, ages: Tensor) -> Tensor:
        lo, hi = tile(len(x) - 1, self.team)
        local = self.local(b + lo, x[lo : hi + 1])
        sharded = hi - lo < len(x) - 1
        new = self.solve(local, x[lo + 1 : hi + 1], self.team if sharded else None)
        if lo == 0 and self.prefix:
            check_finite(local.f[0], b)
            new[0] = local.f[0]
        new = self.sane(new, local.f, x[lo + 1 : hi + 1])
        self.unsure = ~torch.isfinite(local.f).flatten(1).all(1)
        if not (sharded and self.team):
            return new
        self.unsure = torch.cat(self.team.all_gather(self.unsure))
        return torch.cat(self.team.all_gather(new))

    def local(self, b: int, x: Tensor) -> Local:
        """f and A at these states [n + 1, B, *state], the last only an end; one event, its size the evaluations and
        what A cost beside them."""
        n, problem = len(x) - 1, self.problem
        i = torch.arange(b, b + n, device=x.device)
        size = n * (1.0 + self.linearization.columns(problem))
        with self.lane.measure("f", size, memory=self._held(x[1:])):
            if problem.explicit:
                return self.linearization.at(problem, i, x[:-1])
            return problem.between(i, x, self.linearization)

    def solve(self, local: Local, old: Tensor, team: Team | None) -> Tensor:
        """old + d, d_{i+1} = A_i d_i + r_i."""
        n, family = len(old), self.linearization.family
        r = (local.f - old).view(n, old.shape[1], *self.linearization.shape(self.problem))
        if self.omega != 1.0:
            r = r * self.omega
        with self.lane.measure("scan", n, span=float(rounds(n)), memory=-self._held(old)):
            d = sharded_affine_scan(family, local.A, r, team) if team else affine_scan(family, local.A, r)
        return moved(old, d.view(old.shape), local.f)

    def _held(self, old: Tensor) -> float:
        """Bytes of A for these states."""
        return self.linearization.entries(self.problem) * old.shape[1] * len(old) * old.element_size()

    def sane(self, new: Tensor, f: Tensor, old: Tensor) -> Tensor:
        """Where the scan is not finite f, where f is not either the old state; within the bounds."""
        finite = torch.isfinite(new)
        if not bool(finite.all()):
            new = torch.where(finite, new, torch.where(torch.isfinite(f), f, old))
        if self.problem.bounds is not None:
            first = new[:1].clone()
            new = new.clamp(*self.problem.bounds)
            new[:1] = first
        return new


def moved(old: Tensor, d: Tensor, f: Tensor) -> Tensor:
    """old + d; f itself after a state that did not move, since old + (f - old) rounds."""
    new = old + d
    still = (d[:-1] == 0).flatten(2).all(2)
    new[1:] = torch.where(still.view(*still.shape, *[1] * (new.dim() - 2)), f[1:], new[1:])
    return new


def tile(n: int, team: Team | None) -> tuple[int, int]:
    """This rank's part of n steps; all of them where there are fewer than ranks."""
    if team is None or team.size == 1 or n < team.size:
        return 0, n
    return n * team.rank // team.size, n * (team.rank + 1) // team.size
