"""Cells as steps of a recurrence: what one makes of a state, and the derivative of that by formula.

Axes: n steps, B batch, I inputs, H hidden units. Torch's cells project their inputs once for all steps (`project`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from abreast.core import AbreastError
from abreast.solve.problem import Structure

Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Form:
    """state: axes of one member's state. project: inputs [T, B, I] -> what `step` is given of them, row by row.
    step: (given [n, B, ...], h [n, B, *state]) -> h. jacobian: that and its derivative, where there is a formula."""

    state: tuple[int, ...]
    project: Callable[[Tensor], Tensor]
    step: Callable[[Tensor, Tensor], Tensor]
    structure: Structure = "dense"
    jacobian: Formula | None = None


def form(cell: Any) -> Form:
    """A cell's form. Raises AbreastError for a module that says nothing about its state."""
    makers: list[tuple[type[Any], Callable[[Any], Form]]] = [
        (nn.RNNCell, _rnn),
        (nn.GRUCell, _gru),
        (nn.LSTMCell, _lstm),
    ]
    for kind, make in makers:
        if isinstance(cell, kind):
            return make(cell)
    if hasattr(cell, "state_shape"):
        structure: Structure = getattr(cell, "jacobian_structure", "dense")
        jacobian = getattr(cell, "jacobian", None)
        project = getattr(cell, "project", lambda x: x)
        step = cell.step if hasattr(cell, "step") else _rowwise(cell)
        return Form(tuple(cell.state_shape), project, step, structure, jacobian)
    if hasattr(cell, "hidden_size"):
        return Form((int(cell.hidden_size),), lambda x: x, _rowwise(cell))
    raise AbreastError(
        f"{type(cell).__name__} does not say how large its state is: give it an attribute state_shape (of one member)."
    )


def _rowwise(cell: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Any module (x [N, I], h [N, *state]) -> h, on rows of steps and members."""

    def step(x: Tensor, h: Tensor) -> Tensor:
        return cell(x.flatten(0, 1), h.flatten(0, 1)).view(h.shape)

    return step


def _projection(cell: nn.RNNCellBase) -> Callable[[Tensor], Tensor]:
    return lambda x: linear(x, cell.weight_ih, cell.bias_ih)


def _rnn(cell: nn.RNNCell) -> Form:
    H, tanh = cell.hidden_size, cell.nonlinearity == "tanh"

    def step(given: Tensor, h: Tensor) -> Tensor:
        inside = given + linear(h, cell.weight_hh, cell.bias_hh)
        return torch.tanh(inside) if tanh else torch.relu(inside)

    def jacobian(given: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        out = step(given, h)
        slope = 1 - out * out if tanh else (out > 0).to(out.dtype)
        return out, slope[..., None] * cell.weight_hh

    return Form((H,), _projection(cell), step, jacobian=jacobian)


def _gru(cell: nn.GRUCell) -> Form:
    H = cell.hidden_size

    def gates(given: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        hidden = linear(h, cell.weight_hh, cell.bias_hh)
        (x_r, x_z, x_n), (h_r, h_z, h_n) = given.chunk(3, -1), hidden.chunk(3, -1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        return r, z, torch.tanh(x_n + r * h_n), h_n

    def step(given: Tensor, h: Tensor) -> Tensor:
        _, z, n, _ = gates(given, h)
        return n + z * (h - n)

    def jacobian(given: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """dh' = z dh + (h - n) z (1 - z) W_z dh + (1 - z) (1 - n^2) (r W_n + h_n r (1 - r) W_r) dh."""
        r, z, n, h_n = gates(given, h)
        W_r, W_z, W_n = cell.weight_hh.chunk(3, 0)
        slope = (1 - z) * (1 - n * n)
        A = ((h - n) * z * (1 - z))[..., None] * W_z
        A = A.addcmul_((slope * r)[..., None], W_n) if not A.requires_grad else A + (slope * r)[..., None] * W_n
        A = A + (slope * h_n * r * (1 - r))[..., None] * W_r
        A.diagonal(dim1=-2, dim2=-1).add_(z)
        return n + z * (h - n), A

    return Form((H,), _projection(cell), step, jacobian=jacobian)


def _lstm(cell: nn.LSTMCell) -> Form:
    H = cell.hidden_size

    def gates(given: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        h, c = state.split(H, -1)
        inside = given + linear(h, cell.weight_hh, cell.bias_hh)
        i, f, g, o = inside.chunk(4, -1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        return i, f, g, o, c, f * c + i * g

    def step(given: Tensor, state: Tensor) -> Tensor:
        _, _, _, o, _, new = gates(given, state)
        return torch.cat((o * torch.tanh(new), new), -1)

    def jacobian(given: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o, c, new = gates(given, state)
        W_i, W_f, W_g, W_o = cell.weight_hh.chunk(4, 0)
        t = torch.tanh(new)
        slope = o * (1 - t * t)
        c_h = (
            (c * f * (1 - f))[..., None] * W_f + (g * i * (1 - i))[..., None] * W_i + (i * (1 - g * g))[..., None] * W_g
        )
        h_h = slope[..., None] * c_h + (t * o * (1 - o))[..., None] * W_o
        top = torch.cat((h_h, torch.diag_embed(slope * f)), -1)
        return torch.cat((o * t, new), -1), torch.cat((top, torch.cat((c_h, torch.diag_embed(f)), -1)), -2)

    return Form((2 * H,), _projection(cell), step, jacobian=jacobian)
