"""Architectures whose parallel shape is the point.

Masked networks (`masked.py`) are triangular systems when sampled from; a convolution padded on two sides (`flow.py`) is
one when inverted. Each is a plain torch module that also says what `abreast.solve` is to solve.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "MADE": "masked",
    "PixelCNN": "masked",
    "DenseNetTower": "masked",
    "InverseConv2d": "flow",
    "InverseFlow": "flow",
    "fit": "training",
}

__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Loads torch only where something of this package is used."""
    if name in _HOMES:
        return getattr(import_module(f"abreast.nets.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'abreast.nets' has no attribute {name!r}")
