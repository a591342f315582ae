"""What a run of this room is worth on a described machine: priced from its ledger and from what one step costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abreast.core import Kind, Ledger
from abreast.machine.forecast import counted


def cost(problem: Any) -> dict[str, float]:
    """flops, reads (bytes of weights) and operations of one step of all members, counted by making one."""
    import torch

    index = torch.zeros(1, dtype=torch.long, device=problem.x0.device)
    cell = getattr(problem, "cell", None)
    weights = 0 if cell is None else sum(p.numel() * p.element_size() for p in cell.parameters())
    with torch.no_grad():
        problem.evaluate(index, problem.x0[None])  # what is computed once for all steps is not of a step
    flops, operations = counted(lambda: problem.evaluate(index, problem.x0[None]))
    return {"flops": flops, "reads": float(weights), "operations": operations}


def weigh(ledger: Ledger, costs: Mapping[str, float], problem: Any, method: Any) -> None:
    """Say on the ledger what an evaluation and a scan of this run are worth."""
    from abreast.solve.linearize import resolve

    ledger.kinds["f"] = Kind(flops=costs["flops"], reads=costs["reads"])
    if hasattr(method, "line"):
        line = resolve(method.line(), problem)
        entries, states = line.entries(problem), problem.x0.numel()
        numbers = entries * len(problem.x0)
        # A product of two matrices with m rows takes 2 m flops an entry, an application 2; a sum of states 1 a state.
        side = entries / problem.x0[0].numel()
        flops = float(numbers * (2 * side + 2) + states)
        ledger.kinds["scan"] = Kind(unit=0.0, flops=flops, reads=float((numbers + states) * problem.x0.element_size()))
    ledger.kinds.setdefault("check", Kind(unit=0.0))


def held(problem: Any, method: Any) -> float:
    """Bytes of Jacobians that a method holds at once."""
    from abreast.solve.linearize import resolve

    if not hasattr(method, "line"):
        return 0.0
    window = method.settings_of(problem)[0].size or problem.steps
    entries = resolve(method.line(), problem).entries(problem)
    return float(entries * len(problem.x0) * min(window, problem.steps) * problem.x0.element_size())
