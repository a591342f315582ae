"""Methods by the names users type. To add one: a line in METHODS, of its class in this room and its settings on so many
devices; what this abreast has no class for is not offered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from abreast.core import AbreastError, Method, nearest

STEPS, PATCHES, LAYERS, FRAMES, ALL = "steps", "patches", "layers", "frames", "several"


@dataclass(frozen=True)
class Entry:
    """home: the module of this room that has the class `kind`. axis: what the devices share. settings: from their
    number to its fields."""

    home: str
    kind: str
    axis: str
    settings: Callable[[int], dict[str, Any]] = lambda devices: {}

    def load(self) -> type[Method] | None:
        """The class; None where this abreast does not have it."""
        if find_spec(f"abreast.diffuse.{self.home.partition('.')[0]}") is None:
            return None
        if find_spec(f"abreast.diffuse.{self.home}") is None:
            return None
        return getattr(import_module(f"abreast.diffuse.{self.home}"), self.kind, None)


def _shared(name: str, least: int = 2) -> Callable[[int], dict[str, Any]]:
    """Settings of methods that are told how many parts there are; `least` where one device stands for several."""
    return lambda devices: {name: devices if devices > 1 else least}


METHODS = {
    "paradigms": Entry("steps.paradigms", "ParaDiGMS", STEPS),
    "parastep": Entry("steps.parastep", "ParaStep", STEPS, _shared("parallel", 4)),
    "picard-consistency": Entry("steps.pcm", "PCM", STEPS),
    "distrifusion": Entry("patches.displaced", "DisplacedPatch", PATCHES, _shared("patches")),
    "pcpp": Entry("patches.partial", "PartialPatch", PATCHES, _shared("patches")),
    "asgdiffusion": Entry("patches.structure", "StructureGuided", PATCHES),
    "asyncdiff": Entry("layers.async_stages", "AsyncStages", LAYERS, _shared("stages")),
    "lightningcp": Entry("layers.lightning", "LightningCP", STEPS),
    "dualparal": Entry("frames.dual_pipeline", "DualPipeline", FRAMES, _shared("stages")),
    "aquarius": Entry("recipes.aquarius", "Aquarius", ALL),
}
CONTROL = "fewer-steps"
NEEDS = {"picard-consistency": "a tuned denoiser: diffuse.PCM(diffuse.train_pcm(...))"}


def known() -> list[str]:
    """The names that this abreast has a class for and that need nothing but a number of devices, and the control."""
    return [*(name for name, entry in METHODS.items() if name not in NEEDS and entry.load() is not None), CONTROL]


def method(name: str, devices: int = 1, steps: int = 50) -> Method:
    """The method of this name for so many devices; of the control, one with half of `steps`.

    Raises AbreastError for an unknown name, and for one that needs what only Python can give it.
    """
    if name == CONTROL:
        from abreast.diffuse.sequential import FewerSteps

        return FewerSteps(max(1, steps // 2))
    if name in NEEDS:
        raise AbreastError(f"{name} needs {NEEDS[name]}, which only Python can give it.")
    if name not in known():
        raise AbreastError(f"no method is called {name!r}: {nearest(name, known())}")
    kind: Any = METHODS[name].load()
    return kind(**METHODS[name].settings(devices))


def axis(kind: str) -> str | None:
    """What the devices of the method of this class share; None of a class that is no method here."""
    return next((entry.axis for entry in METHODS.values() if entry.kind == kind), None)
