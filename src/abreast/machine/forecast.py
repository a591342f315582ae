"""What an eager framework's many small operations take on a described machine: starting one has a price, too.

A roofline alone says that a step of a small recurrence takes nanoseconds on an accelerator, where the time really goes
into starting its dozen operations one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from abreast.core.ledger import Event, Kind

from .machine import Machine

LAUNCH = 5e-6  # seconds from one operation of an eager framework to the next: the order of magnitude
SCAN = 6  # operations of one round of a scan: two slices, a product, an application, a sum, an interleaving


@dataclass(frozen=True)
class Forecast:
    """A machine as replay asks for it. operations: of one evaluation, whatever its rows."""

    machine: Machine
    operations: float

    @property
    def devices(self) -> int | None:
        return self.machine.devices

    def seconds(self, event: Event, kind: Kind, /) -> float:
        """A transfer as the machine prices it. An evaluation: its span times what size / span rows at once take; a
        scan: two combinations an element, over all its rounds, each of which reads and writes."""
        if event.bytes:
            return self.machine.seconds(event, kind)
        if not event.span:
            return 0.0
        if event.kind == "scan":
            return max(self._busy(kind, 2 * event.size, 2 * event.size), SCAN * LAUNCH * event.span)
        return event.span * max(self._busy(kind, event.size / event.span, 1.0), self.operations * LAUNCH)

    def _busy(self, kind: Kind, rows: float, readings: float) -> float:
        flops, bandwidth = self.machine.flops, self.machine.bandwidth
        compute = kind.flops * rows / flops if flops else 0.0
        return max(compute, kind.reads * readings / bandwidth if bandwidth else 0.0)


def counted(call: Callable[[], object]) -> tuple[float, float]:
    """Floating point operations and operations started by a call: matrix products by their size, of all else one for
    each number that comes out."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Count(TorchDispatchMode):
        operations = numbers = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            # Views start nothing on a device.
            if not func.is_view:
                self.operations += 1
                self.numbers += out.numel() if isinstance(out, torch.Tensor) else 0
            return out

    with torch.no_grad(), FlopCounterMode(display=False) as flops, Count() as count:
        call()
    return float(flops.get_total_flops() + count.numbers), float(max(count.operations, 1))
