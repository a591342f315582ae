"""Back-propagation through a recurrence as a triangular system of the adjoint states (Song et al., 2021).

Axes: T steps, B batch. lambda_t = g_t + J_t^T lambda_{t+1}; node k is lambda at the k-th step from the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from abreast.core import AbreastError, run
from abreast.solve.problem import Recurrence
from abreast.solve.triangular import TriangularSystem


@dataclass(frozen=True)
class AdjointChain(TriangularSystem):
    """The gradient that reaches each state of a recurrence, [1, T, B, *state], the last state's first.

    problem: the recurrence, or a `CellSequence` of a recurrent cell. grad [T, B, *state]: what reaches each state from
    outside; where not given, 1 at every entry of the last state. Its states come from the loop. The batch is one
    member. Raises AbreastError where grad is of another shape.
    """

    problem: Recurrence = field(default=None, kw_only=True, repr=False, compare=False)  # type: ignore[assignment]

    def __init__(self, problem: Recurrence, grad: Tensor | None = None):
        with torch.no_grad():
            states = run(problem, problem.reference).value.detach()
        if grad is None:
            grad = torch.zeros_like(states)
            grad[-1] = 1.0
        if grad.shape != states.shape:
            raise AbreastError(f"grad is {list(states.shape)} (step, batch, state), not {list(grad.shape)}.")
        T, given = problem.steps, grad.flip(0)

        def pulled(after: Tensor, cotangents: Tensor) -> Tensor:
            """J^T lambda of the steps t + 1 with states[t] before them."""
            with torch.enable_grad():
                x = states[after - 1].requires_grad_()
                (out,) = torch.autograd.grad(problem.evaluate(after, x), x, cotangents)
            return out

        def part(x: Tensor, nodes: Tensor) -> Tensor:
            new = given[nodes].clone()
            later = (nodes > 0).nonzero()[:, 0]
            if len(later):
                new[later] += pulled(T - nodes[later], x[0, nodes[later] - 1])
            return new[None]

        for name, value in (
            ("problem", problem), ("f", lambda x: part(x, torch.arange(T))), ("part", part), ("levels", None),
            ("x0", torch.zeros_like(given)[None]), ("given", ()),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        self.__post_init__()

    def gradients(self, value: Tensor) -> Tensor:
        """The solution in the order of the steps, [T, B, *state]."""
        return value[0].flip(0)
