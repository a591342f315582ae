"""Counting floating point operations, attention on the CPU included, which torch's own counter passes over."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Counting(TorchDispatchMode):
    """Counts what this thread computes while it is open: `with Counting() as counter: ...; counter.total`.

    Matrix products, convolutions and attention by torch's formulas, a multiplication and an addition as two; what is
    elementwise does not count. Much lighter than torch's FlopCounterMode, which also keeps books on modules.
    """

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry

        aten = torch.ops.aten
        same = flop_registry[aten._scaled_dot_product_flash_attention]
        self.formulas: dict[Any, Any] = {**flop_registry, aten._scaled_dot_product_flash_attention_for_cpu: same}
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            # In inference mode composite operations arrive whole.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out
