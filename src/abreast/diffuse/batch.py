"""Steps at many indices at once, bit-equal to one after the other.

Axes: n indices, B samples. Only schedulers whose step is a closed formula of index, state, output and noise have
a vectorised form; for every other the rows are looped over, on forks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abreast.core import AbreastError
from abreast.diffuse.schedule import fork, length, memory, step_at


def batch_step(scheduler: Any, i: Any, out: Tensor, x: Tensor, noise: Tensor | None = None, **options: Any) -> Tensor:
    """States after steps i [n] from x [n, B, *] with outputs out [n, B, *] and noise [n, B, *]: row by row what
    `step_at` gives.

    The scheduler must be free: AbreastError where a step depends on what was stepped before (`memory`), or the shapes
    do not fit.
    """
    index = torch.as_tensor(i, device="cpu").reshape(-1)
    if len(x) != len(index) or len(out) != len(index):
        raise AbreastError(f"{len(index)} indices need as many states and outputs, not {len(x)} and {len(out)}.")
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < length(scheduler):
        raise AbreastError(f"steps are numbered 0 to {length(scheduler) - 1}, not {index.tolist()}.")
    formula = _formula(scheduler, out, x, options)
    if formula is not None:
        return formula(scheduler, index, out, x, noise)
    if memory(scheduler):
        raise AbreastError(
            f"{type(scheduler).__name__} remembers earlier steps ({', '.join(sorted(memory(scheduler)))}): "
            "its steps can only be taken in order, each on the fork that the one before has left."
        )
    cursor = fork(scheduler)
    rows = [
        step_at(cursor, k, out[row], x[row], None if noise is None else noise[row], **options)
        for row, k in enumerate(index.tolist())
    ]
    return torch.stack(rows) if rows else x


def _formula(scheduler: Any, out: Tensor, x: Tensor, options: dict[str, Any]) -> Any:
    """The vectorised form of this scheduler's step with these options, or None.

    Not in 16 bits: there a table entry is rounded where it is a scalar, and is not where it has an axis.
    """
    config, same = scheduler.config, out.shape == x.shape and out.dtype == x.dtype
    if not same or x.dtype not in (torch.float32, torch.float64) or any(options.values()):
        return None
    if config.get("thresholding", False):
        return None
    name = type(scheduler).__name__
    if name in ("DDIMScheduler", "DDIMParallelScheduler"):
        return _ddim
    if name in ("DDPMScheduler", "DDPMParallelScheduler") and config.variance_type in ("fixed_small", "fixed_large"):
        return _ddpm
    if name == "EulerDiscreteScheduler":
        return _euler
    if name == "FlowMatchEulerDiscreteScheduler" and not config.stochastic_sampling:
        return _flow_euler
    return None


def _column(entries: Tensor, x: Tensor) -> Tensor:
    return entries.to(x.device).reshape(-1, *[1] * (x.ndim - 1))


def _clean(scheduler: Any, alpha: Tensor, out: Tensor, x: Tensor) -> Tensor:
    """The predicted picture of a VP scheduler, clipped as its configuration says."""
    config, beta = scheduler.config, 1 - alpha
    if config.prediction_type == "epsilon":
        clean = (x - beta**0.5 * out) / alpha**0.5
    elif config.prediction_type == "v_prediction":
        clean = alpha**0.5 * x - beta**0.5 * out
    else:
        clean = out
    limit = config.clip_sample_range
    return clean.clamp(-limit, limit) if config.clip_sample else clean


def _ddim(scheduler: Any, i: Tensor, out: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
    t = scheduler.timesteps.cpu()[i]
    before = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    table = scheduler.alphas_cumprod.cpu()
    alpha = _column(table[t], x)
    alpha_next = _column(torch.where(before >= 0, table[before.clamp(min=0)], scheduler.final_alpha_cumprod), x)
    beta, kind = 1 - alpha, scheduler.config.prediction_type
    clean = _clean(scheduler, alpha, out, x)
    if kind == "epsilon":
        noise_now = out
    elif kind == "sample":
        noise_now = (x - alpha**0.5 * out) / beta**0.5
    else:
        noise_now = alpha**0.5 * out + beta**0.5 * x
    return alpha_next**0.5 * clean + (1 - alpha_next) ** 0.5 * noise_now


def _ddpm(scheduler: Any, i: Tensor, out: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
    times = scheduler.timesteps.cpu()
    t, before = times[i], torch.cat([times[1:], times.new_tensor([-1])])[i]
    table = scheduler.alphas_cumprod.cpu()
    alpha, after = table[t], torch.where(before >= 0, table[before.clamp(min=0)], scheduler.one)
    beta, beta_after, ratio = 1 - alpha, 1 - after, alpha / after
    fresh = 1 - ratio
    clean = _clean(scheduler, _column(alpha, x), out, x)
    mean = _column(after**0.5 * fresh / beta, x) * clean + _column(ratio**0.5 * beta_after / beta, x) * x
    if not bool((t > 0).any()):
        return mean
    if noise is None:
        raise AbreastError("DDPM draws noise in every step but the last: give one draw for each row.")
    small = ((1 - after) / (1 - alpha) * fresh).clamp(min=1e-20)
    std = (small if scheduler.config.variance_type == "fixed_small" else fresh) ** 0.5
    drawn = _column(t > 0, x)
    return torch.where(drawn, mean + _column(std, x) * noise.to(x), mean)


def _euler(scheduler: Any, i: Tensor, out: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
    levels = scheduler.sigmas.cpu()
    level, fall = _column(levels[i], x), _column(levels[i + 1] - levels[i], x)
    wide, kind = x.float(), scheduler.config.prediction_type
    if kind == "epsilon":
        clean = wide - level * out
    elif kind == "v_prediction":
        clean = out * (-level / (level**2 + 1) ** 0.5) + wide / (level**2 + 1)
    else:
        clean = out
    return (wide + (wide - clean) / level * fall).to(out.dtype)


def _flow_euler(scheduler: Any, i: Tensor, out: Tensor, x: Tensor, noise: Tensor | None) -> Tensor:
    levels = scheduler.sigmas.cpu()
    return (x.float() + _column(levels[i + 1] - levels[i], x) * out).to(out.dtype)
