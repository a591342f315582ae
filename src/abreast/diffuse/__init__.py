"""Parallel sampling of diffusion models, held against one step at a time.

`Sampling` is the problem: noise, a denoiser and a diffusers scheduler (`Sampling.from_diffusers` takes any pipeline).
Its reference is `Sequential`. The engine is one loop over a scheduler that can be forked, stepped at any index and fed
with keyed noise (`schedule.py`), and a `Denoiser` that predicts at many indices at once and counts what it does
(`denoise.py`). A method either replaces what predicts (patches, layers, branches, caches), through `sequential.loop`,
or the loop itself, through a `StepChain` and the sweeps of `abreast.solve` (steps); to add one, write a frozen
dataclass whose `controls` are `fewer_steps` at its span.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Sampling": "problem",
    "Guidance": "problem",
    "Sequential": "sequential",
    "FewerSteps": "sequential",
    "fewer_steps": "sequential",
    "loop": "sequential",
    "Denoiser": "denoise",
    "StepChain": "recurrence",
    "Stages": "stages",
    "Site": "sites",
    "find_sites": "sites",
    "Sums": "recurrence",
    "ParaDiGMS": "steps.paradigms",
    "ParaStep": "steps.parastep",
    "PCM": "steps.pcm",
    "train_pcm": "steps.pcm",
    "DisplacedPatch": "patches.displaced",
    "PartialPatch": "patches.partial",
    "NaivePatch": "patches.naive",
    "StructureGuided": "patches.structure",
    "Aquarius": "patches.aquarius",
    "StepCache": "patches.step_cache",
    "StripDecode": "patches.decode",
    "Decoding": "patches.decode",
    "AsyncStages": "layers.async_stages",
    "LightningCP": "layers.lightning",
    "CachedSteps": "layers.lightning",
    "FeatureCache": "layers.feature_cache",
    "ForegroundAttention": "layers.foreground",
    "Mask": "layers.foreground",
    "DualPipeline": "frames.dual_pipeline",
    "BlockQueue": "frames.block_queue",
    "continuity": "frames.block_queue",
    "fork": "schedule",
    "step_at": "schedule",
    "scaled": "schedule",
    "batch_step": "batch",
    "held": "levels",
    "sigma": "levels",
    "tolerance_scale": "levels",
}
METHODS = (
    "Sequential", "FewerSteps", "ParaDiGMS", "ParaStep", "PCM", "DisplacedPatch", "PartialPatch", "NaivePatch",
    "StructureGuided", "Aquarius", "StepCache", "AsyncStages", "LightningCP", "CachedSteps", "DualPipeline",
)  # fmt: skip

__all__ = ["METHODS", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Loads torch, and diffusers, only where something of this room is used."""
    if name in _HOMES:
        return getattr(import_module(f"abreast.diffuse.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'abreast.diffuse' has no attribute {name!r}")
