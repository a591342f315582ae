"""Blocks of a triangular system: in order within, at once between, or the other way round (Song et al., 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from abreast.core import BOUNDED, IDENTICAL, AbreastError, Guarantee, Method, meet
from abreast.solve.jacobi import Jacobi
from abreast.solve.loop import Loop
from abreast.solve.rounds import check_system, finish, moved, solve_rounds
from abreast.solve.triangular import TriangularSystem
from abreast.workers import World


@dataclass(frozen=True)
class GaussSeidel(Method):
    """Level after level, the nodes of one level at once: as many rounds as there are levels."""

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL

    def run(self, problem: TriangularSystem, world: World) -> Tensor:
        check_system(problem, 0.0)
        lane, x = world.lane(), problem.x0.clone()
        with torch.no_grad():
            for level in range(problem.L):
                nodes = problem.between(level, level + 1)
                x[:, nodes] = problem.update(lane, x, nodes)
        problem.check_finite(x)
        return x

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "levels in order are nodes in order", self, Loop()


@dataclass(frozen=True)
class GSJacobi(Method):
    """Blocks of levels in order, Jacobi's iteration inside each until it has settled.

    block: levels in a block. tol: the change that is let pass, 0 for equality. Source: Song et al., 2021.
    Raises AbreastError for a block of no level.
    """

    block: int = 8
    tol: float = 0.0

    def __post_init__(self) -> None:
        if self.block < 1:
            raise AbreastError(f"a block has at least one level, not {self.block}.")

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.tol <= problem.rounding else BOUNDED(self.tol)

    def run(self, problem: Any, world: World) -> Tensor:
        return solve_rounds(problem, world, tol=self.tol, window=self.block, slides=False)

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "blocks of one level are the loop", replace(self, block=1), Loop()
        yield "one block is Jacobi's iteration", replace(self, block=1 << 40), Jacobi(tol=self.tol)


@dataclass(frozen=True)
class JacobiGS(Method):
    """Blocks of levels all at once, each from the others' old values; inside a block level after level.

    blocks: how many, each on a lane of its own; fewer where there are fewer levels. tol: the change that is let pass.
    After k rounds the first k blocks are final. Source: Song et al., 2021. Raises AbreastError for no block.
    """

    blocks: int = 8
    tol: float = 0.0

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise AbreastError(f"there is at least one block, not {self.blocks}.")

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.tol <= problem.rounding else BOUNDED(self.tol)

    def run(self, problem: TriangularSystem, world: World) -> Tensor:
        check_system(problem, self.tol)
        parts = list(torch.arange(problem.L).tensor_split(min(self.blocks, problem.L)))
        nodes = [problem.between(int(part[0]), int(part[-1]) + 1) for part in parts]
        root, x = world.lane(), problem.x0.clone()
        lanes = [world.lane(f"block {k}") for k in range(len(parts))]
        final, taken = torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), dtype=torch.long)
        with torch.no_grad():
            while int(final.min()) < len(parts):
                members = (final < len(parts)).nonzero()[:, 0]
                old = x[members]
                for k, (lane, part) in enumerate(zip(lanes, parts)):
                    y = old.clone()
                    for level in part.tolist():
                        at = problem.between(level, level + 1)
                        y[:, at] = problem.update(lane, y, at, members)
                    fixed = (final[members] > k).view(-1, *[1] * (y.dim() - 1))
                    x[members[:, None], nodes[k]] = torch.where(fixed, old, y)[:, nodes[k]]
                meet(*lanes)
                new = x[members]
                still = torch.stack([moved(new[:, at], old[:, at], self.tol).any(1) for at in nodes], 1)
                first = torch.where(still, torch.arange(len(parts)), len(parts)).amin(1)
                final[members] = (first + 1).clamp(max=len(parts))
                taken[members] += 1
        root.wait(*lanes)
        problem.check_finite(x)
        finish(problem, x, root, taken)
        return x

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one block is the loop", replace(self, blocks=1), Loop()
        yield "a block for every level is Jacobi's iteration", replace(self, blocks=1 << 20), Jacobi(tol=self.tol)
