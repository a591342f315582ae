"""A diffusers scheduler as the methods of this room need it: forked, stepped at an index, fed with given noise.

Axes: B samples, n step indices abreast; a state is [B, *]. An index i counts calls of the network, so it runs over
`scheduler.timesteps` (2n - 1 of them for Heun), and step i leads from state x_i to x_{i+1}.
"""

from __future__ import annotations

import copy
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abreast.core import AbreastError

Noise = Tensor | Callable[[], Tensor] | None
_patching = threading.Lock()
_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.ndarray, np.generic, torch.dtype, torch.device, type)


def fork(scheduler: Any) -> Any:
    """A scheduler that goes on from here on its own, history included; the tables are shared (some 10 us).

    A Brownian tree is a function of two times, so it is shared too. Raises AbreastError where something is no
    scheduler, or keeps an object that cannot be told apart from a table.
    """
    if not (hasattr(scheduler, "step") and hasattr(scheduler, "__dict__")):
        raise AbreastError(f"a diffusers scheduler is wanted, not {type(scheduler).__name__}.")
    twin = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if not isinstance(value, _PLAIN):
            twin.__dict__[name] = _forked(value, f"{type(scheduler).__name__}.{name}")
    return twin


def _forked(value: Any, name: str) -> Any:
    if isinstance(value, Tensor):
        # PNDM adds to `cur_model_output` in place; tables have one axis and are only read.
        return value.clone() if value.ndim > 1 else value
    if isinstance(value, (list, tuple)):
        return type(value)(v if isinstance(v, (*_PLAIN, Tensor)) else _forked(v, name) for v in value)
    if isinstance(value, Mapping):
        return value if type(value) is not dict else {k: _forked(v, name) for k, v in value.items()}
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if hasattr(value, "step") and hasattr(value, "timesteps"):
        return fork(value)
    if isinstance(value, _PLAIN) or callable(value):
        return value
    raise AbreastError(f"{name} holds a {type(value).__name__}, which cannot be forked: every branch needs its own.")


def length(scheduler: Any) -> int:
    """How many calls of the network a run takes. Raises AbreastError where the timesteps have not been set."""
    if getattr(scheduler, "num_inference_steps", 0) is None or not len(getattr(scheduler, "timesteps", ())):
        raise AbreastError(f"{type(scheduler).__name__} has no timesteps yet: pass steps=..., or call set_timesteps.")
    return len(scheduler.timesteps)


def place(scheduler: Any, i: int | None) -> None:
    """Let the scheduler know that the next call belongs to index i. It would find the index from the first timestep
    and count from there on, taking the second match where timesteps repeat."""
    if hasattr(scheduler, "_step_index"):
        scheduler._step_index = i


def scaled(scheduler: Any, i: int, x: Tensor) -> Tensor:
    """What the network is shown of state x [B, *] at index i, whatever was asked before.

    Solvers that call the network between two times scale the second call by their memory of the first, so for these
    the scheduler must be the one that has stepped to i; `Scaler` has one for every index.
    """
    if not hasattr(scheduler, "scale_model_input"):
        return x
    place(scheduler, i)
    return scheduler.scale_model_input(x, scheduler.timesteps[i])


class Scaler:
    """`scaled` at any index in any order."""

    def __init__(self, scheduler: Any):
        self.at = [fork(scheduler)]
        if not hasattr(scheduler, "state_in_first_order"):
            return
        twin, x = _idle(scheduler)
        for i in range(length(scheduler)):
            step_at(twin, i, x, scaled(twin, i, x), x)
            self.at.append(fork(twin))

    def __call__(self, i: int, x: Tensor) -> Tensor:
        return scaled(self.at[min(i, len(self.at) - 1)], i, x)


def plant(scheduler: Any, x: Tensor, seeds: list[int]) -> Any:
    """Give a scheduler that draws from a Brownian tree its tree, so that forks share it: one of each row's own seed,
    for states like x [B, *]. Other schedulers pass. Raises AbreastError where torchsde is not installed."""
    if getattr(scheduler, "noise_sampler", x) is None:
        from diffusers.schedulers import scheduling_dpmsolver_sde as home

        if not hasattr(home, "torchsde"):
            raise AbreastError(f"{type(scheduler).__name__} needs torchsde: pip install torchsde.")
        sigmas = scheduler.sigmas[scheduler.sigmas > 0]
        low, high = float(sigmas.min()), float(scheduler.sigmas.max())
        scheduler.noise_sampler = home.BrownianTreeNoiseSampler(x, low, high, seeds)
    return scheduler


def step_at(scheduler: Any, i: int, out: Tensor, x: Tensor, noise: Noise = None, **options: Any) -> Tensor:
    """State x_{i+1} [B, *] from x_i and the network's output there.

    A free scheduler (see `memory`) takes indices in any order; another one in order, starting on a fresh fork. noise:
    the standard normal draw of this step [B, *], or a function that gives it where it is asked for (most steps draw
    none). options: further arguments of the scheduler's `step`, such as eta. Raises AbreastError where a step draws
    and there is no noise, or draws twice.
    """
    place(scheduler, i)
    if getattr(scheduler, "is_scale_input_called", True) is False:
        scheduler.is_scale_input_called = True  # `scaled` was asked on another fork; else a warning is logged
    t = scheduler.timesteps[i]
    if not _drawing(type(scheduler)):
        return scheduler.step(out, t, x, return_dict=False, **options)[0]
    with _Fed(scheduler, noise):
        return scheduler.step(out, t, x, return_dict=False, **options)[0]


def _drawing(kind: type) -> list[Any]:
    """The modules in which a scheduler's class, or one that it inherits from, draws noise."""
    modules: list[Any] = [sys.modules.get(base.__module__) for base in kind.__mro__]
    return [module for module in dict.fromkeys(modules) if hasattr(module, "randn_tensor")]


class _Fed:
    """While open, the scheduler's own module draws the noise given here: only two schedulers take it as an argument.
    Seeded generators would do for whole states in float32, but not for strips of a picture or other types."""

    def __init__(self, scheduler: Any, noise: Noise):
        self.noise, self.left, self.name = noise, 1, type(scheduler).__name__
        self.modules = _drawing(type(scheduler))

    def __enter__(self) -> None:
        _patching.acquire()
        self.plain = [m.randn_tensor for m in self.modules]
        for module in self.modules:
            module.randn_tensor = self.draw

    def __exit__(self, *_: Any) -> None:
        for module, plain in zip(self.modules, self.plain):
            module.randn_tensor = plain
        _patching.release()

    def draw(self, shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None) -> Any:
        noise = self.noise() if callable(self.noise) else self.noise
        if noise is None:
            raise AbreastError(f"{self.name} draws noise in its step: give the draw, one state's worth.")
        if tuple(noise.shape) != tuple(shape) or not self.left:
            seen = f"of shape {list(shape)}" if self.left else "twice in one step"
            raise AbreastError(f"{self.name} draws {seen}, and the noise given is one of {list(noise.shape)}.")
        self.left -= 1
        return noise.to(device=device, dtype=dtype)


def memory(scheduler: Any) -> frozenset[str]:
    """The attributes that a step changes, found by taking one on a fork; a *free* scheduler has none.

    Its step depends on index, state, output and noise alone. `_step_index` does not count: `place` sets it.
    """
    last = length(scheduler) - 1
    twin, x = _idle(scheduler)
    step_at(twin, 0, x + 0.1, scaled(twin, 0, x), x)  # the first step may set constants
    before = dict(vars(fork(twin)))
    step_at(twin, min(1, last), x + 0.2, scaled(twin, min(1, last), x), x)
    ignored = {"_step_index", "is_scale_input_called"}
    return frozenset(
        name for name, value in vars(twin).items() if name not in ignored and _changed(before, name, value)
    )


def draws(scheduler: Any, **options: Any) -> bool:
    """Whether its first two steps draw noise (or a Brownian tree stands for it)."""
    twin, x = _idle(scheduler)
    asked = [hasattr(twin, "noise_sampler")]

    def noise() -> Tensor:
        asked[0] = True
        return x

    for i in range(min(2, length(scheduler))):
        step_at(twin, i, x, scaled(twin, i, x), noise, **options)
    return asked[0]


def _idle(scheduler: Any) -> tuple[Any, Tensor]:
    """A fork for trial steps, and a state of zeros for it; what draws from a Brownian tree draws zeros."""
    twin, x = fork(scheduler), torch.zeros(1, 1, 2, 2)
    if hasattr(twin, "noise_sampler"):
        twin.noise_sampler = lambda *_: torch.zeros_like(x)
    return twin, x


def _changed(before: Mapping[str, Any], name: str, value: Any) -> bool:
    if name not in before:
        return True
    old = before[name]
    if isinstance(value, (list, tuple)) and isinstance(old, (list, tuple)):
        return len(old) != len(value) or any(a is not b for a, b in zip(old, value))
    if isinstance(value, _PLAIN[:7]) and isinstance(old, _PLAIN[:7]):
        return bool(value != old)
    if isinstance(value, Tensor) and isinstance(old, Tensor) and value.shape == old.shape:
        return not torch.equal(value, old)
    return value is not old and not isinstance(value, Mapping)


def rounds_to_single(scheduler: Any) -> bool:
    """Whether a step rounds states to float32 whatever they come in: then a run in float64 is exact to that only."""
    x = torch.linspace(0.1, 0.9, 4, dtype=torch.float64).reshape(1, 1, 2, 2)
    y, near = (step_at(_idle(scheduler)[0], 0, x / 3, state, x * 0) for state in (x / 7, x / 7 * (1 + 1e-12)))
    return torch.equal(y, near)


def accepts(scheduler: Any, option: str) -> bool:
    """Whether the scheduler's `step` has an argument of this name."""
    return option in inspect.signature(scheduler.step).parameters
