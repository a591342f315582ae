"""A problem has a sequential answer; a method finds it another way; a run is what came out and what it cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from .errors import AbreastError
from .ledger import Ledger

if TYPE_CHECKING:
    from abreast.workers import World

V = TypeVar("V")


@dataclass(frozen=True)
class Guarantee:
    """How near to the reference's answer a method stays. tolerance inf: one run cannot show whether it is kept."""

    name: str
    tolerance: float = inf

    def __str__(self) -> str:
        return f"{self.name} ({self.tolerance:g})" if 0 < self.tolerance < inf else self.name


IDENTICAL = Guarantee("identical", 0.0)
SAME_DISTRIBUTION = Guarantee("same distribution")
MEASURED = Guarantee("measured")


def BOUNDED(tolerance: float) -> Guarantee:
    """Within `tolerance` of the reference's answer, in the problem's own distance."""
    if not 0 <= tolerance < inf:
        raise AbreastError(f"a bound must be a number from 0 on, not {tolerance}: MEASURED says that there is none.")
    return Guarantee("bounded", float(tolerance))


class Problem(Generic[V]):
    """Something with a sequential answer of type V. Subclasses are frozen dataclasses, or plain classes."""

    rounding: ClassVar[float] = 0.0  # distance that reordered sums may cause

    if TYPE_CHECKING:  # at run time a field, a class attribute or a property of the subclass

        @property
        def reference(self) -> Method:
            """The sequential method that gives the answer."""

    def distance(self, value: V, reference: V) -> float:
        """0 where the two are the same answer."""
        raise NotImplementedError(f"{type(self).__name__} does not say how two answers compare.")

    def keeps(self, run: Run[V], tolerance: float) -> bool:
        """Whether a run that is held against the reference's is within `tolerance` of it, rounding forgiven."""
        return run.distance is not None and run.distance <= max(tolerance, self.rounding)

    def quality(self, value: V) -> Mapping[str, float]:
        """How good an answer is by itself, higher is better."""
        return {}

    def columns(self, run: Run[V]) -> Mapping[str, Any]:
        """What else a table of this kind of problem shows about a run."""
        return {}

    def law(self) -> Mapping[V, float] | None:
        """The exact distribution of the answer over seeds, where it can be enumerated."""
        return None


class Method:
    """A way to the answer. Subclasses are frozen dataclasses of hyperparameters and write `run`, or `steps`:

        def run(self, problem, world) -> value
        def steps(self, problem, world) -> Generator[committed, None, value]

    `steps` yields what it has committed, little by little, and returns the value; `run` then exhausts it.
    """

    def run(self, problem: Any, world: World) -> Any:
        steps = getattr(self, "steps", None)
        if steps is None:
            raise NotImplementedError(f"{type(self).__name__} writes neither run nor steps.")
        return exhaust(steps(problem, world))

    def promise(self, problem: Any) -> Guarantee:
        """Its guarantee on this problem; MEASURED unless the method says better."""
        return MEASURED

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        """Pairs of methods that must give the same answer, and in what words."""
        return iter(())

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        """What a sceptic would do instead at the span or work of `run`, read off its ledger."""
        return iter(())


@dataclass(frozen=True)
class Run(Generic[V]):
    """What a method answered, and its ledger. seconds: wall time on this machine. against: the reference's run."""

    problem: Problem[V] = field(repr=False)
    method: Method
    value: V = field(repr=False)
    ledger: Ledger
    seconds: float
    against: Run[V] | None = field(default=None, repr=False)

    @cached_property
    def distance(self) -> float | None:
        """From the reference's answer; None where this run is held against none."""
        return None if self.against is None else float(self.problem.distance(self.value, self.against.value))

    @property
    def kept(self) -> bool | None:
        """Whether the promise is kept; None where nothing is held against, or one run cannot show it."""
        tolerance = self.method.promise(self.problem).tolerance
        if self.distance is None or tolerance == inf:
            return None
        return self.problem.keeps(self, tolerance)


def run(
    problem: Problem[V],
    method: Method,
    world: World | None = None,
    against: Run[V] | None = None,
    on_step: Callable[[Any], object] | None = None,
) -> Run[V]:
    """Run `method` on `problem` in `world` (one lane, no clock, where not given).

    against: the reference's run, to be compared with; it is not run here. on_step: called with everything that the
    method commits, if it has `steps`. Raises AbreastError where the arguments are not a problem and a method.
    """
    check_kinds(problem, method)
    if world is None:
        from abreast.workers import World

        world = World()
    start = time.perf_counter()
    if on_step is not None and hasattr(method, "steps"):
        value = exhaust(method.steps(problem, world), on_step)
    else:
        value = method.run(problem, world)
    seconds = time.perf_counter() - start
    world.ledger.close()
    return Run(problem, method, value, world.ledger, seconds, against)


def exhaust(steps: Generator[Any, None, V], on_step: Callable[[Any], object] | None = None) -> V:
    """Run a generator to its end, showing `on_step` each item; what it returns."""
    try:
        while True:
            item = next(steps)
            if on_step is not None:
                on_step(item)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


def check_kinds(problem: object, *methods: object) -> None:
    """Raise AbreastError unless these are a problem and methods: a class for an object is the usual slip."""
    if not isinstance(problem, Problem):
        raise AbreastError(f"a Problem is wanted, not {_shown(problem)}.")
    for method in methods:
        if not isinstance(method, Method):
            hint = f": write {method.__name__}(...)" if isinstance(method, type) and issubclass(method, Method) else ""
            raise AbreastError(f"a Method is wanted, not {_shown(method)}{hint}.")


def label(method: Any) -> str:
    """Class and the fields that are not at their defaults: `Batched(width=8)`. Fields with repr=False are left out."""
    if not dataclasses.is_dataclass(method):
        return type(method).__name__
    said = [f"{f.name}={_shown(getattr(method, f.name))}" for f in fields(method) if not _at_default(f, method)]
    return f"{type(method).__name__}({', '.join(said)})" if said else type(method).__name__


def settings(method: Any) -> dict[str, Any]:
    """Class and every field as plain JSON values. Fields with repr=False (weights, models, callables) are left out."""
    shown = fields(method) if dataclasses.is_dataclass(method) else []
    return {"class": type(method).__name__, **{f.name: _plain(getattr(method, f.name)) for f in shown}}


def fields(method: Any) -> list[dataclasses.Field[Any]]:
    """The dataclass fields that are settings."""
    return [f for f in dataclasses.fields(method) if f.repr]


def _at_default(f: dataclasses.Field[Any], method: Any) -> bool:
    value = getattr(method, f.name)
    if f.default is not dataclasses.MISSING:
        return type(value) is type(f.default) and bool(value == f.default)
    return f.default_factory is not dataclasses.MISSING and bool(value == f.default_factory())


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return value.__name__
    if dataclasses.is_dataclass(value) or isinstance(value, Method):
        return label(value)
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(_shown, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (int, str, dict, type(None))):
        return repr(value)
    return getattr(value, "__name__", type(value).__name__)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Method) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return settings(value)
    return _shown(value)
