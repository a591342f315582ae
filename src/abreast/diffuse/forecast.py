"""What a run of this room is worth on a described machine, from its ledger and from what one evaluation costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from abreast.core import Kind, Ledger
from abreast.machine.forecast import counted

if TYPE_CHECKING:
    from abreast.diffuse.problem import Sampling


def cost(problem: Sampling) -> dict[str, float]:
    """flops, reads (bytes of weights) and operations of one full evaluation of all samples, counted by making one."""
    from abreast.diffuse.denoise import Denoiser

    module = problem.denoiser.module
    weights = 0 if module is None else sum(p.numel() * p.element_size() for p in module.parameters())
    flops, operations = counted(lambda: Denoiser(problem, Ledger().lane("0"))(0, problem.x0))
    return {"flops": max(flops, problem.flops), "reads": float(weights), "operations": operations}


def weigh(ledger: Ledger, costs: Mapping[str, float], method: object) -> None:
    """Say on the ledger what an evaluation of this run is worth, whatever kind of event it was."""
    reads = costs["reads"] * strips(method)
    for name in {event.kind for event in ledger.events if not event.bytes and event.kind != "end"}:
        known = ledger.kinds.get(name, Kind())
        ledger.kinds[name] = replace(known, flops=known.unit * costs["flops"], reads=known.unit * reads)


def operations(costs: Mapping[str, float], method: object) -> float:
    """Operations started by one evaluation of this method."""
    return costs["operations"] * strips(method)


def strips(method: object) -> int:
    """How often the network as a whole is started for one evaluation: a strip of the picture has its share of the
    arithmetic, but every operation and all weights."""
    patches = getattr(method, "patches", 1)
    return patches if isinstance(patches, int) else 1
