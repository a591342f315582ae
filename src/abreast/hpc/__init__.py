"""Work for many processors that is no tensor program: so far chains of operators over a stream of items.

`DataPipeline` is the problem: items, and operators that each turn one into another or drop it. Its reference is
`InOrder`. `OperatorGraph` gives every operator workers of its own, as many as its share of the time asks for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {"DataPipeline": "operators", "InOrder": "operators", "OperatorGraph": "operators", "sizes": "operators"}
METHODS = ("InOrder", "OperatorGraph")

__all__ = ["METHODS", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"abreast.hpc.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'abreast.hpc' has no attribute {name!r}")
