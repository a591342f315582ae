"""Differential equations: a step of Runge and Kutta's, or DEER's own, which is affine (Lim et al., 2024).

Axes: T intervals, n of them at once, B batch, d state entries (flattened).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import jvp, vmap

from abreast.core import AbreastError
from abreast.solve.linearize import Dense, Diagonal, Local
from abreast.solve.problem import Recurrence, Step

Field = Callable[[Tensor, Tensor], Tensor]
Scheme = Literal["rk4", "exponential"]
INNER = 200  # fixed-point iterations of an implicit step, at most


@dataclass(frozen=True)
class ODE(Recurrence):
    """dy/dt = f(t, y) from y(ts_0) = y0; the answer is y at ts_1 .. ts_T, [T, B, *state].

    f: (t, y) -> dy/dt as torchdiffeq takes it, every row by itself: t is [n, 1, ..., 1] and y [n, B, *state] here. ts
    [T + 1], rising. y0 [B, *state]. step:

    "rk4"          one classical Runge-Kutta step to an interval: an ordinary recurrence, error O(dt^4)
    "exponential"  of the linearised equation dy/dt = J y + (f - J y) the mean of both ends, held over the interval and
                   integrated exactly, error O(dt^2). As a recurrence each step is implicit, and `Loop` solves it by
                   iteration; a Newton sweep has the chain's matrices at once, with the Jacobian whole or its diagonal.
                   It depends on an interval's both ends, so no prefix is final before all has settled.

    Gradients are those of the discretised equation. Raises AbreastError for times that do not rise, and where the
    inner iteration of an exponential step does not settle: halve the interval.
    """

    f: Step = field(init=False, repr=False, compare=False)
    x0: Tensor = field(init=False, repr=False, compare=False)
    steps: int = field(init=False)
    derivative: Field = field(kw_only=True, repr=False, compare=False)
    ts: Tensor = field(kw_only=True, repr=False, compare=False)
    step: Scheme = field(default="rk4", kw_only=True)

    def __init__(
        self, f: Field, ts: Tensor, y0: Tensor, step: Scheme = "rk4", bounds: tuple[float, float] | None = None
    ):
        if ts.dim() != 1 or len(ts) < 2 or not bool((ts.diff() > 0).all()):
            raise AbreastError(
                f"ts are at least two times that rise, not {list(ts.shape)} {ts.flatten()[:4].tolist()}."
            )
        if step not in ("rk4", "exponential"):
            raise AbreastError(f"a step is 'rk4' or 'exponential', not {step!r}.")
        ts = ts.to(y0.device, y0.dtype)
        at = ts.view(-1, *[1] * y0.dim())

        def rk4(i: Tensor, y: Tensor) -> Tensor:
            t, dt = at[i], at[i + 1] - at[i]
            k1 = f(t, y)
            k2 = f(t + dt / 2, y + dt / 2 * k1)
            k3 = f(t + dt / 2, y + dt / 2 * k2)
            k4 = f(t + dt, y + dt * k3)
            return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        implicit = _Implicit(f, at)
        for name, value in (
            ("derivative", f), ("ts", ts), ("step", step), ("f", rk4 if step == "rk4" else implicit.step), ("x0", y0),
            ("steps", len(ts) - 1), ("bounds", bounds), ("structure", "dense"),
            ("jacobian", None if step == "rk4" else implicit.jacobian),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        object.__setattr__(self, "implicit", implicit)
        self.__post_init__()

    def head(self, steps: int) -> ODE:
        return ODE(self.derivative, self.ts[: steps + 1], self.x0, self.step, self.bounds)

    @property
    def explicit(self) -> bool:
        return self.step == "rk4"

    def between(self, i: Tensor, x: Tensor, linearization: Any) -> Local:
        A, f = self.implicit.chain(i, x[:-1], x[1:])  # type: ignore[attr-defined]
        f = f + (A @ x[:-1].flatten(2)[..., None])[..., 0].view(f.shape)
        if isinstance(linearization, Dense):
            return Local(f, A)
        if isinstance(linearization, Diagonal):
            return Local(f, A.diagonal(dim1=-2, dim2=-1).reshape(f.shape))
        raise AbreastError(
            f"an exponential step is linearised by Dense or Diagonal, not {type(linearization).__name__}."
        )


class _Implicit:
    """The exponential step y' = Phi(y, y') of each interval, as a function of its first end."""

    def __init__(self, f: Field, at: Tensor):
        self.f, self.at = f, at

    def chain(self, i: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """e^{J dt} [n, B, d, d] and what is added [n, B, *state], J and the rest the means of both ends."""
        (J0, r0), (J1, r1) = self._linear(self.at[i], left), self._linear(self.at[i + 1], right)
        dt = (self.at[i + 1] - self.at[i]).view(-1, 1, 1, 1)
        d = J0.shape[-1]
        # exp of [[M, v], [0, 0]] holds e^M and, in its last column, (e^M - 1) / M v.
        M = torch.cat(((J0 + J1) / 2 * dt, ((r0 + r1) / 2)[..., None] * dt), -1)
        whole = torch.linalg.matrix_exp(torch.cat((M, M.new_zeros(*M.shape[:2], 1, d + 1)), -2))
        return whole[..., :d, :d], whole[..., :d, d].reshape(left.shape)

    def phi(self, i: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Phi [n, B, *state]."""
        A, b = self.chain(i, left, right)
        return (A @ left.flatten(2)[..., None])[..., 0].view(left.shape) + b

    def step(self, i: Tensor, x: Tensor) -> Tensor:
        """y' = Phi(x, y'), by iteration; differentiable as what it solves."""
        with torch.no_grad():
            y = self._settle(i, x.detach())
        if not torch.is_grad_enabled():
            return y
        after = self.phi(i, x, y)
        if not after.requires_grad:
            return y
        with torch.no_grad():
            by_right = self._columns(lambda right: self.phi(i, x.detach(), right), y)
        eye = torch.eye(by_right.shape[-1], dtype=y.dtype, device=y.device)
        moved = (after - after.detach()).flatten(2)
        return y + torch.linalg.solve(eye - by_right, moved[..., None])[..., 0].view(y.shape)

    def jacobian(self, i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """y' and dy'/dx = (1 - dPhi/dy')^-1 dPhi/dx."""
        y = self._settle(i, x)
        by_left = self._columns(lambda left: self.phi(i, left, y), x)
        by_right = self._columns(lambda right: self.phi(i, x, right), y)
        eye = torch.eye(by_left.shape[-1], dtype=x.dtype, device=x.device)
        return y, torch.linalg.solve(eye - by_right, by_left)

    def _settle(self, i: Tensor, x: Tensor) -> Tensor:
        t = self.at[i]
        y = x + (self.at[i + 1] - t) * self.f(t, x)
        for _ in range(INNER):
            new = self.phi(i, x, y)
            near = 4 * torch.finfo(x.dtype).eps * (1 + new.abs())
            if bool(((new - y).abs() <= near).all()):
                return new
            y = new
        if not bool(torch.isfinite(y).all()):
            return y
        raise AbreastError(f"an exponential step over {float((self.at[i + 1] - t).max()):g} does not settle: halve it.")

    def _linear(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """J [n, B, d, d] and f - J y [n, B, d]."""
        J = self._columns(lambda z: self.f(t, z), y)
        flat = y.flatten(2)
        return J, self.f(t, y).flatten(2) - (J @ flat[..., None])[..., 0]

    def _columns(self, f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """df/dy [n, B, d, d], rows by themselves: a forward-mode product for each column."""
        n, B = y.shape[:2]
        d = y[0, 0].numel()
        basis = torch.eye(d, dtype=y.dtype, device=y.device).view(d, 1, 1, *y.shape[2:]).expand(d, *y.shape)
        columns = vmap(lambda v: jvp(f, (y,), (v,))[1])(basis)
        return columns.reshape(d, n, B, d).permute(1, 2, 3, 0)
