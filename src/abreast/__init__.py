"""Make sequential machine learning run abreast, and know what you paid for it.

A `Problem` has a sequential reference; a `Method` finds the answer another way; `run` gives the answer with its
`Ledger` of work and span; `compare` holds methods against the reference and against cheap controls.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core import *  # noqa: F403
    from .machine import MACHINES, Machine, replay
    from .workers import World

__version__ = "0.1.0"

_CORE = [
    "BOUNDED", "IDENTICAL", "MEASURED", "SAME_DISTRIBUTION", "AbreastError", "Check", "Event", "Guarantee", "Kind",
    "Lane", "Ledger", "Method", "Problem", "Row", "Run", "Table", "at_least", "at_most", "claim", "compare", "exactly",
    "label", "laws", "meet", "merge", "paper", "papers", "run", "same_distribution", "settings", "try_claim",
]  # fmt: skip
_HOME = {
    **dict.fromkeys(_CORE, "core"),
    "World": "workers",
    "MACHINES": "machine",
    "Machine": "machine",
    "replay": "machine",
}

__all__ = [*_CORE, "MACHINES", "Machine", "World", "__version__", "replay"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'abreast' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"abreast.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
