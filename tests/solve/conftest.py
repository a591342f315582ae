"""Random recurrences for the tests of this room."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from abreast import solve

KINDS = {"gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell, "rnn": torch.nn.RNNCell}


def cell_sequence(kind: str, T: int, batch: int = 2, width: int = 3, seed: int = 0, gain: float = 1.0) -> Any:
    """A torch cell over random inputs, float64."""
    torch.manual_seed(seed)
    cell = KINDS[kind](2, width).double()
    with torch.no_grad():
        cell.weight_hh.mul_(gain)
    return solve.CellSequence(cell, torch.randn(T, batch, 2, dtype=torch.float64))


def plain(T: int, batch: int = 2, d: int = 3, seed: int = 0, gain: float = 1.0, **facts: Any) -> Any:
    """x' = softsign(W x + u_i) by sums, products and a quotient, so that a row's bits do not depend on the batch (the
    hyperbolic tangent of a vector register differs from that of a single number)."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(d, d, generator=generator, dtype=torch.float64) * gain / d**0.5
    u = torch.randn(T, batch, d, generator=generator, dtype=torch.float64)

    def f(i: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        total = u[i]
        for k in range(d):
            total = total + W[:, k] * x[..., k : k + 1]
        return total / (1 + total.abs())

    return solve.Recurrence(f, torch.zeros(batch, d, dtype=torch.float64), T, **facts)


def recurrences() -> st.SearchStrategy[Any]:
    return st.builds(
        plain, st.integers(1, 24), st.integers(1, 3), st.integers(1, 4), st.integers(0, 10**6), st.floats(0.1, 3.0)
    )
