"""Recurrent nets whose state entries recur by themselves, so that Newton's method over time is cheap (Danieli et al.,
"ParaRNN: Unlocking Parallel Training of Nonlinear RNNs for Large Language Models", 2025).

Axes: T steps, n steps evaluated at once, B batch, I inputs, G gates, K heads, H hidden units.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from abreast.core import AbreastError, Method, Run, run
from abreast.solve import CellSequence, Loop, Newton


class _Para(nn.Module):
    """What both nets share: gates that see the inputs through blocks, one to a head, and the state through vectors.

    recurrent [G, H]: kept within +-max_recurrent wherever it is used; it starts as N(0, 4 / (5 H)). weight
    [G, K, H / K, I / K], bias [G, H].
    """

    gates: ClassVar[int]
    jacobian_structure: ClassVar[str]

    def __init__(self, inputs: int, width: int, heads: int = 2, max_recurrent: float = 0.5):
        super().__init__()
        if min(inputs, width, heads) < 1 or inputs % heads or width % heads:
            raise AbreastError(f"inputs and width are multiples of heads, not {inputs} and {width} of {heads}.")
        if not max_recurrent > 0:
            raise AbreastError(f"max_recurrent is above 0, not {max_recurrent}.")
        self.inputs, self.width, self.heads, self.max_recurrent = inputs, width, heads, max_recurrent
        self.recurrent = nn.Parameter(torch.randn(self.gates, width) * 2 / sqrt(5 * width))
        blocks = torch.randn(self.gates, heads, width // heads, inputs // heads)
        self.weight = nn.Parameter(blocks / sqrt(inputs // heads))
        self.bias = nn.Parameter(torch.zeros(self.gates, width))
        self.residual_: float | None = None

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (self.width,)

    def project(self, x: Tensor) -> Tensor:
        """Inputs [*, I] -> what the gates are given of them, [*, G, H]."""
        blocks = x.unflatten(-1, (self.heads, self.inputs // self.heads))
        return torch.einsum("...ki,gkhi->...gkh", blocks, self.weight).flatten(-2) + self.bias

    def vectors(self) -> Tensor:
        """The recurrent weights [G, H] as they are used: within their bound."""
        return self.recurrent.clamp(-self.max_recurrent, self.max_recurrent)

    def hidden(self, state: Tensor) -> Tensor:
        """What of a state is the net's output."""
        return state

    def step(self, given: Tensor, state: Tensor) -> Tensor:
        """given [n, B, G, H], state [n, B, *state] -> the next state."""
        raise NotImplementedError

    def jacobian(self, given: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`step`, and its derivative by the state."""
        raise NotImplementedError

    def unroll(self, x_TBI: Tensor, h0: Tensor | None = None, parallel: Method | None = None) -> Run[Any]:
        """The run over a sequence, states [T, B, *state]; parallel: a method of `abreast.solve`, None for the loop.

        Its table (`run.problem.columns(run)`) has the residual and the calls. Raises AbreastError for inputs that are
        not [T, B, I].
        """
        if x_TBI.dim() != 3 or x_TBI.shape[-1] != self.inputs:
            raise AbreastError(f"inputs are [steps, batch, {self.inputs}], not {list(x_TBI.shape)}.")
        return run(CellSequence(self, x_TBI, h0), parallel or Loop())

    def forward(self, x_TBI: Tensor, h0: Tensor | None = None, parallel: Method | None = Newton()) -> Tensor:  # noqa: B008
        """The outputs h_TBH. parallel: three Newton sweeps where not said, None for the loop.

        `residual_` then holds max |f(x_t, s_{t-1}) - s_t| of what was found: three sweeps are no solution where the
        recurrent weights are large. Gradients are the loop's where the residual is 0.
        """
        found = self.unroll(x_TBI, h0, parallel)
        self.residual_ = 0.0 if parallel is None else found.ledger.series("residual")[-1]
        return self.hidden(found.value)

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.width}, heads={self.heads}, max_recurrent={self.max_recurrent:g}"


class ParaGRU(_Para):
    """A GRU whose recurrent weights are vectors: h' = (1 - z) h + z n, its Jacobian a diagonal.

    z, r = sigmoid(a h + B x + b) each; n = tanh(a h r + B x + b); B is block diagonal over heads. State [H].
    max_recurrent bounds every a. Raises AbreastError where heads divide neither inputs nor width.
    """

    gates = 3
    jacobian_structure = "diagonal"

    def step(self, given: Tensor, h: Tensor) -> Tensor:
        return self._gates(given, h)[-1]

    def jacobian(self, given: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        a_z, a_r, a_h = self.vectors()
        z, r, n, out = self._gates(given, h)
        through_n = z * (1 - n * n) * a_h * (r + h * a_r * r * (1 - r))
        return out, (1 - z) + (n - h) * a_z * z * (1 - z) + through_n

    def _gates(self, given: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a_z, a_r, a_h = self.vectors()
        x_z, x_r, x_h = given.unbind(-2)
        z, r = torch.sigmoid(a_z * h + x_z), torch.sigmoid(a_r * h + x_r)
        n = torch.tanh(a_h * h * r + x_h)
        return z, r, n, (1 - z) * h + z * n


class ParaLSTM(_Para):
    """An LSTM with coupled gates and peepholes whose recurrent weights are vectors; its Jacobian is one 2 x 2 block for
    each channel.

    f = sigmoid(a h + B x + C c + b); c' = f c + (1 - f) tanh(a h + B x + b); o = sigmoid(a h + B x + C c' + b);
    h' = o tanh(c'). State [H, 2]: c, then h. max_recurrent bounds every a and C. Raises AbreastError where heads divide
    neither inputs nor width.
    """

    gates = 3
    jacobian_structure = "blocks"

    def __init__(self, inputs: int, width: int, heads: int = 2, max_recurrent: float = 0.5):
        super().__init__(inputs, width, heads, max_recurrent)
        self.peephole = nn.Parameter(torch.randn(2, width) * 2 / sqrt(5 * width))

    @property
    def state_shape(self) -> tuple[int, ...]:
        return (self.width, 2)

    def hidden(self, state: Tensor) -> Tensor:
        return state[..., 1]

    def step(self, given: Tensor, state: Tensor) -> Tensor:
        _, _, o, c = self._gates(given, state)
        return torch.stack((c, o * torch.tanh(c)), -1)

    def jacobian(self, given: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        (a_f, a_c, a_o), (C_f, C_o) = self.vectors(), self._peepholes()
        f, g, o, new = self._gates(given, state)
        by_f = (state[..., 0] - g) * f * (1 - f)
        c_c = f + by_f * C_f
        c_h = by_f * a_f + (1 - f) * (1 - g * g) * a_c
        t = torch.tanh(new)
        by_o, by_c = t * o * (1 - o), o * (1 - t * t)
        h_c = by_o * C_o * c_c + by_c * c_c
        h_h = by_o * (a_o + C_o * c_h) + by_c * c_h
        A = torch.stack((torch.stack((c_c, c_h), -1), torch.stack((h_c, h_h), -1)), -2)
        return torch.stack((new, o * t), -1), A

    def _peepholes(self) -> Tensor:
        return self.peephole.clamp(-self.max_recurrent, self.max_recurrent)

    def _gates(self, given: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (a_f, a_c, a_o), (C_f, C_o) = self.vectors(), self._peepholes()
        (x_f, x_c, x_o), (c, h) = given.unbind(-2), state.unbind(-1)
        f, g = torch.sigmoid(a_f * h + x_f + C_f * c), torch.tanh(a_c * h + x_c)
        new = f * c + (1 - f) * g
        return f, g, torch.sigmoid(a_o * h + x_o + C_o * new), new
