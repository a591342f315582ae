"""Associative scans: all prefixes of a chain in a logarithmic number of rounds.

Axes: n steps (first), then batch and state axes. An affine chain d_{i+1} = A_i d_i + b_i is scanned for A dense
[n, *, d, d], block diagonal [n, *, d, m, m] or diagonal [n, *, d]; `operators` has the products.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from abreast.core import AbreastError

if TYPE_CHECKING:
    from abreast.solve.operators import Family
    from abreast.workers import Team

Tree = TypeVar("Tree")


def rounds(n: int) -> int:
    """Dependent combinations on the way to the last prefix of n elements."""
    return ceil(log2(n)) if n > 1 else 0


def associative_scan(combine: Callable[[Any, Any], Any], elems: Tree, dim: int = 0, reverse: bool = False) -> Tree:
    """All prefixes of `elems`, a pytree of tensors with n elements along `dim`: out_i = e_0 * e_1 * ... * e_i.

    combine(earlier, later) -> both as one; associative, on trees like `elems`, the scanned axis first. reverse: from
    the end, out_i = e_{n-1} * ... * e_i. Work-efficient (pairs, then the odd places: at most 2 n combinations in
    2 log2 n rounds) and differentiable. Raises AbreastError where leaves disagree about n.
    """
    leaves, spec = tree_flatten(elems)
    lengths = {leaf.shape[dim] for leaf in leaves}
    if len(lengths) != 1:
        raise AbreastError(f"the leaves of a scan must have the same length, not {sorted(lengths)}.")
    moved = [leaf.movedim(dim, 0) for leaf in leaves]
    moved = [leaf.flip(0) for leaf in moved] if reverse else moved

    def joined(earlier: list[torch.Tensor], later: list[torch.Tensor]) -> list[torch.Tensor]:
        return tree_flatten(combine(tree_unflatten(earlier, spec), tree_unflatten(later, spec)))[0]

    out = _scan(joined, moved)
    out = [leaf.flip(0) for leaf in out] if reverse else out
    return tree_unflatten([leaf.movedim(0, dim) for leaf in out], spec)


Leaves = list[torch.Tensor]


def _scan(joined: Callable[[Leaves, Leaves], Leaves], elems: Leaves) -> Leaves:
    """Scan pairs of neighbours, which gives every second prefix; one more combination gives those between."""
    n = len(elems[0])
    if n < 2:
        return elems
    odd = _scan(joined, joined([e[: n - 1 : 2] for e in elems], [e[1::2] for e in elems]))
    first = [e[:1] for e in elems]
    if n == 2:
        return [torch.cat(pair) for pair in zip(first, odd)]
    inner = joined([o[: (n - 1) // 2] for o in odd], [e[2::2] for e in elems])
    return [_interleave(torch.cat((f, i)), o) for f, i, o in zip(first, inner, odd)]


def _interleave(even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
    pairs = torch.stack((even[: len(odd)], odd), 1).flatten(0, 1)
    return torch.cat((pairs, even[len(odd) :]))


def affine_scan(
    family: Family, A: torch.Tensor | None, b: torch.Tensor, start: torch.Tensor | None = None,
    reverse: bool = False, parallel: bool = False,
) -> torch.Tensor:  # fmt: skip
    """d_1 .. d_n of d_{i+1} = A_i d_i + b_i with d_0 = `start` (zero where not given); b [n, *state].

    reverse: from the end, d_i = A_i d_{i+1} + b_i, all n of them. A fused pass is taken where there is one (on a CPU n
    matrix-vector products in order touch less memory than products of matrices do), else, where gradients are wanted,
    and if `parallel`, the scan; both give the same up to rounding.
    """
    if A is None:
        return family.free(b, start, reverse)
    if reverse:
        return affine_scan(family, A.flip(0), b.flip(0), start, parallel=parallel).flip(0)
    if start is not None:
        b = torch.cat(((family.apply(A[0], start) + b[0])[None], b[1:]))
    if not (parallel or A.requires_grad or b.requires_grad):
        fused = family.serial(A, b)
        if fused is not None:
            return fused

    def then(earlier: tuple[Any, Any], later: tuple[Any, Any]) -> tuple[Any, Any]:
        return family.product(later[0], earlier[0]), family.apply(later[0], earlier[1]) + later[1]

    return associative_scan(then, (A, b))[1]


def sharded_affine_scan(family: Family, A: torch.Tensor | None, b: torch.Tensor, team: Team) -> torch.Tensor:
    """This rank's part of the scan over all ranks' steps, in rank order: d_0 = 0 before rank 0's first.

    Each rank scans its own tile; one (A, b) a rank is gathered; the state before the tile is folded in.
    """
    local = affine_scan(family, A, b)
    if team.size == 1:
        return local
    whole = family.total(A, b)
    ends = team.all_gather(local[-1])
    products = team.all_gather(whole) if whole is not None else [None] * team.size
    start = torch.zeros_like(ends[0])
    for product, end in zip(products[: team.rank], ends[: team.rank]):
        start = end + (family.apply(product, start) if product is not None else family.through(start))
    return affine_scan(family, A, b, start) if team.rank else local
