"""The shapes that a Jacobian's stand-in can have, and their products.

Each family says how A acts on a state, how two follow one another, and has a fused pass over a chain (`kernels`).
Axes: n steps, B batch, d state entries, m entries of a block.
"""

from __future__ import annotations

from math import prod

import torch

from abreast.solve import kernels


class Family:
    """Linear maps of one shape. State tensors are [*, *state]."""

    name = ""

    def apply(self, A: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A x, elementwise over leading axes."""
        raise NotImplementedError

    def product(self, later: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        """later o earlier."""
        raise NotImplementedError

    def transpose(self, A: torch.Tensor) -> torch.Tensor:
        return A

    def flops(self, batch: int, state: tuple[int, ...]) -> float:
        """Floating-point operations of (later o earlier) with what is added."""
        return float(batch * prod(state))

    def flat(self, A: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A and b as the fused passes take them: [n, L, m, m] and [n, L, m], or [n, L] both."""
        raise NotImplementedError

    def serial(self, A: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
        """d_{i+1} = A_i d_i + b_i from d_0 = 0 by a fused pass; None where none runs on these."""
        out = kernels.chain(*self.flat(A, b))
        return None if out is None else out.view(b.shape)

    def total(self, A: torch.Tensor | None, b: torch.Tensor) -> torch.Tensor | None:
        """The product of all A, the last leftmost, by halving."""
        if A is None:
            return None
        while len(A) > 1:
            n = len(A)
            pairs = self.product(A[1::2], A[: n - 1 : 2])
            A = torch.cat((pairs, A[-1:])) if n % 2 else pairs
        return A[0]

    def free(self, b: torch.Tensor, start: torch.Tensor | None, reverse: bool) -> torch.Tensor:
        """The chain of a family whose A is always the same and therefore not given."""
        raise NotImplementedError

    def through(self, start: torch.Tensor) -> torch.Tensor:
        """What that A makes of a state."""
        raise NotImplementedError


class _Zero(Family):
    name = "zero"

    def free(self, b: torch.Tensor, start: torch.Tensor | None, reverse: bool) -> torch.Tensor:
        return b.clone()

    def through(self, start: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(start)


class _Identity(Family):
    name = "identity"

    def free(self, b: torch.Tensor, start: torch.Tensor | None, reverse: bool) -> torch.Tensor:
        sums = b.flip(0).cumsum(0).flip(0) if reverse else b.cumsum(0)
        return sums if start is None else sums + start

    def through(self, start: torch.Tensor) -> torch.Tensor:
        return start


class _Diagonal(Family):
    """A [*, *state], or broadcast to it."""

    name = "diagonal"

    def apply(self, A: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return A * x

    def product(self, later: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        return later * earlier

    def flops(self, batch: int, state: tuple[int, ...]) -> float:
        return 3.0 * batch * prod(state)

    def flat(self, A: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(b)
        return A.expand_as(b).reshape(n, -1), b.reshape(n, -1)


class _Dense(Family):
    """A [*, d, d] on states flattened to d; state axes beyond the first are flattened by the caller."""

    name = "dense"

    def apply(self, A: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (A @ x[..., None])[..., 0]

    def product(self, later: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        return later @ earlier

    def transpose(self, A: torch.Tensor) -> torch.Tensor:
        return A.transpose(-1, -2)

    def flops(self, batch: int, state: tuple[int, ...]) -> float:
        return 2.0 * batch * prod(state) * state[-1] * (state[-1] + 1)

    def flat(self, A: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n, d = len(b), b.shape[-1]
        return A.reshape(n, -1, d, d), b.reshape(n, -1, d)


ZERO, IDENTITY, DIAGONAL, DENSE = _Zero(), _Identity(), _Diagonal(), _Dense()
BLOCKS = DENSE  # a block-diagonal A is dense in its last axis, with one more axis of channels before it
