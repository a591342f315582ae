"""Methods beside their reference and beside their controls, on the same problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

from .errors import AbreastError, nearest
from .problem import Method, Problem, Run, check_kinds, label, run

if TYPE_CHECKING:
    from abreast.workers import World


@dataclass(frozen=True)
class Row:
    """One method's runs, one for each problem. control_of: the label of the method beside which it stands."""

    method: Method
    runs: list[Run[Any]] = field(repr=False)
    control_of: str | None = None

    @property
    def label(self) -> str:
        """The method's label; of a control that is sized anew for each problem, the class alone says so."""
        if all(run.method == self.method for run in self.runs):
            return label(self.method)
        return f"{type(self.method).__name__}(sized for each problem)"

    @property
    def kept(self) -> bool | None:
        """False where one run broke its promise, True where all kept it, else None."""
        kept = [run.kept for run in self.runs]
        return False if False in kept else True if all(kept) else None

    def sum(self, f: Callable[[Run[Any]], float]) -> float:
        """The sum of f(run)."""
        return sum(f(run) for run in self.runs)

    def facts(self) -> dict[str, Any]:
        """What a table shows, as plain values: sums of costs, the largest distance, means of quality and columns."""
        distances = [run.distance for run in self.runs if run.distance is not None]
        return {
            "label": self.label,
            "control_of": self.control_of,
            "promise": str(self.method.promise(self.runs[0].problem)),
            "kept": self.kept,
            "distance": max(distances, default=None),
            "work": self.sum(lambda run: run.ledger.work),
            "span": self.sum(lambda run: run.ledger.span),
            "bytes": self.sum(lambda run: run.ledger.bytes),
            "rounds": self.sum(lambda run: run.ledger.rounds),
            "seconds": self.sum(lambda run: run.seconds),
            "quality": _means([run.problem.quality(run.value) for run in self.runs]),
            "columns": _means([run.problem.columns(run) for run in self.runs]),
        }


@dataclass(frozen=True)
class Table:
    """Rows: the reference first, then each method and its controls. interrupted: stopped by Ctrl-C; it then holds the
    problems that every row has finished (or, within the first problem, the methods that have)."""

    rows: list[Row]
    interrupted: bool = False

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def reference(self) -> Row:
        return self.rows[0]

    def __getitem__(self, key: type[Method] | Method | str) -> Row:
        """The row of a method, a label, or a class; a class that several rows have means the one that is no control.
        Raises AbreastError where there is no such row, or several."""
        found = [row for row in self.rows if _is(row, key)]
        found = [row for row in found if row.control_of is None] or found
        if len(found) == 1:
            return found[0]
        name = key if isinstance(key, str) else key.__name__ if isinstance(key, type) else label(key)
        if found:
            raise AbreastError(f"{len(found)} rows are {name}: ask for one of {', '.join(row.label for row in found)}.")
        raise AbreastError(f"no row is {name}: {nearest(name, [row.label for row in self.rows])}")

    def ratio(self, method: type[Method] | Method | str, f: Callable[[Run[Any]], float]) -> float:
        """The sum of f over the method's runs, by that over the reference's: below 1 is less than sequential."""
        whole = self.reference.sum(f)
        if not whole:
            raise AbreastError(f"the reference {self.reference.label} has none of this, so there is no ratio to it.")
        return self[method].sum(f) / whole

    def facts(self) -> dict[str, Any]:
        """The table as plain values."""
        return {"rows": [row.facts() for row in self.rows], "interrupted": self.interrupted}


def compare(
    problems: Problem[Any] | Sequence[Problem[Any]],
    methods: Sequence[Method],
    world: Callable[[], World] | None = None,
    on_run: Callable[[Run[Any]], object] | None = None,
    on_step: Callable[[Problem[Any], Method, Any], object] | None = None,
) -> Table:
    """Run the reference, the methods and their controls on every problem, each in a new `world()`.

    A method equal to one that the problem has already seen is not run twice, and a row that says nothing new is left
    out. on_run is called with each finished run, on_step with everything that a running method commits. Ctrl-C leaves
    the table of what is finished (but is raised again where nothing is). Raises AbreastError where there is no
    problem, or an argument is of the wrong kind.
    """
    problems = [problems] if isinstance(problems, Problem) else list(problems)
    methods = [methods] if isinstance(methods, Method) else list(methods)
    if not problems:
        raise AbreastError("there is nothing to compare on: give at least one problem.")
    for problem in problems:
        check_kinds(problem, problem.reference, *methods)
    cells: dict[tuple[int, ...], list[Run[Any]]] = {}
    finished, interrupted = 0, False
    try:
        for problem in problems:
            _on_problem(problem, methods, world, on_run, on_step, cells)
            finished += 1
    except KeyboardInterrupt:
        if not cells:
            raise
        interrupted = True
    rows = _rows({key: runs[: max(finished, 1)] for key, runs in sorted(cells.items())})
    if not interrupted and any(len(row.runs) < finished for row in rows):
        raise AbreastError("a method must yield the same number of controls on every problem.")
    return Table([row for row in rows if len(row.runs) >= finished], interrupted)


def _on_problem(
    problem: Problem[Any],
    methods: Sequence[Method],
    world: Callable[[], World] | None,
    on_run: Callable[[Run[Any]], object] | None,
    on_step: Callable[[Problem[Any], Method, Any], object] | None,
    cells: dict[tuple[int, ...], list[Run[Any]]],
) -> None:
    """Add this problem's runs to the cells: () the reference, (i,) a method, (i, k) its k-th control."""
    done: list[Run[Any]] = []

    def cell(key: tuple[int, ...], method: Method) -> Run[Any]:
        known = next((run for run in done if run.method == method), None)
        if known is None:
            shown = None if on_step is None else partial(on_step, problem, method)
            known = run(problem, method, world and world(), against=done[0] if done else None, on_step=shown)
            done.append(known)
            if on_run is not None:
                on_run(known)
        cells.setdefault(key, []).append(known)
        return known

    cell((), problem.reference)
    for i, method in enumerate(methods):
        of_method = cell((i,), method)
        for k, control in enumerate(of_method.method.controls(of_method)):
            cell((i, k), control)


def _rows(cells: Mapping[tuple[int, ...], list[Run[Any]]]) -> list[Row]:
    rows: list[Row] = []
    # Methods come before controls, so that a control that is also asked for as a method stands as the method.
    for key in sorted(cells, key=lambda key: (len(key), key)):
        runs = cells[key]
        if not any(len(row.runs) == len(runs) and all(a is b for a, b in zip(row.runs, runs)) for row in rows):
            beside = label(cells[key[:1]][0].method) if len(key) == 2 else None
            rows.append(Row(runs[0].method, runs, beside))
    order = {id(cells[key][0]): key for key in sorted(cells, reverse=True)}
    return sorted(rows, key=lambda row: order[id(row.runs[0])])


def _is(row: Row, key: type[Method] | Method | str) -> bool:
    if isinstance(key, str):
        return row.label == key
    return type(row.method) is key if isinstance(key, type) else row.method == key


def _means(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each fact that all have: the value if it is one, the mean if it is a number."""
    if len(facts) == 1:
        return dict(facts[0])
    common = [name for name in facts[0] if all(isinstance(f.get(name), Real) for f in facts)]
    return {name: sum(float(f[name]) for f in facts) / len(facts) for name in common}
