"""A pipeline's own way from the last latents to pictures, and how its methods are replaced for a while."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Decoder:
    """From a last state to pictures [B, C, H, W] (or frames) by the pipeline's own ending: its loop is run for one
    step, whose network is a stub and whose scheduler returns the state."""

    def __init__(self, pipe: Any, net: torch.nn.Module, call: Mapping[str, Any], raw: list[Any], doubled: bool):
        self.pipe, self.net, self.call, self.raw, self.doubled = pipe, net, dict(call), raw, doubled

    def __call__(self, x: Tensor) -> Tensor:
        scheduler, count = self.pipe.scheduler, [0]
        set_timesteps = scheduler.set_timesteps
        state = torch.cat([x, x]) if self.doubled else x

        def forward(*_: Any, **__: Any) -> Any:
            count[0] += 1
            return self.raw[(count[0] - 1) % len(self.raw)]

        @functools.wraps(scheduler.step)
        def step(*_: Any, **__: Any) -> Any:
            return _Stepped((state, state))

        @functools.wraps(set_timesteps)
        def one(*args: Any, **more: Any) -> None:
            set_timesteps(*args, **more)
            scheduler.timesteps = scheduler.timesteps[:1]

        call = {**copied(self.call), **({"output_type": "pt"} if takes(self.pipe, "output_type") else {})}
        stubs = replaced(scheduler, step=step, set_timesteps=one)
        still = torch.random.fork_rng(devices=devices(self.pipe))
        with replaced(self.net, forward=forward), stubs, quiet(self.pipe), still:
            out = self.pipe(**call)
        pictures = next((getattr(out, k) for k in ("images", "frames", "audios") if hasattr(out, k)), out[0])
        if isinstance(pictures, Tensor):
            return pictures
        picture = torch.as_tensor(pictures)
        return picture.movedim(-1, 1) if picture.ndim == 4 and picture.shape[-1] in (1, 3) else picture


class _Stepped(tuple):
    """What a step returns, as a tuple or by name."""

    @property
    def prev_sample(self) -> Tensor:
        return self[0]


def takes(pipe: Any, argument: str) -> bool:
    return argument in inspect.signature(pipe.__call__).parameters


def copied(call: Mapping[str, Any]) -> dict[str, Any]:
    """The call with generators of its own, so that every run of it draws the same."""
    generator = call.get("generator")
    if isinstance(generator, (list, tuple)):
        return {**call, "generator": [g.clone_state() for g in generator]}
    return {**call, "generator": generator.clone_state()} if generator is not None else dict(call)


@contextmanager
def replaced(thing: Any, **methods: Any) -> Iterator[None]:
    """Methods of an object replaced for a while."""
    before = {name: vars(thing)[name] for name in methods if name in vars(thing)}
    for name, method in methods.items():
        object.__setattr__(thing, name, method)
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(thing, name)
        for name, method in before.items():
            object.__setattr__(thing, name, method)


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """No progress bar for a loop that nobody asked for."""
    before = getattr(pipe, "_progress_bar_config", None)
    pipe._progress_bar_config = {"disable": True}
    try:
        yield
    finally:
        if before is None:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before


def devices(pipe: Any) -> list[Any]:
    device = getattr(pipe, "device", None)
    return [device] if device is not None and device.type == "cuda" else []
