"""Methods by the names users type. To add one: a line in METHODS, of its class and how --tol and --window reach it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from abreast import solve
from abreast.core import AbreastError, Method, nearest


@dataclass(frozen=True)
class Wanted:
    """tol: the change that is let pass, the method's own where None. window: states at once, all where None."""

    tol: float | None = None
    window: int | None = None


def _change(wanted: Wanted) -> dict[str, Any]:
    """Of methods with atol and rtol."""
    tolerances = {} if wanted.tol is None else {"atol": wanted.tol, "rtol": 0.0}
    return tolerances | ({} if wanted.window is None else {"window": wanted.window})


def _tol(wanted: Wanted) -> dict[str, Any]:
    """Of methods with tol and window."""
    return {name: value for name, value in (("tol", wanted.tol), ("window", wanted.window)) if value is not None}


def _newton(wanted: Wanted) -> dict[str, Any]:
    given = {} if wanted.tol is None else {"tol": wanted.tol}
    return given | ({} if wanted.window is None else {"window": solve.Window(wanted.window)})


METHODS: dict[str, tuple[str, Callable[[Wanted], dict[str, Any]]]] = {
    "loop": ("Loop", lambda wanted: {}),
    "deer": ("DEER", _change),
    "quasi-deer": ("QuasiDEER", _change),
    "elk": ("ELK", _change),
    "newton": ("Newton", _newton),
    "jacobi": ("Jacobi", _tol),
    "picard": ("Picard", _tol),
}
FIRST = ("deer", "quasi-deer", "newton", "picard", "jacobi")  # run where no names are given
SWEEPS_ALL = ("picard", "jacobi")  # need up to a sweep a step
MANY = 2048  # steps from which on those are left out of what is run by itself


def known() -> list[str]:
    """The names whose classes this abreast has."""
    return [name for name, (kind, _) in METHODS.items() if kind in solve.__all__]


def method(name: str, wanted: Wanted | None = None) -> Method:
    """The method of this name. Raises AbreastError for an unknown one."""
    if name not in known():
        raise AbreastError(f"no method is called {name!r}: {nearest(name, known())}")
    kind, settings = METHODS[name]
    return getattr(solve, kind)(**settings(wanted or Wanted()))


def lineup(steps: int) -> list[str]:
    """The names that are run where none are given."""
    return [name for name in FIRST if name in known() and (steps <= MANY or name not in SWEEPS_ALL)]
