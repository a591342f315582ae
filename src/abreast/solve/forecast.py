"""What a run of this room would take on a described machine, from its ledger and from what one step costs.

Steps of recurrences are small, so what counts on an accelerator is how many operations have to be started one after the
other: every operation takes at least LAUNCH, else what the machine's roofline says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abreast.core import Kind, Ledger
from abreast.core.ledger import Event
from abreast.machine import Machine

LAUNCH = 5e-6  # seconds from one operation of an eager framework to the next: the order of magnitude
SCAN = 6  # operations of one round: two slices, a product, an application, a sum, an interleaving


@dataclass(frozen=True)
class Forecast:
    """A machine as replay asks for it. operations: of one evaluation of the step, whatever its rows."""

    machine: Machine
    operations: float

    @property
    def devices(self) -> int | None:
        return self.machine.devices

    def seconds(self, event: Event, kind: Kind, /) -> float:
        """A transfer as the machine prices it. An evaluation: its rows at once, as often as it is long; a scan: two
        combinations an element over all its rounds."""
        if event.bytes:
            return self.machine.seconds(event, kind)
        once = max(event.span, 1.0)
        scan = event.kind == "scan"
        rows = 2 * event.size if scan else event.size
        moved = kind.reads * (rows if scan else once)
        busy = max(kind.flops * rows / self.machine.flops, moved / self.machine.bandwidth)
        started = (SCAN if scan else self.operations) * LAUNCH * (event.span if scan else once)
        return 0.0 if event.kind == "check" else max(busy, started)


def cost(problem: Any) -> dict[str, float]:
    """flops, reads (bytes of weights) and operations of one step of all members, counted by making one."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Count(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # Views start nothing on a device.
            if not func.is_view:
                self.operations += 1
            return func(*args, **(kwargs or {}))

    index = torch.zeros(1, dtype=torch.long, device=problem.x0.device)
    cell = getattr(problem, "cell", None)
    weights = 0 if cell is None else sum(p.numel() * p.element_size() for p in cell.parameters())
    with torch.no_grad():
        problem.evaluate(index, problem.x0[None])  # what is computed once for all steps is not of a step
        with FlopCounterMode(display=False) as flops, Count() as count:
            problem.evaluate(index, problem.x0[None])
    entries = problem.x0.numel()
    total = max(float(flops.get_total_flops()), float(entries * count.operations))
    return {"flops": total, "reads": float(weights), "operations": float(max(count.operations, 1))}


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
