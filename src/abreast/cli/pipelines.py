"""The diffusion pipeline that a command is asked about, and the problem that a call of it is."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abreast.cli import inputs
from abreast.core.errors import AbreastError, nearest

SCHEDULERS = {
    "ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler", "heun": "HeunDiscreteScheduler",
    "dpm-solver++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler", "pndm": "PNDMScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler", "flow-heun": "FlowMatchHeunDiscreteScheduler",
}  # fmt: skip
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Asked:
    """The options that name a call of a pipeline; what is None is left to the pipeline."""

    pipeline: str
    labels: tuple[int, ...] = ()
    prompt: str | None = None
    steps: int | None = None
    scheduler: str | None = None
    batch: int | None = None
    guidance: float | None = None
    frames: int | None = None
    seed: int = 0
    dtype: str = "float32"


@dataclass(frozen=True)
class Described:
    """The problem, what it is called, and what was asked."""

    problem: Any
    name: str
    scheduler: str
    source: str

    def facts(self) -> dict[str, Any]:
        """What is saved of it."""
        from abreast.diffuse.forecast import cost

        noise = self.problem.noise
        return {"name": self.name, "source": self.source, "steps": self.problem.length, "batch": len(noise),
                "state": list(noise.shape[1:]), "cost": cost(self.problem)}  # fmt: skip

    @property
    def dtype(self) -> str:
        return str(self.problem.noise.dtype).removeprefix("torch.")


def check(asked: Asked) -> None:
    """Raise AbreastError, before anything is loaded, where an option can mean nothing."""
    if asked.dtype not in DTYPES:
        raise AbreastError(f"--dtype is {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, not {asked.dtype!r}.")
    if asked.prompt is not None and asked.labels:
        raise AbreastError("--prompt and --class-label ask for two kinds of condition: give one of them.")
    if asked.prompt is not None and not asked.prompt.strip():
        raise AbreastError("--prompt is empty: give at least one word.")
    if asked.guidance is not None and not 0 <= asked.guidance < float("inf"):
        raise AbreastError(f"--guidance is a scale from 0 on, not {asked.guidance:g}.")
    if len(asked.labels) > 1 and asked.batch is not None and asked.batch != len(asked.labels):
        raise AbreastError(
            f"{len(asked.labels)} labels are a batch of {len(asked.labels)}, not {asked.batch}: leave --batch out."
        )
    if asked.scheduler is not None and not asked.scheduler.endswith("Scheduler") and asked.scheduler not in SCHEDULERS:
        raise AbreastError(f"no scheduler is called {asked.scheduler!r}: {nearest(asked.scheduler, SCHEDULERS)}")
    _place(asked.pipeline)


def _place(name: str) -> str:
    """What a pipeline's name means: "zoo", "folder" or "hub". Raises AbreastError where it means nothing."""
    from abreast.zoo.diffusion import DENOISERS

    if name in DENOISERS:
        return "zoo"
    path = Path(name)
    if path.exists():
        if not (path / "model_index.json").is_file():
            raise AbreastError(f"{name} is no folder of a diffusers pipeline: it has no model_index.json.")
        return "folder"
    if (
        difflib.get_close_matches(name, DENOISERS, n=1, cutoff=0.7)
        or name.count("/") != 1
        or name.startswith((".", "/"))
    ):
        hint = nearest(name, DENOISERS) or f"the zoo has {', '.join(DENOISERS)}."
        raise AbreastError(f"there is no pipeline {name!r}, neither in the zoo nor as a folder: {hint}")
    return "hub"


def build(asked: Asked) -> Described:
    """The problem. Raises AbreastError where the pipeline cannot be loaded, takes no such option, or is refused."""
    check(asked)
    pipe = _loaded(asked)
    if asked.scheduler is not None:
        pipe.scheduler = _scheduler(asked.scheduler, pipe.scheduler)
    call = _call(asked, pipe)
    from abreast.diffuse import Sampling

    try:
        problem = Sampling.from_diffusers(pipe, seed=asked.seed, **call)
    except AbreastError:
        raise
    except Exception as error:
        raise AbreastError(f"{type(pipe).__name__} cannot be called so: {_one_line(error)}") from error
    said = [f"{key.replace('_', ' ')} {value}" for key, value in call.items() if key in ("prompt", "guidance_scale")]
    if asked.labels:
        said.append(f"labels {', '.join(map(str, call.get('class_labels', asked.labels)))}")
    kind = type(pipe.scheduler).__name__
    return Described(problem, Path(asked.pipeline).name, kind, "; ".join([kind, *said]))


def _loaded(asked: Asked) -> Any:
    place = _place(asked.pipeline)
    try:
        import diffusers
    except ImportError as error:
        raise AbreastError("diffusers does not import here: run 'pip install abreast[diffuse]'.") from error
    import torch

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    inputs.quiet()
    if place == "zoo":
        if asked.dtype != "float32":
            raise AbreastError(f"{asked.pipeline} is a model in float32: leave --dtype out.")
        from abreast.zoo import load_pipeline

        return load_pipeline(asked.pipeline)
    alone = place == "hub" and not inputs._hub_answers()
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            asked.pipeline, torch_dtype=getattr(torch, asked.dtype), local_files_only=alone or place == "folder"
        )
    except Exception as error:
        why = ", and the Hugging Face Hub cannot be reached from here" if alone else f": {_one_line(error)}"
        what = "is not in the local Hub cache" if alone else "could not be loaded"
        raise AbreastError(f"{asked.pipeline} {what}{why}{'.' if alone else ''}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _scheduler(name: str, own: Any) -> Any:
    import diffusers

    kind = getattr(diffusers, SCHEDULERS.get(name, name), None)
    if kind is None:
        raise AbreastError(f"diffusers has no {name}: {nearest(name, SCHEDULERS)}")
    try:
        return kind.from_config(own.config)
    except (TypeError, ValueError) as error:
        raise AbreastError(f"{name} cannot take the place of {type(own).__name__}: {_one_line(error)}") from error


def _call(asked: Asked, pipe: Any) -> dict[str, Any]:
    """The arguments of the pipeline's call. Raises AbreastError for options that it has no place for."""
    known = inspect.signature(pipe.__call__).parameters
    name = type(pipe).__name__
    call: dict[str, Any] = {}

    def give(option: str, argument: str, value: Any) -> None:
        if value is None:
            return
        if argument not in known:
            raise AbreastError(f"{name} takes no {argument}, so --{option} has nothing to say.")
        call[argument] = value

    give("steps", "num_inference_steps", asked.steps)
    give("prompt", "prompt", asked.prompt)
    give("guidance", "guidance_scale", asked.guidance)
    give("frames", "num_frames", asked.frames)
    if asked.labels:
        labels = list(asked.labels) if len(asked.labels) > 1 else list(asked.labels) * (asked.batch or 1)
        give("class-label", "class_labels", labels)
    elif asked.batch is not None:
        argument = next((a for a in ("num_images_per_prompt", "num_videos_per_prompt", "batch_size") if a in known), "")
        give("batch", argument or "batch_size", asked.batch)
    if "prompt" in known and known["prompt"].default is None and asked.prompt is None:
        raise AbreastError(f"{name} wants a text: give --prompt.")
    return call


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:199]}…"
