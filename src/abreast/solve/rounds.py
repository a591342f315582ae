"""Rounds of simultaneous updates of a triangular system, until nothing moves.

Axes: B members, n of them not finished, N nodes, k of them in this round. A member's prefix is the number of levels
that are final in it: those that did not move, and the first that did, whose new value came from final ones.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol

import torch
from torch import Tensor

from abreast.core import AbreastError, Kind, Lane
from abreast.core.problem import exhaust
from abreast.solve.triangular import TriangularSystem
from abreast.workers import World


class Mixer(Protocol):
    """What the next iterate is made of, beside the newest values."""

    def __call__(self, members: Tensor, old: Tensor, new: Tensor, final: Tensor) -> Tensor:
        """Old and new values [n, N, *node] of these members, final [n, N] -> the next iterate, whose final nodes are
        not looked at."""


def settle(
    system: TriangularSystem, lane: Lane, tol: float = 0.0, window: int | None = None, slides: bool = True,
    most: int | None = None, mixer: Mixer | None = None, keep_prefix: bool = True,
) -> Generator[int, None, Tensor]:  # fmt: skip
    """Solve; yields after each round the number of levels that are final in all members, and returns x [B, N, *node].

    window: levels updated at once, moving on with what is final (slides) or when all of it is; None: every node, every
    round. A finished member is left out of further rounds. keep_prefix: final nodes stay as they are; else a member is
    final all at once, when nothing in it moves. A value that is not finite and not final is not taken.
    """
    x, L, own = system.x0.clone(), system.L, system.levels
    prefix, taken = torch.zeros(len(x), dtype=torch.long), torch.zeros(len(x), dtype=torch.long)
    lo, hi, rounds = 0, min(window or L, L), 0
    while int(prefix.min()) < L and (most is None or rounds < most):
        if window is not None and (slides or int(prefix.min()) >= hi):
            lo = int(prefix.min())
            hi = min(lo + window, L)
        members, nodes = (prefix < hi).nonzero()[:, 0], system.between(lo, hi)
        rows = x[members]
        old, new = rows[:, nodes], system.update(lane, rows, nodes, members)
        level = own[nodes][None]
        new = torch.where(_like(level < prefix[members, None], new), old, new)
        first = torch.where(moved(new, old, tol), level, hi).amin(1)
        new = _finite(system, old, new, level <= first[:, None], nodes)
        prefix[members] = (first + 1).clamp(max=hi) if keep_prefix else torch.where(first < hi, 0, hi)
        taken[members] += 1
        rounds += 1
        if mixer is not None:
            final = level < prefix[members, None]
            new = torch.where(_like(final, new), new, mixer(members, old, new, final))
        x[members[:, None], nodes] = new
        lane.ledger.note(lane.last, prefix=int(prefix.min()), members=len(members))
        yield int(prefix.min())
    finish(system, x, lane, taken)
    return x


def finish(system: TriangularSystem, x: Tensor, lane: Lane, taken: Tensor) -> None:
    """Say how it ended: rounds that a member took, and the residual."""
    lane.ledger.kinds.setdefault("check", Kind(unit=0.0))
    lane.add("check", float(system.N * len(x)), span=0.0)
    lane.ledger.note(lane.last, residual=system.residual(x), mean_rounds=float(taken.double().mean()))


def solve_rounds(problem: Any, world: World, **settings: Any) -> Tensor:
    """`settle` to its end, on the world's root lane. Raises AbreastError for another kind of problem."""
    check_system(problem, settings.get("tol", 0.0))
    with torch.no_grad():
        return exhaust(settle(problem, world.lane(), **settings))


def check_system(problem: Any, tol: float) -> None:
    """Raise AbreastError where this is no triangular system, or its values have nothing between equal and not."""
    if not isinstance(problem, TriangularSystem):
        raise AbreastError(f"a TriangularSystem is wanted, not a {type(problem).__name__}.")
    if not tol >= 0:
        raise AbreastError(f"a tolerance is at least 0, not {tol}.")
    if problem.discrete and tol:
        raise AbreastError(f"values of {problem.x0.dtype} are equal or not: tol must be 0, not {tol:g}.")


def moved(new: Tensor, old: Tensor, tol: float) -> Tensor:
    """[n, k]: whether any entry of a node changed by more than tol; what is not a number always has."""
    settled = new == old if tol == 0 else (new - old).abs() <= tol
    return ~settled.reshape(*settled.shape[:2], -1).all(2)


def _finite(system: TriangularSystem, old: Tensor, new: Tensor, final: Tensor, nodes: Tensor) -> Tensor:
    """`new` with old values where it is not finite, since 0 x infinity would reach every node from there; in a node
    that depends on final ones only (final [n, k]) AbreastError."""
    if system.discrete:
        return new
    finite = torch.isfinite(new)
    if bool(finite.all()):
        return new
    bad = ((~finite).reshape(*finite.shape[:2], -1).any(2) & final).any(0)
    if bool(bad.any()):
        raise AbreastError(f"f gave a value that is not finite at node {int(nodes[int(bad.nonzero()[0])])}.")
    return torch.where(finite, new, old)


def _like(mask: Tensor, values: Tensor) -> Tensor:
    """A mask [n, k] with the axes of values [n, k, *node]."""
    return mask.view(*mask.shape, *[1] * (values.dim() - 2))
