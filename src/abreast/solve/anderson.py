"""Anderson mixing of Jacobi's iterates, the final prefix left alone.

Axes: m remembered rounds, n members, D entries of a member.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from abreast.core import BOUNDED, IDENTICAL, MEASURED, AbreastError, Guarantee, Method
from abreast.solve.jacobi import Jacobi
from abreast.solve.loop import Loop
from abreast.solve.rounds import check_system, solve_rounds
from abreast.workers import World


@dataclass(frozen=True)
class Anderson(Method):
    """The next iterate is that combination of the last rounds' outcomes whose changes cancel best.

    memory: rounds that are combined; 1 is Jacobi's iteration. ridge: added to the normal equations, as a share of
    their largest entry. keep_prefix: final nodes are not mixed, so that the loop's answer comes after as many rounds as
    levels at the latest; without it only a change of at most tol ends it, or max_rounds. Values must be floating point.
    Source: Song et al., 2021 (their code); Anderson, "Iterative procedures for nonlinear integral equations", 1965.
    Raises AbreastError for settings without meaning, and for discrete values.
    """

    memory: int = 5
    ridge: float = 1e-5
    keep_prefix: bool = True
    tol: float = 0.0
    max_rounds: int | None = None

    def __post_init__(self) -> None:
        if self.memory < 1 or not self.ridge > 0:
            raise AbreastError(f"Anderson needs memory >= 1 and ridge > 0, not {self.memory} and {self.ridge}.")
        if not self.keep_prefix and not self.tol > 0 and self.max_rounds is None:
            raise AbreastError("without the prefix kept Anderson may never end: give tol > 0 or max_rounds.")

    def promise(self, problem: Any) -> Guarantee:
        if self.max_rounds is not None or not self.keep_prefix:
            return MEASURED
        return IDENTICAL if self.tol <= problem.rounding else BOUNDED(self.tol)

    def run(self, problem: Any, world: World) -> Tensor:
        check_system(problem, self.tol)
        if problem.discrete:
            raise AbreastError(f"Anderson mixes floating-point values, not {problem.x0.dtype}.")
        mixing = _Mixing(self, problem.x0)
        return solve_rounds(
            problem, world, tol=self.tol, most=self.max_rounds, mixer=mixing, keep_prefix=self.keep_prefix
        )

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        exact = replace(self, keep_prefix=True, max_rounds=None)
        yield "no change let pass is the loop", replace(exact, tol=0.0), Loop()
        yield "a memory of one round is Jacobi's iteration", replace(exact, memory=1), Jacobi(tol=self.tol)


class _Mixing:
    """The last rounds of every member, and their best combination."""

    def __init__(self, method: Anderson, x0: Tensor):
        self.method, self.round = method, 0
        self.outcome = x0.new_zeros(method.memory, len(x0), x0[0].numel())
        self.change = torch.zeros_like(self.outcome)

    def __call__(self, members: Tensor, old: Tensor, new: Tensor, final: Tensor) -> Tensor:
        slot = self.round % self.method.memory
        self.round += 1
        count = min(self.round, self.method.memory)
        self.outcome[slot, members] = new.flatten(1)
        self.change[slot, members] = (new - old).flatten(1)
        open_ = ~final.view(*final.shape, *[1] * (new.dim() - 2)).expand_as(new).flatten(1)
        change, outcome = self.change[:count, members] * open_, self.outcome[:count, members]
        products = torch.einsum("and,bnd->nab", change, change)
        ridge = self.method.ridge * products.diagonal(dim1=1, dim2=2).amax(1)
        damped = products + ridge[:, None, None] * torch.eye(count, dtype=new.dtype)
        share, failed = torch.linalg.solve_ex(damped, torch.ones_like(damped[:, :, :1]))
        share = share[..., 0] / share.sum(1)
        mixed = torch.einsum("na,and->nd", share, outcome).view_as(new)
        sound = torch.isfinite(mixed).flatten(1).all(1) & (failed == 0)
        return torch.where(sound.view(-1, *[1] * (new.dim() - 1)), mixed, new)
