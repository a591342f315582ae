"""What stands for the Jacobian in a sweep; the methods of this room differ in little else.

Axes: n steps, B batch, d state entries (flattened), m entries of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap

from abreast.core import AbreastError
from abreast.core.noise import uniform
from abreast.solve.operators import BLOCKS, DENSE, DIAGONAL, IDENTITY, ZERO, Family
from abreast.solve.problem import Recurrence

COLUMNS = 1 << 26  # entries of tangents at once, so that a Jacobian by columns does not hold d copies of everything


class Local(NamedTuple):
    """f at the old states, and A there."""

    f: Tensor  # [n, B, *state]
    A: Tensor | None  # None where the family has only one


@dataclass(frozen=True)
class Linearization:
    """A family of matrices, and how one is found for each step."""

    family: ClassVar[Family] = ZERO

    def shape(self, problem: Recurrence) -> tuple[int, ...]:
        """The state's axes as the family wants them."""
        return tuple(problem.x0.shape[1:])

    def entries(self, problem: Recurrence) -> int:
        """Numbers that A holds for each step and batch member."""
        return 0

    def combine(self, problem: Recurrence) -> float:
        """Floating-point operations of joining two elements of the scan."""
        return self.family.flops(problem.x0.shape[0], self.shape(problem))

    def columns(self, problem: Recurrence) -> float:
        """How many evaluations A costs beside f: 1 for a formula, one for every column else."""
        return 0.0

    def exact(self, problem: Recurrence) -> bool:
        """Whether A is the Jacobian itself."""
        return False

    def at(self, problem: Recurrence, i: Tensor, x: Tensor) -> Local:
        """f and A at x [n, B, *state] of the steps i [n]."""
        return Local(problem.evaluate(i, x), None)


@dataclass(frozen=True)
class Zero(Linearization):
    """A = 0: Jacobi's iteration."""


@dataclass(frozen=True)
class Identity(Linearization):
    """A = I: Picard's iteration, a sum of what each step adds."""

    family: ClassVar[Family] = IDENTITY


@dataclass(frozen=True)
class Scalar(Linearization):
    """A = a_i I, given for each step: of a semi-linear recurrence its linear part. a: [T]."""

    a: tuple[float, ...] = ()
    family: ClassVar[Family] = DIAGONAL

    def at(self, problem: Recurrence, i: Tensor, x: Tensor) -> Local:
        if len(self.a) != problem.steps:
            raise AbreastError(f"Scalar has {len(self.a)} factors for {problem.steps} steps.")
        a = torch.tensor(self.a, dtype=x.dtype, device=x.device)[i]
        return Local(problem.evaluate(i, x), a.view(-1, *[1] * (x.dim() - 1)).expand_as(x))


@dataclass(frozen=True)
class Diagonal(Linearization):
    """The Jacobian's diagonal (quasi-DEER). probes: None takes the true one (a formula where there is one, else a
    column for each state entry); a number estimates it by that many products with random signs (Bekas et al., 2007)."""

    probes: int | None = None
    family: ClassVar[Family] = DIAGONAL

    def entries(self, problem: Recurrence) -> int:
        return problem.x0[0].numel()

    def columns(self, problem: Recurrence) -> float:
        if problem.structure == "diagonal":
            return 1.0
        return float(self.probes) if self.probes is not None else _dense_columns(problem)

    def exact(self, problem: Recurrence) -> bool:
        return problem.structure == "diagonal"

    def at(self, problem: Recurrence, i: Tensor, x: Tensor) -> Local:
        if problem.structure == "diagonal":
            if problem.jacobian is not None:
                return Local(*problem.jacobian(i, x))
            return Local(*product(problem, i, x, torch.ones_like(x)))
        if self.probes is not None:
            return _probed(problem, i, x, self.probes)
        f, A = _dense(problem, i, x)
        assert A is not None
        return Local(f, A.diagonal(dim1=-2, dim2=-1).reshape(x.shape))


@dataclass(frozen=True)
class BlockDiagonal(Linearization):
    """Blocks over the last axis of the state: the Jacobian itself where the recurrence has that structure."""

    family: ClassVar[Family] = BLOCKS

    def entries(self, problem: Recurrence) -> int:
        return problem.x0[0].numel() * problem.x0.shape[-1]

    def columns(self, problem: Recurrence) -> float:
        by_formula = problem.structure == "blocks" and problem.jacobian is not None
        return 1.0 if by_formula else float(problem.x0.shape[-1])

    def exact(self, problem: Recurrence) -> bool:
        return problem.structure == "blocks"

    def at(self, problem: Recurrence, i: Tensor, x: Tensor) -> Local:
        if problem.structure == "blocks" and problem.jacobian is not None:
            return Local(*problem.jacobian(i, x))
        m = x.shape[-1]
        columns = [
            product(problem, i, x, torch.eye(m, dtype=x.dtype, device=x.device)[k].expand_as(x)) for k in range(m)
        ]
        return Local(columns[0][0], torch.stack([column for _, column in columns], -1))


@dataclass(frozen=True)
class Dense(Linearization):
    """The whole Jacobian: Newton's method."""

    family: ClassVar[Family] = DENSE

    def shape(self, problem: Recurrence) -> tuple[int, ...]:
        return (problem.x0[0].numel(),)

    def entries(self, problem: Recurrence) -> int:
        return problem.x0[0].numel() ** 2

    def columns(self, problem: Recurrence) -> float:
        return _dense_columns(problem)

    def exact(self, problem: Recurrence) -> bool:
        return True

    def at(self, problem: Recurrence, i: Tensor, x: Tensor) -> Local:
        return _dense(problem, i, x)


@dataclass(frozen=True)
class Auto(Linearization):
    """The cheapest that is the Jacobian itself: by the recurrence's own structure, else dense."""

    def at(self, problem: Recurrence, i: Tensor, x: Tensor) -> Local:
        raise AssertionError("Auto is resolved before the first sweep.")


def resolve(linearization: Linearization, problem: Recurrence) -> Linearization:
    """Auto as what it means for this recurrence."""
    if not isinstance(linearization, Auto):
        return linearization
    return {"dense": Dense(), "diagonal": Diagonal(), "blocks": BlockDiagonal()}[problem.structure]


def product(problem: Recurrence, i: Tensor, x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """f and J v, rows by themselves: one forward-mode product for all steps and members."""
    f, pushed = jvp(lambda y: problem.evaluate(i, y), (x,), (tangent,))[:2]
    return f, pushed


def _probed(problem: Recurrence, i: Tensor, x: Tensor, probes: int) -> Local:
    rows = x[0].numel()
    total, f = torch.zeros_like(x), x
    for k in range(probes):
        u = uniform(0, "probe", i.cpu().numpy(), k, n=rows)
        signs = torch.from_numpy(u > 0.5).to(x.device, x.dtype).mul_(2).sub_(1).view(x.shape)
        f, Jz = product(problem, i, x, signs)
        total += signs * Jz
    return Local(f, total / probes)


def _dense_columns(problem: Recurrence) -> float:
    by_formula = problem.structure == "dense" and problem.jacobian is not None
    return 1.0 if by_formula else float(problem.x0[0].numel())


def _dense(problem: Recurrence, i: Tensor, x: Tensor) -> Local:
    """By formula, or by columns: the tangent e_k on every row at once gives column k of every row's Jacobian."""
    n, B = x.shape[:2]
    d = x[0, 0].numel()
    if problem.structure == "dense" and problem.jacobian is not None:
        f, A = problem.jacobian(i, x)
        return Local(f, A.view(n, B, d, d))
    basis = torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, 1, *x.shape[2:])
    f = problem.evaluate(i, x)
    columns = []
    for part in basis.split(max(1, COLUMNS // max(x.numel(), 1))):
        tangents = part.expand(-1, *x.shape)
        columns.append(vmap(lambda t: product(problem, i, x, t)[1])(tangents))
    A = torch.cat(columns).flatten(3) if x.dim() > 3 else torch.cat(columns)
    return Local(f, A.reshape(d, n, B, d).permute(1, 2, 3, 0))


def transposed(family: Family, A: Tensor | None) -> Tensor | None:
    """A^T."""
    return None if A is None else family.transpose(A)
