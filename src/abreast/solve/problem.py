"""What is to be unrolled: a state that each step makes from the one before.

Axes: T steps, B batch, n steps evaluated at once, I inputs, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from abreast.core import AbreastError, Kind, Method, Problem, Run

Structure = Literal["dense", "diagonal", "blocks"]
Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Project = Callable[[torch.Tensor], torch.Tensor]
Jacobian = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Recurrence(Problem[torch.Tensor]):
    """x_{i+1} = f(i, x_i) for i = 0 .. steps - 1; the answer is x_1 .. x_T, [T, B, *state].

    f: (i LongTensor [n], x [n, B, *state]) -> [n, B, *state], every row (step, batch member) by itself, so that many
    steps can be evaluated at once. x0 [B, *state]. bounds: numbers that contain every state of the solution; iterates
    are clipped to them. structure: of df/dx, where it is known: "diagonal", or "blocks" over the last axis of the
    state. jacobian: (i, x) -> f and df/dx in that structure ([n, B, *state], [n, B, *state, m] or [n, B, d, d]), where
    a formula is at hand. flops, reads: floating-point operations of one step, bytes that a call reads whatever its
    steps (weights): what a replay prices. Gradients flow to whatever f closes over, and to x0.

    Raises AbreastError where f does not give states of x0's shape and type.
    """

    f: Step = field(repr=False, compare=False)
    x0: torch.Tensor = field(repr=False, compare=False)
    steps: int
    bounds: tuple[float, float] | None = None
    structure: Structure = "dense"
    jacobian: Jacobian | None = field(default=None, repr=False, compare=False)
    flops: float = field(default=0.0, repr=False)
    reads: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise AbreastError(f"a recurrence has at least one step, not {self.steps}.")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise AbreastError(f"bounds are (lowest, highest), not {self.bounds}.")
        if self.x0.dim() < 1 or not self.x0.is_floating_point():
            raise AbreastError(
                f"x0 is a floating-point tensor [batch, *state], not {list(self.x0.shape)} {self.x0.dtype}."
            )
        with torch.no_grad():
            check_step(self.f, self.x0)

    def head(self, steps: int) -> Recurrence:
        """The same recurrence's first steps."""
        return replace(self, steps=min(steps, self.steps))

    @property
    def kind(self) -> Kind:
        """What one evaluation is worth."""
        return Kind(flops=self.flops, reads=self.reads)

    @property
    def explicit(self) -> bool:
        """Whether a sweep is made of f at the old states; else of what the problem makes of both ends of each step."""
        return True

    def between(self, i: torch.Tensor, x: torch.Tensor, linearization: Any) -> Any:
        """What a sweep is made of (`Local`) where it is not f at the old states x [n + 1, B, *state]."""
        raise NotImplementedError(f"{type(self).__name__} is explicit.")

    @property
    def reference(self) -> Method:
        from abreast.solve.loop import Loop

        return Loop()

    @property
    def rounding(self) -> float:  # type: ignore[override]
        """Reordered sums are forgiven some thousand units of the type's precision."""
        return 1e4 * torch.finfo(self.x0.dtype).eps

    def distance(self, value: torch.Tensor, reference: torch.Tensor) -> float:
        """The largest difference of a state's entry, by the largest entry of the reference where that exceeds 1."""
        scale = max(1.0, float(reference.detach().abs().max()))
        return float((value.detach() - reference.detach()).abs().max()) / scale

    def residual(self, value: torch.Tensor) -> float:
        """max |f(i, x_i) - x_{i+1}|: 0 for a solution, whoever found it."""
        with torch.no_grad():
            x = torch.cat((self.x0[None], value[:-1])).detach()
            return float((self.evaluate(torch.arange(self.steps, device=x.device), x) - value.detach()).abs().max())

    def keeps(self, run: Run[torch.Tensor], tolerance: float) -> bool:
        """A bound is one on the residual; identity is held against the reference."""
        if tolerance > 0:
            return self.residual(run.value) <= max(tolerance, self.rounding)
        return run.distance is not None and run.distance <= self.rounding

    def columns(self, run: Run[torch.Tensor]) -> Mapping[str, Any]:
        """sweeps, calls (batched evaluations), scan rounds, the residual, and how the solver ended."""
        ledger = run.ledger
        facts: dict[str, Any] = {"calls": ledger.longest("f"), "scan_rounds": ledger.longest("scan")}
        facts["sweeps"] = len(ledger.series("prefix"))
        for name in ("residual", "status"):
            found = ledger.series(name)
            if found:
                facts[name] = found[-1]
        return facts

    def evaluate(self, i: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """f on many steps at once, [n, B, *state]."""
        return self.f(i, x)

    def begin(self) -> Step:
        """f for one run of the loop, with what all steps need computed once."""
        return self.f


@dataclass(frozen=True)
class CellSequence(Recurrence):
    """A recurrent cell over a sequence: h_{t+1} = cell(x_t, h_t).

    cell: torch.nn.RNNCell, GRUCell or LSTMCell, a cell of `abreast.nets`, or any module (x [N, I], h [N, *state]) -> h.
    inputs [T, B, I]. h0 [B, *state], zeros where not given; the state of an LSTMCell is [B, 2 H], h and then c.
    """

    f: Step = field(init=False, repr=False, compare=False)
    x0: torch.Tensor = field(init=False, repr=False, compare=False)
    steps: int = field(init=False)
    cell: torch.nn.Module = field(kw_only=True, repr=False, compare=False)
    inputs: torch.Tensor = field(kw_only=True, repr=False, compare=False)
    h0: torch.Tensor | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __init__(
        self, cell: torch.nn.Module, inputs: torch.Tensor, h0: torch.Tensor | None = None,
        bounds: tuple[float, float] | None = None,
    ):  # fmt: skip
        from abreast.solve.cells import form

        if inputs.dim() != 3:
            raise AbreastError(f"inputs are [steps, batch, features], not {list(inputs.shape)}.")
        found = form(cell)
        if h0 is None:
            h0 = inputs.new_zeros(inputs.shape[1], *found.state)
        if h0.dtype != inputs.dtype or h0.device != inputs.device:
            raise AbreastError(f"inputs are {inputs.dtype} on {inputs.device}, h0 is {h0.dtype} on {h0.device}.")
        if h0.shape != (inputs.shape[1], *found.state):
            raise AbreastError(
                f"h0 is [batch, state] = {[inputs.shape[1], *found.state]} for this cell and these inputs, "
                f"not {list(h0.shape)}."
            )
        weights = next(cell.parameters(), None)
        if weights is not None and weights.dtype != inputs.dtype:
            raise AbreastError(f"the cell is in {weights.dtype} and its inputs in {inputs.dtype}: convert one of them.")
        numbers = sum(w.numel() for w in cell.parameters())
        given = Projected(found.project, inputs, list(cell.parameters()))

        def f(i: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return found.step(given(i), h)

        jacobian = None
        if found.jacobian is not None:
            formula = found.jacobian

            def jacobian(i: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return formula(given(i), h)

        for name, value in (
            ("cell", cell), ("inputs", inputs), ("h0", h0), ("f", f), ("x0", h0), ("steps", len(inputs)),
            ("bounds", bounds), ("structure", found.structure), ("jacobian", jacobian),
            ("flops", 2.0 * numbers * inputs.shape[1]), ("reads", float(numbers * inputs.element_size())),
        ):  # fmt: skip
            object.__setattr__(self, name, value)
        object.__setattr__(self, "form", found)
        self.__post_init__()

    def head(self, steps: int) -> CellSequence:
        return CellSequence(self.cell, self.inputs[:steps], self.h0, self.bounds)

    def begin(self) -> Step:
        # Split once: the backward of indexing writes zeros for all other steps, every time.
        rows = self.form.project(self.inputs).split(1)  # type: ignore[attr-defined]
        return lambda i, h: self.form.step(rows[int(i)], h)  # type: ignore[attr-defined]


class Projected:
    """What a cell's step is given of its inputs. Without gradients all of it is computed once, until a weight or the
    inputs change."""

    def __init__(self, project: Project, inputs: torch.Tensor, weights: list[torch.nn.Parameter]):
        self.project, self.inputs, self.weights = project, inputs, weights
        self.known: torch.Tensor | None = None
        self.versions: list[int] = []

    def __call__(self, i: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            return self.project(self.inputs[i])
        versions = [self.inputs._version, *(w._version for w in self.weights)]
        if self.known is None or versions != self.versions:
            self.known, self.versions = self.project(self.inputs), versions
        return self.known[i[0] : i[-1] + 1] if len(i) and len(i) == i[-1] - i[0] + 1 else self.known[i]


def check_step(f: Step, x0: torch.Tensor) -> None:
    """Raise AbreastError where a step does not make a state of x0's shape, type and device, or its first is not
    finite."""
    index = torch.zeros(1, dtype=torch.long, device=x0.device)
    out = f(index, x0[None])
    if not isinstance(out, torch.Tensor):
        raise AbreastError(f"a step gives a tensor, not {type(out).__name__}: pack several states into one.")
    if out.shape != x0[None].shape:
        raise AbreastError(
            f"a step keeps the state's shape: of {list(x0[None].shape)} (step, batch, state) it made {list(out.shape)}."
        )
    if out.dtype != x0.dtype or out.device != x0.device:
        raise AbreastError(f"a step made {out.dtype} on {out.device} from a state in {x0.dtype} on {x0.device}.")
    check_finite(out[0], 0)


def check_finite(x: torch.Tensor, step: int) -> None:
    """Raise AbreastError, naming the step, where a state made from a final one is not finite."""
    if not bool(torch.isfinite(x).all()):
        bad = "NaN" if bool(torch.isnan(x).any()) else "an infinity"
        raise AbreastError(f"the step function gave {bad} at step {step}.")
