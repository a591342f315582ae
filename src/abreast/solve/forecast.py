"""What a run of this room is worth on a described machine: priced from its ledger and from what one step costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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


def operations(problem: Any, method: Any) -> float:
    """Operations started by one evaluation of a sweep of this method, its Jacobian's included."""
    import torch

    from abreast.solve.linearize import resolve

    if not hasattr(method, "line"):
        return cost(problem)["operations"]
    line, index = resolve(method.line(), problem), torch.zeros(1, dtype=torch.long, device=problem.x0.device)
    return counted(lambda: line.at(problem, index, problem.x0[None]))[1]


def weigh(ledger: Ledger, costs: Mapping[str, float], problem: Any, method: Any) -> None:
    """Say on the ledger what an evaluation of this run is worth as it was counted, and what a scan reads and writes of
    each element."""
    from abreast.solve.linearize import resolve

    ledger.kinds["f"] = Kind(flops=max(costs["flops"], problem.flops), reads=max(costs["reads"], problem.reads))
    if "scan" in ledger.kinds and hasattr(method, "line"):
        entries = resolve(method.line(), problem).entries(problem) * len(problem.x0)
        moved = float((entries + problem.x0.numel()) * problem.x0.element_size())
        ledger.kinds["scan"] = replace(ledger.kinds["scan"], reads=moved)


def held(problem: Any, method: Any) -> float:
    """Bytes of Jacobians that a method holds at once."""
    from abreast.solve.linearize import resolve

    if not hasattr(method, "line"):
        return 0.0
    window = method.settings_of(problem)[0].size or problem.steps
    entries = resolve(method.line(), problem).entries(problem)
    return float(entries * len(problem.x0) * min(window, problem.steps) * problem.x0.element_size())
