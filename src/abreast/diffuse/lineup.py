"""Methods by the names users type. To add one: a line in METHODS, of its class in this room and its settings on so many
devices; what this abreast has no class for is not offered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from abreast import diffuse
from abreast.core import AbreastError, Method, nearest

STEPS, PATCHES, LAYERS, FRAMES, ALL = "steps", "patches", "layers", "frames", "several"


@dataclass(frozen=True)
class Entry:
    """kind: the class's name in this room. axis: what the devices share. settings: from their number to its fields."""

    kind: str
    axis: str
    settings: Callable[[int], dict[str, Any]] = lambda devices: {}


def _at_least(two: int, devices: int) -> int:
    return devices if devices > 1 else two


METHODS = {
    "paradigms": Entry("ParaDiGMS", STEPS),
    "parastep": Entry("ParaStep", STEPS, lambda devices: {"parallel": _at_least(4, devices)}),
    "picard-consistency": Entry("PCM", STEPS),
    "distrifusion": Entry("DisplacedPatch", PATCHES, lambda devices: {"patches": _at_least(2, devices)}),
    "pcpp": Entry("PartialPatch", PATCHES, lambda devices: {"patches": _at_least(2, devices)}),
    "asgdiffusion": Entry("StructureGuided", PATCHES),
    "asyncdiff": Entry("AsyncStages", LAYERS, lambda devices: {"stages": _at_least(2, devices)}),
    "lightningcp": Entry("LightningCP", STEPS),
    "dualparal": Entry("DualPipeline", FRAMES, lambda devices: {"stages": _at_least(2, devices)}),
    "aquarius": Entry("Aquarius", ALL),
}
CONTROL = "fewer-steps"


def known() -> list[str]:
    """The names whose classes this abreast has, and the control."""
    return [*(name for name, entry in METHODS.items() if entry.kind in diffuse.__all__), CONTROL]


def method(name: str, devices: int = 1, steps: int = 50) -> Method:
    """The method of this name for so many devices; of the control, one with half of `steps`.

    Raises AbreastError for an unknown name, and for one that needs what only Python can give it.
    """
    if name not in known():
        raise AbreastError(f"no method is called {name!r}: {nearest(name, known())}")
    if name == CONTROL:
        return diffuse.FewerSteps(max(1, steps // 2))
    entry = METHODS[name]
    try:
        return getattr(diffuse, entry.kind)(**entry.settings(devices))
    except TypeError as error:
        raise AbreastError(f"{name} needs more than the command line can say: {error}; give it in Python.") from error


def axis(kind: str) -> str | None:
    """What the devices of the method of this class share; None of a class that is no method here."""
    return next((entry.axis for entry in METHODS.values() if entry.kind == kind), None)
