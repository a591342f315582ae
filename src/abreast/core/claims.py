"""A paper's headline as something that a run can show: checks that can fail, and what a study draws beside them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, Literal, get_args

from .catalog import paper
from .compare import Table
from .errors import AbreastError

Real = Literal["real", "trained", "exact"]
Relation = Literal["at most", "at least", "exactly"]


@dataclass(frozen=True)
class Check:
    """A measured value held against a limit. Raises AbreastError where nothing measured could fail it."""

    what: str
    measured: Any
    relation: Relation
    limit: Any

    def __post_init__(self) -> None:
        void = {"at most": math.inf, "at least": -math.inf}.get(self.relation)
        if self.limit is None or self.limit != self.limit or self.limit == void:
            raise AbreastError(f"{self.what!r}: {self.relation} {self.limit} can never fail, or never hold.")

    @property
    def holds(self) -> bool:
        """Whether it does; what is not a number never does."""
        if self.relation == "exactly":
            return bool(self.measured == self.limit)
        return bool(self.measured <= self.limit if self.relation == "at most" else self.measured >= self.limit)

    def facts(self) -> dict[str, Any]:
        """As plain values; a measured number that is not finite is its name."""
        return {
            "what": self.what,
            "measured": _finite(self.measured),
            "relation": self.relation,
            "limit": _finite(self.limit),
            "holds": self.holds,
        }

    def __str__(self) -> str:
        return f"{self.what}: {_shown(self.measured)} ({self.relation} {_shown(self.limit)})"


def at_most(what: str, measured: float, limit: float) -> Check:
    """measured <= limit."""
    return Check(what, _bare(measured), "at most", _bare(limit))


def at_least(what: str, measured: float, limit: float) -> Check:
    """measured >= limit."""
    return Check(what, _bare(measured), "at least", _bare(limit))


def exactly(what: str, measured: Any, limit: Any) -> Check:
    """measured == limit."""
    return Check(what, _bare(measured), "exactly", _bare(limit))


@dataclass(frozen=True)
class Grid:
    """A table of plain values: rows of as many cells as there are columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Figure:
    """Curves: for each name its (x, y) points."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


Item = Check | Table | Grid | Figure


@dataclass(frozen=True)
class Result:
    """What a claim showed. shown: the tables and figures that it yielded beside its checks."""

    slug: str
    real: Real
    checks: list[Check]
    shown: list[Table | Grid | Figure]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether there is a check, and all hold."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    @property
    def measured(self) -> str:
        """The checks in one line, for the catalog."""
        return "; ".join(map(str, self.checks))

    def facts(self) -> dict[str, Any]:
        """As plain values; tables and figures are named by their class."""
        return {
            "slug": self.slug,
            "holds": self.holds,
            "real": self.real,
            "checks": [check.facts() for check in self.checks],
            "shown": [{"class": type(x).__name__, **x.facts()} for x in self.shown],
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        return json.dumps(_finite(self.facts()), allow_nan=False)


@dataclass(frozen=True)
class Claim:
    """A registered claim: the paper's slug, what it runs on, and the function that yields its checks."""

    slug: str
    real: Real
    run: Callable[[], Iterator[Item]]


_registry: dict[str, Claim] = {}


def claim(slug: str, real: Real) -> Callable[[Callable[[], Iterator[Item]]], Callable[[], Iterator[Item]]]:
    """Register a generator of checks, tables and figures as the claim of the paper `slug`.

    real: what it runs on: "real" (pretrained weights or public data), "trained" (ours, on real data), "exact"
    (analytic, scripted). Raises AbreastError where the catalog has no such paper in this room, or it has a claim.
    """
    if real not in get_args(Real):
        raise AbreastError(f"a claim is one of {', '.join(get_args(Real))}, not {real!r}.")
    known = paper(slug)

    def register(f: Callable[[], Iterator[Item]]) -> Callable[[], Iterator[Item]]:
        package, _, rest = f.__module__.partition(".")
        room = rest.split(".")[0]
        if package == "abreast" and room != known.room:
            raise AbreastError(f"the claim {slug!r} stands in {room}, but the catalog has this paper in {known.room}.")
        old = _registry.get(slug)
        if old and (old.run.__module__, old.run.__qualname__) != (f.__module__, f.__qualname__):
            raise AbreastError(f"the paper {slug!r} has two claims: {old.run.__qualname__} and {f.__qualname__}.")
        _registry[slug] = Claim(slug, real, f)
        return f

    return register


def claim_of(slug: str) -> Claim:
    """The claim of a paper, from its room's `claims` module. Raises AbreastError where the catalog has no such paper,
    or its room no such claim."""
    room = paper(slug).room
    if slug not in _registry:
        module = f"abreast.{room}.claims"
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in (module, f"abreast.{room}"):
                raise
    if slug not in _registry:
        raise AbreastError(f"the paper {slug!r} has no claim yet in the room {room}.")
    return _registry[slug]


def try_claim(slug: str, on_item: Callable[[Item], object] | None = None) -> Result:
    """Run a paper's claim; on_item is called with each check, table and figure as it comes. Raises AbreastError where
    there is no such claim, or it yields no check: what cannot fail shows nothing."""
    found, start = claim_of(slug), time.perf_counter()
    items: list[Item] = []
    for item in found.run():
        if not isinstance(item, (Check, Table, Grid, Figure)):
            raise AbreastError(f"the claim {slug!r} yields a {type(item).__name__}, not a check, table or figure.")
        items.append(item)
        if on_item is not None:
            on_item(item)
    checks = [item for item in items if isinstance(item, Check)]
    if not checks:
        raise AbreastError(f"the claim {slug!r} yields no check, so it cannot fail and shows nothing.")
    shown = [item for item in items if not isinstance(item, Check)]
    return Result(slug, found.real, checks, shown, time.perf_counter() - start)


def _bare(value: Any) -> Any:
    """Numbers of numpy and torch as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _finite(value: Any) -> Any:
    """Plain values with numbers that JSON does not have replaced by their names."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    value = _bare(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
