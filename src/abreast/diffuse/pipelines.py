"""Any diffusers pipeline as a problem: its conditions, guidance, timesteps and schedule, read off its own loop.

The pipeline is run once with its network called in the first step only; later steps get the same outputs again, so
the whole loop is seen for the price of one evaluation. What cannot be said as a `Sampling` is refused.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from abreast.core import AbreastError
from abreast.diffuse import schedule
from abreast.diffuse.decoding import Decoder, copied, devices, quiet, replaced, takes
from abreast.diffuse.networks import Module, cut, result
from abreast.diffuse.problem import Guidance, Sampling
from abreast.workers import World


def capture(pipe: Any, seed: int = 0, **call: Any) -> Sampling:
    """The problem that `pipe(**call)` solves, with what the pipeline makes of prompts, labels and sizes.

    Its reference gives bit for bit the latents of `pipe(**call)`, except where a scheduler draws noise: the pipeline
    then draws from one generator in order (or, where it hands none to `step`, as Flux, SD3, Wan, LTX and DiT, from the
    global state), the problem a keyed draw for each step and row. seed: of these draws, and of the first noise where
    the call has no generator. A generator in the call is copied, not used up. `decode` is the pipeline's own ending.
    Costs two evaluations of the network. Raises AbreastError for pipelines that show the network more than the scaled
    state, combine its outputs otherwise than by guidance, or change conditions or guidance from step to step.
    """
    name = type(pipe).__name__
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise AbreastError(f"a diffusers pipeline with a scheduler is wanted, not {name}.")
    if call.get("callback_on_step_end") is not None:
        raise AbreastError("a callback may change the latents between steps: capture the pipeline without it.")
    net = _network(pipe)
    seen = _Loop(pipe, net)
    call = _seeded(pipe, seed, call)
    with seen.recording(), quiet(pipe), torch.random.fork_rng(devices=devices(pipe)), suppress(_Stop):
        pipe(**copied(call))
    if seen.scheduler is None:
        raise AbreastError(f"{name} made no step of its scheduler, so there is nothing to sample.")
    if len(seen.states) < len(seen.scheduler.timesteps):
        raise AbreastError(f"{name} stopped after {len(seen.states)} of {len(seen.scheduler.timesteps)} steps.")
    reading = seen.read(_scales(pipe, call))
    noise = reading.x / getattr(seen.scheduler, "init_noise_sigma", 1.0)
    problem = Sampling(
        reading.network(net), seen.scheduler, noise, cond=reading.cond, guidance=reading.guidance, seed=seed,
        options=seen.options, start=reading.x, clock=Clock(seen.scheduler.timesteps, torch.stack(seen.times)),
        decode=None if call.get("output_type") == "latent" else Decoder(pipe, net, call, seen.raw, reading.doubled),
    )  # fmt: skip
    _check(problem, reading, name)
    if not seen.generator and schedule.draws(seen.scheduler, **seen.options):
        warnings.warn(
            f"{name} hands no generator to {type(seen.scheduler).__name__}.step, so a plain call does not repeat; "
            "this problem draws keyed noise instead.",
            stacklevel=3,
        )
    return problem


class _Stop(Exception):
    """Ends the pipeline's loop once all is seen."""


class _Loop:
    """What a pipeline's loop does, recorded: raw outputs and arguments of the first step, timesteps of all."""

    def __init__(self, pipe: Any, net: torch.nn.Module):
        self.pipe, self.net, self.name = pipe, net, type(pipe).__name__
        names = list(inspect.signature(net.forward).parameters)
        face = Module(net)
        self.names, self.x, self.t = names, face.x, face.t
        self.scheduler: Any = None
        self.calls: list[dict[str, Any]] = []  # arguments of the first step's calls
        self.raw: list[Any] = []  # and what they returned
        self.now: list[dict[str, Any]] = []  # arguments of the calls since the last step
        self.times: list[Tensor] = []
        self.states: list[Tensor] = []
        self.guided: Tensor | None = None
        self.options: dict[str, Any] = {}
        self.generator = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        scheduler = self.pipe.scheduler
        self.plain_forward, self.plain_step = self.net.forward, scheduler.step

        @functools.wraps(self.plain_step)
        def step(*args: Any, **more: Any) -> Any:
            return self.step(*args, **more)

        second = getattr(self.pipe, "transformer_2", None)
        with replaced(self.net, forward=self.forward), replaced(scheduler, step=step):
            if second is None or second is self.net:
                yield
            else:
                with replaced(second, forward=self.other):
                    yield

    def other(self, *_: Any, **__: Any) -> Any:
        raise AbreastError(f"{self.name} changes from one network to another on its way: that is not supported.")

    def forward(self, *args: Any, **more: Any) -> Any:
        arguments = {**dict(zip(self.names, args)), **more}
        self.now.append(arguments)
        if self.scheduler is None:
            self.calls.append(arguments)
            self.raw.append(self.plain_forward(*args, **more))
        elif len(self.now) > len(self.raw):
            raise AbreastError(f"{self.name} calls its network more often in one step than in another.")
        return self.raw[len(self.now) - 1]

    def step(self, *args: Any, **more: Any) -> Any:
        given = inspect.signature(self.plain_step).bind(*args, **more).arguments
        out, t, x, *_ = given.values()
        if self.scheduler is None:
            self.begin(out, given)
        if self.guided is None or len(self.now) != len(self.raw) or not torch.equal(out, self.guided):
            raise AbreastError(f"{self.name} changes its guidance from step to step: that is not supported.")
        i = len(self.states)
        if float(t) != float(self.scheduler.timesteps[i]):
            planned = float(self.scheduler.timesteps[i])
            raise AbreastError(
                f"{self.name} takes step {i} at timestep {float(t):g}, where its schedule has {planned:g}: sampling "
                "from the middle on, as from an image, is not supported."
            )
        self.compare(i, x)
        self.now = []
        self.states.append(x if not self.states else x[:0])
        if len(self.states) == len(self.scheduler.timesteps):
            raise _Stop
        return self.plain_step(*args, **more)

    def begin(self, out: Tensor, given: Mapping[str, Any]) -> None:
        self.scheduler = schedule.fork(self.pipe.scheduler)
        vars(self.scheduler).pop("step", None)
        schedule.place(self.scheduler, None)
        self.scale = schedule.Scaler(self.scheduler)
        self.guided = out.clone()
        extra = list(given.items())[3:]
        self.generator = dict(extra).get("generator") is not None
        self.options = {k: v for k, v in extra if k not in ("generator", "return_dict") and v is not None}

    def compare(self, i: int, x: Tensor) -> None:
        """Hold this step's calls against its state, and against the first step's."""
        expected = self.scale(i, x)
        times = []
        for first, now in zip(self.calls, self.now):
            shown, t = now[self.x], torch.as_tensor(now[self.t]).flatten()
            fits = shown.shape[1:] == expected.shape[1:] and shown.shape[0] in (len(expected), 2 * len(expected))
            copies = shown.shape[0] // len(expected) if fits else 1
            if not fits or not torch.equal(shown, torch.cat([expected.to(shown.dtype)] * copies)):
                raise AbreastError(
                    f"{self.name} shows its network something else than the scaled state "
                    f"({list(shown.shape)} for a state of {list(x.shape)}): that is not supported."
                )
            for key in now.keys() - {self.x, self.t}:
                if not _same(first.get(key), now[key]):
                    raise AbreastError(f"{self.name} changes {key} from step to step: that is not supported.")
            times += list(t)
        if any(t != times[0] for t in times):
            raise AbreastError(f"{self.name} shows its network different timesteps in one step: that is not supported.")
        self.times.append(times[0])

    def read(self, scales: list[float]) -> _Reading:
        """How outputs become what the scheduler is given. Raises AbreastError where no known way gives the bits."""
        outs, x, guided = [result(raw) for raw in self.raw], self.states[0], self.guided
        assert guided is not None
        for reading in _readings(outs, x, scales):
            for wide in (False, True):
                for sign in (1, -1):
                    if reading.gives(outs, guided, wide, sign):
                        reading.wide, reading.sign, reading.dtype = wide, sign, self.calls[0][self.x].dtype
                        reading.split(self.calls, {self.x, self.t, "return_dict"})
                        return reading
        raise AbreastError(
            f"{self.name} makes of its network's outputs {[list(o.shape) for o in outs]} something else than plain "
            f"guidance (at scale {', '.join(f'{s:g}' for s in scales) or 'none'}): that is not supported."
        )


@dataclass
class _Reading:
    """One way to read the calls of a step: x [B, *], guidance, whether the state holds every sample twice."""

    x: Tensor
    guidance: Guidance | None = None
    doubled: bool = False
    wide: bool = False
    sign: int = 1
    dtype: torch.dtype | None = None
    cond: dict[str, Any] = field(default_factory=dict)
    first: Tensor | None = None

    def gives(self, outs: list[Tensor], guided: Tensor, wide: bool, sign: int) -> bool:
        """Whether this way leads from the outputs to what the scheduler was given, bit for bit."""
        channels = guided.shape[1]
        parts = [o[:, :channels] for o in outs]
        parts = [sign * (o.float() if wide else o) if sign < 0 else o.float() if wide else o for o in parts]
        if self.guidance is not None:
            rows = torch.cat(parts)
            one, two = rows[: len(self.x)], rows[len(self.x) :]
            cond, null = (one, two) if self.guidance.order[0] == "cond" else (two, one)
            if cond.shape != null.shape:
                return False
            made = null + self.guidance.scale * (cond - null)
        else:
            made = parts[0]
        self.first = made
        made = torch.cat([made, made]) if self.doubled else made
        return made.shape == guided.shape and made.dtype == guided.dtype and torch.equal(made, guided)

    def split(self, calls: list[dict[str, Any]], without: set[str]) -> None:
        """Take the conditions of each branch from the calls' arguments."""
        plain = [{k: v for k, v in call.items() if k not in without} for call in calls]
        if self.guidance is None:
            self.cond = plain[0]
            return
        rows = len(self.x)
        parts = (
            plain if len(plain) == 2 else [cut(plain[0], 0, rows, 2 * rows), cut(plain[0], rows, 2 * rows, 2 * rows)]
        )
        named = dict(zip(self.guidance.order, parts))
        self.cond = named["cond"]
        scale, order, together = self.guidance.scale, self.guidance.order, self.guidance.together
        self.guidance = Guidance(scale, named["uncond"], order, together)

    def network(self, net: torch.nn.Module) -> Module:
        return CapturedModule(net, self.dtype, self.wide, self.sign)


def _readings(outs: list[Tensor], x: Tensor, scales: list[float]) -> Iterator[_Reading]:
    if len(outs) == 1 and len(outs[0]) == len(x):
        yield _Reading(x)
    half = len(x) // 2
    doubled = len(x) == 2 * half and torch.equal(x[:half], x[half:])
    for scale in scales:
        for order in (("uncond", "cond"), ("cond", "uncond")):
            if len(outs) == 1 and len(outs[0]) == 2 * len(x):
                yield _Reading(x, Guidance(scale, None, order, True))
            if len(outs) == 2 and len(outs[0]) == len(outs[1]) == len(x):
                yield _Reading(x, Guidance(scale, None, order, False))
            if len(outs) == 1 and len(outs[0]) == len(x) and doubled:
                yield _Reading(x[:half], Guidance(scale, None, order, True), doubled=True)


class CapturedModule(Module):
    """A pipeline's network, shown the type of state that the pipeline shows it; sign and type of the output its own."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype | None, wide: bool, sign: int):
        super().__init__(module)
        self.dtype, self.wide, self.sign = dtype, wide, sign

    def finish(self, out: Any) -> Tensor:
        out = super().finish(out)
        out = out.float() if self.wide else out
        return self.sign * out if self.sign < 0 else out


class Clock:
    """From a scheduler's timesteps to those that the network is shown: as recorded, else on the line through them."""

    def __init__(self, timesteps: Tensor, shown: Tensor):
        self.dtype = shown.dtype
        own, seen = timesteps.double().cpu(), shown.double().cpu()
        self.table = dict(zip(own.tolist(), shown.cpu()))
        x, y = own - own.mean(), seen - seen.mean()
        self.slope = float((x * y).sum() / x.square().sum()) if bool(x.any()) else float(seen[0] / own[0])
        self.offset = float(seen.mean() - self.slope * own.mean())
        miss = float((self.slope * own + self.offset - seen).abs().max())
        limit = 1e-2 if shown.element_size() < 4 else 1e-4
        self.straight = miss <= limit * max(float(seen.abs().max()), 1e-9)

    def __call__(self, timesteps: Tensor) -> Tensor:
        return torch.stack([self.shown(t) for t in timesteps.double().cpu().tolist()]).to(self.dtype)

    def shown(self, t: float) -> Tensor:
        if t in self.table:
            return self.table[t]
        if not self.straight:
            raise AbreastError("this pipeline's timesteps are no straight function of the scheduler's, so only its own "
                               "schedule can be sampled.")  # fmt: skip
        value = self.slope * t + self.offset
        return torch.tensor(round(value) if not self.dtype.is_floating_point else value).to(self.dtype)


def _network(pipe: Any) -> torch.nn.Module:
    for name in ("unet", "transformer", "prior"):
        net = getattr(pipe, name, None)
        if isinstance(net, torch.nn.Module):
            return net
    raise AbreastError(f"{type(pipe).__name__} has no unet and no transformer that denoises.")


def _seeded(pipe: Any, seed: int, call: dict[str, Any]) -> dict[str, Any]:
    if call.get("generator") is None and takes(pipe, "generator"):
        return {**call, "generator": torch.Generator().manual_seed(seed)}
    return call


def _scales(pipe: Any, call: Mapping[str, Any]) -> list[float]:
    """What the guidance scale may be: as the pipeline says, as the call says, by default."""
    names = ("guidance_scale", "true_cfg_scale")
    parameters = inspect.signature(pipe.__call__).parameters
    said = [getattr(pipe, f"_{name}", None) for name in names]
    said += [call.get(name) for name in names]
    said += [parameters[name].default for name in names if name in parameters]
    return list(dict.fromkeys(float(s) for s in said if isinstance(s, (int, float)) and not isinstance(s, bool)))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a is b or bool(a == b)


def _check(problem: Sampling, reading: _Reading, name: str) -> None:
    """The problem's own first evaluation must be the pipeline's."""
    from abreast.diffuse.denoise import Denoiser

    own = Denoiser(problem, World().lane())(0, problem.x0)
    first = reading.first
    assert first is not None
    if not torch.equal(own[:, : first.shape[1]], first):
        error = float((own[:, : first.shape[1]].double() - first.double()).abs().max())
        raise AbreastError(f"{name}'s network, called with what the pipeline gave it, differs by {error:.2g} from what "
                           "the pipeline got: its conditions could not be taken apart.")  # fmt: skip
