"""Equations that can be solved from the first unknown to the last: x_j = f_j(x_<j), all nodes j evaluated at once.

Axes: B members, n of them evaluated, N nodes, k of them evaluated, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from abreast.core import AbreastError, Lane, Method, Problem, Run

Draw = Callable[[torch.Generator, Sequence[int]], Tensor]


@dataclass(frozen=True)
class TriangularSystem(Problem[Tensor]):
    """x_j = f_j(x_<j) for all nodes j; the answer is x, [B, N, *node].

    f: (x [n, N, *node], *given) -> x' of the same shape: all nodes from all old values, a member's row by itself.
    x0 [B, N, *node]: the first iterate; integers, truth values or floating point. levels [N]: a node depends on nodes
    of lower levels only; where not given, node j on all before it. given: tensors [B, ...] that belong to the members
    (random numbers drawn beforehand, inputs); f is handed the rows of those that it evaluates. part: (x, nodes
    LongTensor [k], *given) -> [n, k, *node], those nodes alone, where that costs less than all of them. There is no
    gradient through the solution.

    The unit of work is one node of one member; without `part` every evaluation costs all N.
    Source: Song, Meng, Liao, Ermon, "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving",
    ICML 2021. Raises AbreastError where shapes do not fit, or f changes them.
    """

    f: Callable[..., Tensor] = field(repr=False, compare=False)
    x0: Tensor = field(repr=False, compare=False)
    levels: Any = field(default=None, repr=False, compare=False)
    given: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)
    part: Callable[..., Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        x0 = self.x0
        if not isinstance(x0, Tensor) or x0.dim() < 2 or 0 in x0.shape:
            shape = list(x0.shape) if isinstance(x0, Tensor) else type(x0).__name__
            raise AbreastError(f"x0 is a tensor [members, nodes, *node], not {shape}.")
        levels = torch.arange(self.N) if self.levels is None else torch.as_tensor(self.levels).cpu()
        if levels.shape != (self.N,) or levels.is_floating_point():
            raise AbreastError(f"levels are {self.N} integers, one for each node, not {list(levels.shape)}.")
        object.__setattr__(self, "levels", torch.unique(levels, return_inverse=True)[1])
        for k, rows in enumerate(self.given):
            if not isinstance(rows, Tensor) or rows.dim() < 1 or len(rows) != len(x0):
                raise AbreastError(f"given[{k}] must have a row for each of the {len(x0)} members.")
        with torch.no_grad():
            self._check(self.f(x0, *self.given), x0)

    @classmethod
    def from_callable(
        cls, f: Callable[..., Tensor], x0: Tensor, order: Sequence[int] | None = None, given: tuple[Tensor, ...] = ()
    ) -> TriangularSystem:
        """The system of any f. order: the nodes in the order in which they can be found, else as they stand. Raises
        AbreastError where that is no permutation of them."""
        if order is None:
            return cls(f, x0, None, given)
        places = torch.as_tensor(order)
        if sorted(places.tolist()) != list(range(x0.shape[1])):
            raise AbreastError(f"an order names each of the {x0.shape[1]} nodes once.")
        return cls(f, x0, torch.argsort(places), given)

    @property
    def N(self) -> int:
        """Nodes."""
        return self.x0.shape[1]

    @cached_property
    def L(self) -> int:
        """Levels."""
        return int(self.levels.max()) + 1

    @cached_property
    def order(self) -> Tensor:
        """The nodes by level."""
        return torch.argsort(self.levels, stable=True)

    @cached_property
    def _starts(self) -> list[int]:
        counts = torch.bincount(self.levels, minlength=self.L)
        return [0, *counts.cumsum(0).tolist()]

    def between(self, lo: int, hi: int) -> Tensor:
        """The nodes of the levels lo .. hi - 1."""
        return self.order[self._starts[lo] : self._starts[hi]]

    @property
    def discrete(self) -> bool:
        """Whether values are equal or not, with nothing between."""
        return not self.x0.is_floating_point()

    @property
    def reference(self) -> Method:
        from abreast.solve.loop import Loop

        return Loop()

    @property
    def rounding(self) -> float:  # type: ignore[override]
        """Reordered sums are forgiven some thousand units of the type's precision."""
        return 0.0 if self.discrete else 1e4 * torch.finfo(self.x0.dtype).eps

    def distance(self, value: Tensor, reference: Tensor) -> float:
        """Of floating-point values the largest difference, by the reference's largest entry where that exceeds 1; else
        the share of entries that differ."""
        if self.discrete:
            return float((value != reference).double().mean())
        scale = max(1.0, float(reference.abs().max()))
        return float((value - reference).abs().max()) / scale

    def residual(self, value: Tensor) -> float:
        """max |f(x) - x|: 0 for the solution. Of discrete values the share of nodes that f would change."""
        with torch.no_grad():
            again = self.f(value, *self.given)
        if self.discrete:
            return float((again != value).double().mean())
        return float((again - value).abs().max())

    def keeps(self, run: Run[Tensor], tolerance: float) -> bool:
        """A bound is one on the residual; identity is held against the reference."""
        if tolerance > 0:
            return self.residual(run.value) <= max(tolerance, self.rounding)
        return run.distance is not None and run.distance <= self.rounding

    def columns(self, run: Run[Tensor]) -> Mapping[str, Any]:
        """rounds of the whole batch (dependent evaluations); mean_rounds of a member, a finished one being left out of
        the others' rounds; the residual."""
        facts: dict[str, Any] = {"rounds": run.ledger.longest("f")}
        for name in ("mean_rounds", "residual"):
            found = run.ledger.series(name)
            if found:
                facts[name] = found[-1]
        return facts

    def update(self, lane: Lane, x: Tensor, nodes: Tensor, members: Tensor | None = None) -> Tensor:
        """New values [n, k, *node] of some nodes, from x [n, N, *node] of some members (None: all): one event."""
        given = self.given if members is None else tuple(rows[members] for rows in self.given)
        whole = len(nodes) == self.N
        computed = self.N if self.part is None or whole else len(nodes)
        with lane.measure("f", float(computed * len(x))):
            new = self.f(x, *given)[:, nodes] if whole or self.part is None else self.part(x, nodes, *given)
        self._check(new, x[:, nodes])
        return new

    def unroll(self, lane: Lane) -> Tensor:
        """One node after the other."""
        x = self.x0.clone()
        with torch.no_grad():
            for node in self.order.split(1):
                x[:, node] = self.update(lane, x, node)
        self.check_finite(x)
        return x

    def check_finite(self, x: Tensor) -> None:
        """Raise AbreastError, naming the first such node, where a value is not finite."""
        if not self.discrete and not bool(torch.isfinite(x).all()):
            bad = (~torch.isfinite(x[:, self.order])).reshape(*x.shape[:2], -1).any(2).any(0)
            node = int(self.order[int(bad.nonzero()[0])])
            raise AbreastError(f"f gave a value that is not finite at node {node}.")

    def check_triangular(self, draw: Draw | None = None, samples: int = 2, seed: int = 0) -> None:
        """Raise AbreastError, naming two nodes, where f at a node changes with one of its own level or a later one.

        Changes the nodes of each level to values drawn anew and looks at all that may not notice: twice as many
        evaluations as there are levels, for each of `samples`. draw: (generator, shape) -> values; normal numbers, or
        zeros and ones where values are discrete.
        """
        generator = torch.Generator().manual_seed(seed)
        x0 = self.x0
        draw = draw or _zero_one if self.discrete else draw or _normal
        with torch.no_grad():
            for _ in range(samples):
                x = draw(generator, x0.shape).to(x0.dtype)
                for level in range(self.L):
                    nodes, changed = self.between(level, level + 1), x.clone()
                    changed[:, nodes] = draw(generator, changed[:, nodes].shape).to(x0.dtype)
                    if self.discrete:
                        changed[:, nodes] = torch.where(x[:, nodes] == changed[:, nodes], 1 - x[:, nodes].long(),
                                                        changed[:, nodes].long()).to(x0.dtype)  # fmt: skip
                    before, after = self.f(x, *self.given), self.f(changed, *self.given)
                    noticed = (before != after).reshape(*x.shape[:2], -1).any(2).any(0) & (self.levels <= level)
                    if bool(noticed.any()):
                        raise AbreastError(
                            f"f is not triangular: node {int(noticed.nonzero()[0])} changes with node "
                            f"{int(nodes[0])}, which does not come before it."
                        )

    def _check(self, new: Any, old: Tensor) -> None:
        if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
            found = f"{list(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
            raise AbreastError(f"f keeps shape and type: of {list(old.shape)} {old.dtype} it made {found}.")


def _normal(generator: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _zero_one(generator: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.randint(0, 2, tuple(shape), generator=generator)
