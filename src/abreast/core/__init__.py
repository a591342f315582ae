"""The words that everything is said in: a Problem and its reference, Methods, Runs, the Ledger of what they did,
guarantees and laws that are checked, claims, the catalog of papers, and keyed noise. Nothing here loads torch; numpy
comes with the first draw."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .catalog import Paper, paper, papers
from .claims import Check, Figure, Grid, Result, at_least, at_most, claim, exactly, try_claim
from .compare import Row, Table, compare
from .errors import AbreastError, nearest
from .laws import laws, same_distribution
from .ledger import Event, Kind, Lane, Ledger, meet
from .merging import merge
from .problem import (
    BOUNDED,
    IDENTICAL,
    MEASURED,
    SAME_DISTRIBUTION,
    Guarantee,
    Method,
    Problem,
    Run,
    label,
    run,
    settings,
)

if TYPE_CHECKING:
    from .noise import gumbel, uniform

__all__ = [
    "BOUNDED", "IDENTICAL", "MEASURED", "SAME_DISTRIBUTION", "AbreastError", "Check", "Event", "Figure", "Grid",
    "Guarantee", "Kind", "Lane", "Ledger", "Method", "Paper", "Problem", "Result", "Row", "Run", "Table", "at_least",
    "at_most", "claim", "compare", "exactly", "gumbel", "label", "laws", "meet", "merge", "nearest", "paper", "papers",
    "run", "same_distribution", "settings", "try_claim", "uniform",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("gumbel", "uniform"):
        return getattr(import_module(".noise", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
