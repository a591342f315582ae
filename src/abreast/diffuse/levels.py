"""Noise levels of a scheduler's states, what a network's output says about them, and how far two states may differ.

A state at index i is x_i = a_i x0 + s_i e, with x0 the clean picture and e standard normal noise. VP schedulers keep
a² + s² = 1, VE ones a = 1, flows a + s = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from abreast.core import AbreastError
from abreast.diffuse.schedule import length


def signal(scheduler: Any) -> tuple[Tensor, Tensor]:
    """a and s of every state, float64 [n + 1]; the last is the sample itself.

    Raises AbreastError for a scheduler whose states are of another form.
    """
    name, n = type(scheduler).__name__, length(scheduler)
    if name == "IPNDMScheduler":
        return scheduler.alphas.double()[: n + 1].clone(), scheduler.betas.double()[: n + 1].clone()
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= n + 1 and name not in _BY_TIMESTEP and name not in _UNTOLD:
        s = sigmas.detach().double().cpu()[: n + 1].clone()
        if hasattr(scheduler, "sigmas_interpol"):
            first = 0 if "Ancestral" in name else 1
            s[1:n:2] = scheduler.sigmas_interpol.double().cpu()[first : n - 1 + first : 2]
        if is_flow(scheduler):
            return 1 - s, s
        if hasattr(scheduler, "_sigma_to_alpha_sigma_t") and not hasattr(scheduler, "precondition_inputs"):
            a = 1 / (s**2 + 1) ** 0.5
            return a, s * a
        return torch.ones_like(s), s
    if hasattr(scheduler, "alphas_cumprod") and name not in _UNTOLD:
        bar = scheduler.alphas_cumprod.double().cpu()[scheduler.timesteps.long().cpu()]
        last = torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0)).double().reshape(1)
        bar = torch.cat([bar, last])
        return bar**0.5, (1 - bar) ** 0.5
    raise AbreastError(f"the noise levels of {name}'s states are not known: its output cannot be converted.")


_BY_TIMESTEP = {"LCMScheduler", "TCDScheduler"}
_UNTOLD = {"DPMSolverSDEScheduler", "CMStochasticIterativeScheduler"}


def is_flow(scheduler: Any) -> bool:
    """Whether states are (1 - s) x0 + s e."""
    config = scheduler.config
    return type(scheduler).__name__.startswith("FlowMatch") or bool(config.get("use_flow_sigmas", False))


def sigma(scheduler: Any) -> Tensor:
    """Noise over signal, s / a, of every state, float64 [n + 1]; falls to 0."""
    a, s = signal(scheduler)
    return s / a


def tolerance_scale(scheduler: Any) -> Tensor:
    """By how much states x_0 .. x_n may be off and count as unchanged at tolerance 1, float64 [n + 1].

    VP schedulers: the standard deviation of DDPM's posterior at that state, also for samplers that draw nothing (Shih
    et al., 2023); sigma and flow schedulers: how far the level falls in the step from there. 0 for the last state.
    """
    a, s = signal(scheduler)
    if is_flow(scheduler) or bool((a == 1).all()):
        fall = (s[1:] - s[:-1]).abs()
        for i in range(1, len(fall)):  # solvers with two calls a step list a level twice
            if fall[i] == 0:
                fall[i] = fall[i - 1]
    else:
        now, after = a[:-1] ** 2, a[1:] ** 2
        fall = ((1 - after) / (1 - now) * (1 - now / after).clamp(min=0)).clamp(min=0).nan_to_num(0.0) ** 0.5
    return torch.cat([fall, fall.new_zeros(1)])


def prediction(scheduler: Any) -> str:
    """What the network's output is: epsilon, v, x0 or flow."""
    if type(scheduler).__name__ == "IPNDMScheduler":
        return "v"
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    said = scheduler.config.get("prediction_type", "epsilon")
    names = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
    if said not in names:
        raise AbreastError(f"{type(scheduler).__name__} predicts {said}, which cannot be converted.")
    return names[said]


def held(scheduler: Any, i: Any, value: Tensor, x: Tensor, source: str, target: str) -> Tensor:
    """What was said of state x_i as `source`, said as `target`.

    i: an index and x [B, *], or indices [n] and x [n, B, *]; value has the shape of x. Names: "output" (whatever the
    network gives), "x0", "epsilon", "v" (the velocity, a e - s x0 of the state normed to a² + s² = 1; of a flow
    e - x0). Methods that iterate hold v: it barely changes as x moves. Raises AbreastError for another name, or an
    output of twice the channels (learned variances).
    """
    if source == target:
        return value
    if value.shape != x.shape:
        raise AbreastError("an output with learned variances cannot be converted: it has channels beside the picture.")
    a, s = (_at(table, i, x) for table in signal(scheduler))
    flow = is_flow(scheduler)
    norm = torch.ones_like(a) if flow else (a**2 + s**2) ** 0.5
    into, out_of = _output(scheduler, a, s, norm, x)
    ways: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "output": (into, out_of),
        "x0": (lambda y: y, lambda x0: x0),
        "epsilon": (lambda e: (x - s * e) / a, lambda x0: (x - a * x0) / s),
        "v": _flow(a, s, x) if flow else _velocity(a / norm, s / norm, x / norm),
    }
    for name in (source, target):
        if name not in ways:
            raise AbreastError(f"an output can be held as {', '.join(ways)}, not as {name}.")
    return ways[target][1](ways[source][0](value)).to(value.dtype)


def _at(table: Tensor, i: Any, x: Tensor) -> Tensor:
    """Entries i of a table, shaped to be multiplied with x, in float64 (float32 on devices without)."""
    index = torch.as_tensor(i, device="cpu")
    entries = table[index].to(x.device, torch.float64 if x.device.type != "mps" else torch.float32)
    return entries.reshape(*entries.shape, *[1] * (x.ndim - entries.ndim))


Way = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def _velocity(a: Tensor, s: Tensor, x: Tensor) -> Way:
    return (lambda v: a * x - s * v), (lambda x0: (a * x - x0) / s)


def _flow(a: Tensor, s: Tensor, x: Tensor) -> Way:
    return (lambda v: x - s * v), (lambda x0: (x - x0) / s)


def _output(scheduler: Any, a: Tensor, s: Tensor, norm: Tensor, x: Tensor) -> Way:
    """From the network's output to x0, and back."""
    kind = prediction(scheduler)
    if hasattr(scheduler, "precondition_outputs"):
        data = scheduler.config.sigma_data
        skip, gain = data**2 / (s**2 + data**2), s * data / (s**2 + data**2) ** 0.5
        gain = -gain if kind == "v" else gain
        return (lambda y: skip * x + gain * y), (lambda x0: (x0 - skip * x) / gain)
    if kind == "x0":
        return (lambda y: y), (lambda x0: x0)
    if kind == "flow":
        return _flow(a, s, x)
    if kind == "v":
        return _velocity(a / norm, s / norm, x / norm)
    return (lambda e: (x - s * e) / a), (lambda x0: (x - a * x0) / s)
