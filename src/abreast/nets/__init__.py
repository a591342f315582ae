"""Architectures whose parallel shape is the point: ordinary torch modules, to be trained in an ordinary loop.

`ParaGRU` and `ParaLSTM` are recurrent nets whose whole sequence a few Newton sweeps find, each state entry (or pair of
entries) depending on itself alone. Masked networks (`masked.py`) are triangular systems when sampled from; a
convolution padded on two sides (`flow.py`) is one when inverted. `LoRA` adapts any net at a strength for each row.
What runs them in parallel stands in the other rooms; a net says what those need.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ParaGRU": "recurrent",
    "ParaLSTM": "recurrent",
    "LoRA": "lora",
    "MADE": "masked",
    "PixelCNN": "masked",
    "DenseNetTower": "masked",
    "InverseConv2d": "flow",
    "InverseFlow": "flow",
    "fit": "training",
}

__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Loads torch only where something of this room is used."""
    if name in _HOMES:
        return getattr(import_module(f"abreast.nets.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'abreast.nets' has no attribute {name!r}")
