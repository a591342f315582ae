"""The same sampler with fewer steps, spaced in another way, or with a second-order solver in its place.

A grid is the schedule's timesteps and levels by index 0 .. n; a coarser one reads it at fractional indices, which
keeps whatever shift or custom spacing it has.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abreast.core import AbreastError
from abreast.diffuse.levels import is_flow, prediction
from abreast.diffuse.schedule import fork, length

MULTISTEP = "dpm-solver++"


def fewer(scheduler: Any, span: int, other: Any = None, spacing: str = "even") -> Any:
    """A scheduler that makes at most `span` calls of the network where `scheduler` makes more, before its first step.

    other: None for one of the same class, "dpm-solver++", or a diffusers scheduler. Raises AbreastError where that is
    not possible.
    """
    if other is None:
        base = fork(scheduler)
    elif isinstance(other, str):
        if other != MULTISTEP:
            raise AbreastError(f'scheduler is None, "{MULTISTEP}" or a diffusers scheduler, not "{other}".')
        base = multistep(scheduler)
    else:
        base = fork(other)
    if spacing == "quadratic" and not _takes_tables(base):
        # Its list cannot be replaced; DDIM in the form of a first-order solver takes any.
        base = multistep(scheduler, order=1)
    custom = _is_custom(scheduler)
    if spacing == "even" and not (custom and _takes_tables(base)):
        return _evenly(base, span)
    grid = scheduler
    if not custom and base is not scheduler and not is_flow(scheduler):
        grid = _evenly(fork(base), length(scheduler))
    return _read(base, grid, _indices(length(grid), span, spacing))


def _evenly(base: Any, span: int) -> Any:
    """The scheduler set to as many steps as `span` calls allow (a step of Heun is two calls)."""
    name = type(base).__name__
    if name == "PNDMScheduler":
        base.register_to_config(skip_prk_steps=True)  # a start of twelve calls is no short run; pipelines skip it too
    for steps in range(span, 0, -1):
        try:
            base.set_timesteps(steps)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise AbreastError(f"{name} cannot be set to {steps} steps: {error}") from error
        if len(base.timesteps) <= span:
            return base
    raise AbreastError(f"{name} needs more than {span} calls of the network.")


def _indices(n: int, span: int, spacing: str) -> np.ndarray:
    """Fractional indices, from 0 on and below n, of `span` calls."""
    if span == 1:
        return np.zeros(1)
    if spacing == "even":
        return np.arange(span) * (n / span)
    return (n - 1) * (1 - (1 - np.arange(span) / (span - 1)) ** 2)


def _is_custom(scheduler: Any) -> bool:
    """Whether `set_timesteps(n)` would give another schedule than the one that is set."""
    twin = fork(scheduler)
    try:
        twin.set_timesteps(scheduler.num_inference_steps)
    except Exception:
        return True
    tables = [(getattr(s, "timesteps", None), getattr(s, "sigmas", None)) for s in (scheduler, twin)]
    return any(
        isinstance(a, Tensor) and (not isinstance(b, Tensor) or a.shape != b.shape or not torch.allclose(a, b.to(a)))
        for a, b in zip(*tables)
    )


_BY_LIST = {"DDPMScheduler", "DDPMParallelScheduler", "LCMScheduler", "TCDScheduler"}
_BY_GAP = {"DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIMScheduler"}
_BY_LEVEL = {
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler",
    "DEISMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler",
}  # fmt: skip


def _takes_tables(scheduler: Any) -> bool:
    """Whether its steps follow from its list of timesteps, or of levels, alone."""
    name = type(scheduler).__name__.removeprefix("Uneven")
    return name in _BY_LIST | _BY_GAP | _BY_LEVEL


def _read(base: Any, grid: Any, index: np.ndarray) -> Any:
    """`base` on the schedule that `grid` has at these fractional indices."""
    whole = not grid.timesteps.is_floating_point() or type(base).__name__ not in _BY_LEVEL
    times = np.interp(index, np.arange(length(grid)), grid.timesteps.double().cpu().numpy())
    times = _falling(np.rint(times)) if whole and not is_flow(base) else times
    kind = type(base).__name__
    if kind in _BY_LEVEL:
        levels = _levels(grid, index, times if whole and not is_flow(base) else None)
        _reset(base, len(index))
        last = grid.sigmas[-1:] if is_flow(base) == is_flow(grid) else base.sigmas[-1:]
        base.sigmas = torch.cat([torch.from_numpy(levels).to(last), last])
    elif kind in _BY_GAP:
        own: Any = type(base)
        base.__class__ = _uneven(own)
    else:
        _reset(base, len(index))
    base.num_inference_steps = len(index)
    base.timesteps = torch.from_numpy(times).to(grid.timesteps.dtype if not whole else torch.int64)
    if kind.startswith("Euler"):
        base.timesteps = base.timesteps.float()
    return base


def _reset(base: Any, steps: int) -> None:
    """Forget a history and size what depends on the number of steps; a flow that asks for its shift has none."""
    if not base.config.get("use_dynamic_shifting", False):
        base.set_timesteps(steps)


def _levels(grid: Any, index: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """Levels at fractional indices: of whole timesteps by the training schedule, else between those of the grid."""
    if times is not None and hasattr(grid, "alphas_cumprod"):
        bar = grid.alphas_cumprod.double().cpu().numpy()[times.astype(int)]
        return np.sqrt((1 - bar) / bar)
    own = grid.sigmas.double().cpu().numpy()[: length(grid)]
    if is_flow(grid):
        return np.interp(index, np.arange(len(own)), own)
    return np.exp(np.interp(index, np.arange(len(own)), np.log(own)))


def _falling(times: np.ndarray) -> np.ndarray:
    """Whole timesteps, each below the one before it and none below 0."""
    for k in range(len(times) - 2, -1, -1):
        times[k] = max(times[k], times[k + 1] + 1)
    return times


@cache
def _uneven(kind: Any) -> Any:
    """A DDIM that steps to the next entry of its list. The library's steps by num_train_timesteps // n whatever comes
    next, so an uneven list would not do."""

    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        later = self.timesteps[self.timesteps < timestep]
        gap = int(timestep) - (int(later[0]) if len(later) else -1)
        internal, n = self._internal_dict, self.num_inference_steps
        try:
            self.register_to_config(num_train_timesteps=gap)
            self.num_inference_steps = 1
            return kind.step(self, model_output, timestep, sample, *args, **options)
        finally:
            self._internal_dict, self.num_inference_steps = internal, n

    return type(f"Uneven{kind.__name__}", (kind,), {"step": step})


def multistep(scheduler: Any, order: int = 2) -> Any:
    """DPM-Solver++ of this order for the same network, every value of its configuration said (the defaults of two
    classes differ). Its timesteps are to be set. Raises AbreastError for schedulers of no known noise schedule."""
    from diffusers import DPMSolverMultistepScheduler, EDMDPMSolverMultistepScheduler

    config, name = scheduler.config, type(scheduler).__name__
    # Thresholds that may not exceed 1 are plain clipping to [-1, 1], which DPM-Solver++ has no other word for.
    clips = bool(config.get("clip_sample", False)) and config.get("clip_sample_range", 1.0) == 1.0
    if name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"):
        shared = ("sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "num_train_timesteps", "rho")
        said = {key: config[key] for key in (*shared, "prediction_type") if key in config}
        return EDMDPMSolverMultistepScheduler(**said, solver_order=order)
    said = {
        "num_train_timesteps": config.get("num_train_timesteps", 1000),
        "solver_order": order,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "thresholding": bool(config.get("thresholding", False)) or clips,
        "dynamic_thresholding_ratio": config.get("dynamic_thresholding_ratio", 0.995),
        "sample_max_value": 1.0 if clips else config.get("sample_max_value", 1.0),
        "timestep_spacing": config.get("timestep_spacing", "linspace"),
        "steps_offset": config.get("steps_offset", 0),
        "rescale_betas_zero_snr": bool(config.get("rescale_betas_zero_snr", False)),
    }
    if is_flow(scheduler):
        shift = config.get("flow_shift", None) or config.get("shift", None) or 1.0
        return DPMSolverMultistepScheduler(
            **said, use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction"
        )
    if not hasattr(scheduler, "betas") or name == "IPNDMScheduler":
        raise AbreastError(f"{name} has no training schedule of betas, so DPM-Solver++ cannot stand in for it.")
    kinds = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
    betas = scheduler.betas.cpu().numpy()
    return DPMSolverMultistepScheduler(**said, trained_betas=betas, prediction_type=kinds[prediction(scheduler)])
