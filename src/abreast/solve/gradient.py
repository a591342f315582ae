"""Gradients by implicit differentiation: one reverse scan at the solution, then one vector-Jacobian product.

Axes: T steps, B batch. lambda_i = g_i + J_i^T lambda_{i+1} is the gradient that reaches state i.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abreast.core import Lane
from abreast.solve.linearize import Linearization, transposed
from abreast.solve.problem import Recurrence
from abreast.solve.scan import affine_scan, rounds


def attach(problem: Recurrence, states: Tensor, linearization: Linearization, lane: Lane) -> Tensor:
    """`states` [T, B, *state] with a backward that is the loop's: to x0, and to all that f closes over.

    Nothing is added where gradients are off, or f has nothing to differentiate.
    """
    if not torch.is_grad_enabled():
        return states
    index = torch.arange(problem.steps, device=states.device)
    before = torch.cat((problem.x0[None], states[:-1].detach()))
    with lane.measure("f", problem.steps):
        after = problem.evaluate(index, before)
    if not after.requires_grad:
        return states
    return _Adjoint.apply(after, states.detach(), before.detach(), problem, linearization, lane)


class _Adjoint(torch.autograd.Function):
    """Passes the solution on; backward hands the adjoint states to the batched step, whose backward does the rest."""

    @staticmethod
    def forward(
        ctx: Any, after: Tensor, states: Tensor, before: Tensor, problem: Recurrence, linearization: Linearization,
        lane: Lane,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(before)
        ctx.problem, ctx.linearization, ctx.lane = problem, linearization, lane
        return states.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (before,) = ctx.saved_tensors
        return (
            adjoint(ctx.problem, ctx.linearization, before, grad.contiguous(), ctx.lane),
            None,
            None,
            None,
            None,
            None,
        )


def adjoint(problem: Recurrence, linearization: Linearization, before: Tensor, grad: Tensor, lane: Lane) -> Tensor:
    """lambda [T, B, *state], grad being what reaches each state from outside and before the states that steps left.

    Where A is the Jacobian one scan finds it; else sweeps of vector-Jacobian products with the same A^T do, to the
    type's precision.
    """
    T, B = grad.shape[:2]
    index = torch.arange(T, device=grad.device)
    with torch.no_grad(), lane.measure("f", T * (1.0 + linearization.columns(problem))):
        local = linearization.at(problem, index, before)
    family, A = linearization.family, transposed(linearization.family, local.A)
    A = None if A is None else A.roll(-1, 0)

    def scanned(g: Tensor) -> Tensor:
        """lambda of the first len(g) states, those after them being 0."""
        n = len(g)
        lane.add("scan", n, span=float(rounds(n)))
        shaped = g.reshape(n, B, *linearization.shape(problem))
        return affine_scan(family, None if A is None else A[:n], shaped, reverse=True).view(g.shape)

    if linearization.exact(problem):
        return scanned(grad)
    return _sweeps(problem, before, grad, index, scanned, lane)


def _sweeps(problem: Recurrence, before: Tensor, grad: Tensor, index: Tensor, scanned: Any, lane: Lane) -> Tensor:
    """lambda += the scan of what is missing, until nothing is. After k sweeps the last k + 1 are exact."""
    found, T = scanned(grad), len(grad)
    near = 8 * torch.finfo(grad.dtype).eps * float(grad.abs().max())
    with torch.enable_grad():
        x = before.requires_grad_()
        after = problem.evaluate(index, x)
    for k in range(1, T):
        (pulled,) = torch.autograd.grad(after, x, found, retain_graph=True)
        lane.add("f", T)
        missing = grad[: T - k] + pulled[1 : T - k + 1] - found[: T - k]
        if not float(missing.abs().max()) > near:
            break
        found[: T - k] += scanned(missing)
    return found
