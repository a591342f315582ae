"""What is asked: noise to be turned into samples by a denoiser and a scheduler, and how two samples compare.

Axes: B samples, C channels, H and W (F frames); a state is [B, *]. Index i counts calls of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abreast.core import AbreastError, Lane, Method, Problem, Run, uniform
from abreast.diffuse import schedule
from abreast.diffuse.networks import network

if TYPE_CHECKING:
    from abreast.solve import Recurrence


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: null output + scale x (conditioned output - null output).

    null: the condition of the branch "uncond". order: of the rows, or of the calls. together: both branches are rows
    of one call, else one call each. Source: Ho and Salimans, 2022.
    """

    scale: float
    null: Any = field(default=None, repr=False, compare=False)
    order: tuple[str, ...] = ("uncond", "cond")
    together: bool = True


@dataclass(frozen=True)
class Sampling(Problem[Tensor]):
    """Denoise `noise` with a denoiser and a diffusers scheduler; the answer is the last state [B, *].

    denoiser: a diffusers model, or a function (x [N, *], t [N], cond of N rows) -> output [N, *]. scheduler: its
    timesteps set, or steps given; it is forked, never touched. noise: standard normal, [B, C, H, W], [B, C, F, H, W]
    or any [B, *]; the first state is it times the scheduler's init_noise_sigma, unless `start` says otherwise. cond:
    tensors whose first axis is B; by name where the denoiser is a model. seed: of the noise drawn in steps, one draw
    for each step and row, the same in every batch and order. decode: from latents to pictures. score: from samples to
    numbers, higher is better. options: of the scheduler's step (eta). clock: from the scheduler's timesteps to those
    the network is shown. tile: rows of every call of the network, filled up with copies; then a row's bits do not
    depend on how many there are (one thread). Raises AbreastError for a scheduler without timesteps or that cannot be
    forked, and shapes that do not fit.

    `from_diffusers` makes one from any pipeline.
    """

    denoiser: Any = field(repr=False, compare=False)
    scheduler: Any = field(repr=False, compare=False)
    noise: Tensor = field(repr=False, compare=False)
    steps: int | None = None
    cond: Any = field(default=None, repr=False, compare=False)
    guidance: Guidance | None = None
    seed: int = 0
    decode: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)
    score: Callable[[Tensor], Mapping[str, float]] | None = field(default=None, repr=False, compare=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    start: Tensor | None = field(default=None, repr=False, compare=False)
    clock: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)
    tile: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.noise, Tensor) or self.noise.ndim < 2 or not self.noise.is_floating_point():
            raise AbreastError("noise must be a tensor of floats with the samples on its first axis: [B, ...].")
        scheduler = _ready(self.scheduler, self.steps)
        schedule.plant(scheduler, self.noise, self._seeds(-1))
        for name, value in (("denoiser", network(self.denoiser)), ("scheduler", scheduler)):
            object.__setattr__(self, name, value)
        _check(self)

    @classmethod
    def from_diffusers(cls, pipe: Any, seed: int = 0, **call: Any) -> Sampling:
        """The problem that pipe(**call) solves: see `abreast.diffuse.pipelines.capture`."""
        from abreast.diffuse.pipelines import capture

        return capture(pipe, seed=seed, **call)

    @property
    def reference(self) -> Method:
        from abreast.diffuse.sequential import Sequential

        return Sequential()

    @cached_property
    def length(self) -> int:
        """How many calls of the network the reference makes, one after the other (a guided pair is one)."""
        return schedule.length(self.scheduler)

    @cached_property
    def free(self) -> bool:
        """Whether a step depends on its index, state, output and noise alone, so that steps go in any order."""
        return not schedule.memory(self.scheduler)

    @property
    def x0(self) -> Tensor:
        """The first state [B, *]."""
        if self.start is not None:
            return self.start
        return self.noise * getattr(self.scheduler, "init_noise_sigma", 1.0)

    @cached_property
    def times(self) -> Tensor:
        """What the network is shown as timestep at each index, [length]."""
        times = self.scheduler.timesteps
        return (times if self.clock is None else self.clock(times)).to(self.noise.device)

    def fresh(self) -> Any:
        """A scheduler of one's own, before its first step."""
        return schedule.fork(self.scheduler)

    def draw(self, i: int) -> Tensor:
        """The standard normal noise of step i, [B, *] in float32 on the noise's device: a draw of its own for every
        row, keyed by (seed, step, row)."""
        shape = (1, *self.noise.shape[1:])
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in self._seeds(i)]
        return torch.cat(rows).to(self.noise.device)

    def step(self, scheduler: Any, i: int, out: Tensor, x: Tensor) -> Tensor:
        """State x_{i+1} by this scheduler, with the problem's noise and options."""
        return schedule.step_at(scheduler, i, out, x, lambda: self.draw(i), **self.options)

    def recurrence(self, lane: Lane) -> Recurrence:
        """The steps as a recurrence for the solvers of `abreast.solve`; the network is counted on `lane`."""
        from abreast.diffuse.recurrence import as_recurrence

        return as_recurrence(self, lane)

    def distance(self, value: Tensor, reference: Tensor) -> float:
        """Root mean square difference over all entries, in standard deviations of the reference's entries."""
        if value.shape != reference.shape:
            return float("inf")
        gap = (value.double() - reference.double()).square().mean().sqrt()
        spread = float(reference.double().std())
        far = float(gap) / (spread or 1.0)
        return far if far == far else float("inf")

    @property
    def rounding(self) -> float:  # type: ignore[override]
        """What reordered sums may cost over a whole run, in `distance`; the state's type decides, unless the scheduler
        rounds to float32 in every step."""
        bits = torch.finfo(self.noise.dtype).bits
        if bits == 64 and not schedule.rounds_to_single(self.scheduler):
            return 1e-9
        return 1e-3 if bits >= 32 else 5e-2

    def quality(self, value: Tensor) -> Mapping[str, float]:
        return {} if self.score is None else self.score(value)

    def columns(self, run: Run[Tensor]) -> Mapping[str, Any]:
        facts: dict[str, Any] = {
            "evaluations": run.ledger.rows("denoise"),
            "calls": run.ledger.calls("denoise"),
            "span": run.ledger.span,
        }
        if run.against is not None and self.pictures:
            facts["psnr"] = psnr(self.picture(run.value), self.picture(run.against.value))
        return facts

    @property
    def pictures(self) -> bool:
        """Whether samples can be seen: they are decoded, or have one or three channels."""
        return self.decode is not None or (self.noise.ndim == 4 and self.noise.shape[1] in (1, 3))

    def picture(self, value: Tensor) -> Tensor:
        """The decoded sample, or the sample itself where nothing decodes."""
        return value if self.decode is None else self.decode(value)

    @cached_property
    def flops(self) -> float:
        """Floating point operations of one full evaluation of all B samples, counted by making one."""
        from abreast.core import Ledger
        from abreast.diffuse.denoise import Denoiser
        from abreast.diffuse.flops import Counting

        with Counting() as counter:
            Denoiser(self, Ledger().lane("0"))(0, self.x0)
        return counter.total

    def _seeds(self, i: int) -> list[int]:
        rows = torch.arange(len(self.noise)).numpy()
        return [int(u * 2**52) for u in uniform(self.seed, "diffuse", i, rows)]


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels; the peak is the range of the reference's values."""
    error = float((picture.double() - reference.double()).square().mean())
    peak = float(reference.double().max() - reference.double().min())
    return float("inf") if error == 0 else float(10 * torch.log10(torch.tensor(peak**2 / error)))


def _ready(scheduler: Any, steps: int | None) -> Any:
    """A fork before its first step, its timesteps set."""
    used = getattr(scheduler, "step_index", None) is not None or getattr(scheduler, "counter", 0) > 0
    scheduler = schedule.fork(scheduler)
    name = type(scheduler).__name__
    if steps is not None:
        if not isinstance(steps, int) or steps < 1:
            raise AbreastError(f"steps must be a number from 1 on, not {steps}.")
        try:
            scheduler.set_timesteps(steps)
        except (TypeError, ValueError) as error:
            raise AbreastError(f"{name} cannot be set to {steps} steps: {error}") from error
    elif used and getattr(scheduler, "timesteps", None) is not None:
        raise AbreastError(f"this {name} has already been stepped: pass steps=..., or call set_timesteps again.")
    schedule.length(scheduler)
    return scheduler


def _check(problem: Sampling) -> None:
    if problem.tile is not None and problem.tile < 1:
        raise AbreastError(f"tile is a number of rows from 1 on, not {problem.tile}.")
    if problem.start is not None and problem.start.shape != problem.noise.shape:
        raise AbreastError(f"start is of shape {list(problem.start.shape)}, noise of {list(problem.noise.shape)}.")
    for option in problem.options:
        if not schedule.accepts(problem.scheduler, option):
            raise AbreastError(f"the step of {type(problem.scheduler).__name__} has no option {option}.")
    guidance = problem.guidance
    if guidance is not None and not isinstance(guidance, Guidance):
        raise AbreastError(f"guidance is Guidance(scale, null=condition of the empty prompt), not {guidance!r}.")
    if guidance is not None and sorted(guidance.order) != ["cond", "uncond"]:
        raise AbreastError(f"guidance has the branches cond and uncond, in either order, not {guidance.order}.")
    if guidance is not None and isinstance(guidance.null, Mapping) != isinstance(problem.cond, Mapping):
        raise AbreastError("guidance needs a null condition of the same form as cond.")
