"""A saved comparison of the solve or diffuse room summed over its problems, and its last line: what the chain of
dependent steps came down to, what that costs, and when it is no use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from abreast.web.saved import SOLVE
from abreast.web.shown import Column, Line, Shown, named

NOISE = 1.1  # two runs of the same thing, milliseconds long, differ by as much
SERIAL, FEW = (
    0.2,
    32,
)  # sweeps a step from which on a recurrence counts as serial, if it has this many (solve.diagnosis)
WORDS = ("broken", "differs", "within bound", "within rounding", "identical")  # the weakest first
JACOBIAN_FREE = ("Loop", "Jacobi", "Picard")


@dataclass(frozen=True)
class Cost:
    """One method over all problems. Sums; of distance, residual and gradient the largest; of quality the mean."""

    method: str
    kind: str
    settings: dict[str, Any]
    guarantee: str
    control_of: str | None
    reference: bool
    kept: str
    span: float
    work: float
    bytes: float
    rounds: float
    seconds: float
    distance: float | None
    columns: dict[str, Any]
    quality: dict[str, float]
    shorter: float  # the reference's span by its own
    faster: float  # the same of seconds

    @property
    def trusted(self) -> bool:
        """Whether it promised something, and kept it."""
        return not self.reference and self.guarantee != "measured" and self.kept not in ("broken", "differs")


def costs(saved: dict[str, Any]) -> list[Cost]:
    """The table's rows, the reference first."""
    found: list[Cost] = []
    for method in saved["methods"]:
        rows = [row for row in saved["rows"] if row["method"] == method["method"]]
        sums = {name: sum(row[name] for row in rows) for name in ("span", "work", "bytes", "rounds", "seconds")}
        first = found[0] if found else None
        found.append(
            Cost(
                method=method["method"],
                kind=method["settings"]["class"],
                settings=method["settings"],
                guarantee=method["guarantee"],
                control_of=method["control_of"],
                reference=method["reference"],
                kept=_kept([row["outcome"] for row in rows]),
                distance=max((row["distance"] for row in rows if row["distance"] is not None), default=None),
                columns=_merged([row["columns"] for row in rows]),
                quality=_means([row["quality"] for row in rows]),
                shorter=(first.span if first else sums["span"]) / (sums["span"] or inf),
                faster=(first.seconds if first else sums["seconds"]) / (sums["seconds"] or inf),
                **sums,
            )
        )
    return found


def shown(saved: dict[str, Any]) -> Shown:
    """The table, its heading and its last line."""
    rows = costs(saved)
    solve = saved["schema"] == SOLVE
    columns = _solve_columns(rows) if solve else _diffuse_columns(rows)
    top = best(rows) if solve else winner(rows)
    lines = [
        Line(*_named(row), tuple(cell(row) for _, cell in columns), row.shorter, bool(row.control_of), row is top,
             row.kept == "broken")
        for row in rows
    ]  # fmt: skip
    said = solve_verdict(rows, steps_of(saved)) if solve else diffuse_verdict(rows)
    return Shown(heading(saved), said, tuple(column for column, _ in columns), lines)


def _named(row: Cost) -> tuple[str, str]:
    """Name and settings; of fewer steps in one line, since every method has three of them for controls."""
    if row.kind != "FewerSteps":
        return named(row.method)
    facts = row.settings
    said = [f"{facts.get('span')} steps"]
    said += [facts["spacing"]] if facts.get("spacing", "even") != "even" else []
    said += [str(facts["scheduler"])] if facts.get("scheduler") is not None else []
    return f"FewerSteps: {', '.join(said)}", ""


def heading(saved: dict[str, Any]) -> str:
    """What was run, on what."""
    machine, problem = saved["machine"], saved["problems"][0]
    size = f"{problem['steps']} steps, batch {problem['batch']}, state {' x '.join(map(str, problem['state']))}"
    ranks = saved.get("workers") or saved.get("devices") or 1
    several = f"; {ranks} ranks in one process" if ranks > 1 else ""
    return f"{saved['title']}: {size}, {saved['dtype']}{several}; threads: {machine['threads']}, {machine['cpu']}"


def steps_of(saved: dict[str, Any]) -> int:
    """Steps of all problems."""
    return sum(problem["steps"] for problem in saved["problems"])


def best(rows: Sequence[Cost]) -> Cost | None:
    """Of the methods that kept a promise the one of the shortest span, if that is shorter than the reference's."""
    top = min((row for row in rows if row.trusted), key=lambda row: row.span, default=None)
    return top if top is not None and top.shorter > NOISE else None


def solve_verdict(rows: Sequence[Cost], steps: int) -> str:
    """The last line of a comparison of solvers."""
    if len(rows) == 1:
        return "Nothing was run beside the loop."
    knowing = [row for row in rows if row.kind not in JACOBIAN_FREE and "sweeps" in row.columns and row.trusted]
    top, broken = best(rows), [row for row in rows if row.kept == "broken"]
    lost = f" {_names(broken, rows)} did not keep the promise." if broken else ""
    if knowing and steps >= FEW and min(row.columns["sweeps"] for row in knowing) > SERIAL * steps:
        row = min(knowing, key=lambda row: row.columns["sweeps"])
        share = row.columns["sweeps"] / steps
        return (
            f"Inherently serial: {_short(row, rows)} needs {row.columns['sweeps']:.0f} sweeps for {steps} steps "
            f"({share:.2f} a step); keep the loop.{lost}"
        )
    if top is None:
        hint = "" if knowing else " Try deer or quasi-deer, which use the Jacobian."
        return f"Nothing run here shortens the loop of {steps} steps and keeps its answer.{hint}{lost}"
    sweeps = f" in {top.columns['sweeps']:.0f} sweeps" if "sweeps" in top.columns else ""
    said = (
        f"{_short(top, rows)}: span {top.span:g} of {rows[0].span:g}{sweeps} ({_times(top.shorter)} shorter), "
        f"{top.kept}; work {_times(top.work / rows[0].work)}"
    )
    if top.distance is not None and top.distance > 0.01:
        said += f", but {top.distance:.2g} away from the loop's states"
    return f"{said}; {in_seconds(top, rows)}.{lost}"


def in_seconds(top: Cost, rows: Sequence[Cost]) -> str:
    """Who is faster on this machine, the loop or a method."""
    quick = max((row for row in rows if row.trusted), key=lambda row: row.faster, default=top)
    if quick.faster > NOISE:
        return f"on this machine {_short(quick, rows)} takes {1 / quick.faster:.2f} of the loop's seconds"
    if quick.faster > 1 / NOISE:
        return "on this machine the loop takes as many seconds"
    said = f"on this machine the loop is {1 / top.faster:.1f} times as fast in seconds"
    return said if quick is top else f"{said}, and {1 / quick.faster:.1f} times as fast as {_short(quick, rows)}"


def winner(rows: Sequence[Cost]) -> Cost | None:
    """Of the methods of a span shorter than the reference's that stand nearer to its answer than each of their
    controls (or give the very same) the one of the shortest span."""
    able = [row for row in rows if _pays(row, rows)]
    return min(able, key=lambda row: (row.span, row.distance or 0.0), default=None)


def diffuse_verdict(rows: Sequence[Cost]) -> str:
    """The last line of a comparison of samplers."""
    methods = [row for row in rows if not row.reference and not row.control_of and row.kind != "FewerSteps"]
    if not methods:
        return "Nothing was run beside one step after the other" + (" and fewer steps." if len(rows) > 1 else ".")
    top = winner(rows)
    if top is None:
        return "Nothing run here beats plain sampling with fewer steps."
    plain = [row for row in beside(top, rows) if row.kind == "FewerSteps" and row.distance is not None]
    rival = min(plain, key=lambda row: row.distance or 0.0, default=None)
    said = f"{_short(top, rows)}: span {top.span:.4g} of {rows[0].span:g} ({_times(top.shorter)} shorter), "
    said += "identical" if top.distance == 0 else f"distance {top.distance:.2g}"
    if rival is not None:
        said += f" where as many plain steps are {rival.distance:.2g} off"
    if top.faster > NOISE:
        return f"{said}; it takes {1 / top.faster:.2f} of the reference's seconds here."
    return f"{said}; that needs devices: in one process it takes {1 / top.faster:.1f} times the reference's seconds."


def beside(row: Cost, rows: Sequence[Cost]) -> list[Cost]:
    """The controls of a method: those under its label, and fewer steps as long as it (the same control stands once)."""
    plain = [other.method for other in rows if other.kind == "FewerSteps" and abs(other.span - row.span) < 1]
    return [other for other in rows if other.control_of == row.method or other.method in plain]


def _pays(row: Cost, rows: Sequence[Cost]) -> bool:
    if row.reference or row.control_of or row.kind == "FewerSteps" or row.kept == "broken" or row.shorter <= NOISE:
        return False
    rivals = [other.distance for other in beside(row, rows) if other.distance is not None]
    if row.trusted and row.guarantee == "identical":
        return True
    return row.distance is not None and all(row.distance < distance for distance in rivals)


Cell = tuple[Column, Any]


def _solve_columns(rows: Sequence[Cost]) -> list[Cell]:
    graded = any("gradient" in row.columns for row in rows)
    return [
        *_promise(),
        (Column("sweeps", "sweeps"), lambda row: "" if row.reference else _number(row.columns.get("sweeps"))),
        (Column("span", "span"), lambda row: f"{row.span:g}"),
        (Column("work", "work"), lambda row: _number(row.work)),
        (
            Column("scan", "scan rounds", spare=True),
            lambda row: "" if row.reference else _number(row.columns.get("scan_rounds")),
        ),
        *([(Column("bytes", "bytes"), lambda row: _number(row.bytes))] if any(row.bytes for row in rows) else []),
        (Column("residual", "residual", spare=True), lambda row: _small(row.columns.get("residual"))),
        (Column("distance", "distance"), lambda row: _small(row.distance)),
        *(
            [(Column("gradient", "gradient off by", spare=True), lambda row: _small(row.columns.get("gradient")))]
            if graded
            else []
        ),
        *_ratios(),
    ]


def _diffuse_columns(rows: Sequence[Cost]) -> list[Cell]:
    quality = dict.fromkeys(name for row in rows for name in row.quality)
    seen = any(row.columns.get("psnr") is not None for row in rows)
    return [
        *_promise(),
        (Column("distance", "distance"), lambda row: _small(row.distance)),
        *([(Column("psnr", "PSNR, dB", spare=True), lambda row: _number(row.columns.get("psnr")))] if seen else []),
        *((Column(name, name), lambda row, name=name: _small(row.quality.get(name))) for name in quality),
        (Column("span", "span"), lambda row: f"{row.span:.4g}"),
        (Column("work", "work"), lambda row: f"{row.work:.4g}"),
        (Column("calls", "calls", spare=True), lambda row: _number(row.columns.get("calls"))),
        *([(Column("bytes", "bytes"), lambda row: _number(row.bytes))] if any(row.bytes for row in rows) else []),
        *_ratios(),
    ]


def _promise() -> list[Cell]:
    return [
        (
            Column("guarantee", "guarantee", number=False, spare=True),
            lambda row: "–" if row.reference else row.guarantee,
        ),
        (Column("kept", "kept", number=False), lambda row: row.kept),
    ]


def _ratios() -> list[Cell]:
    return [
        (Column("seconds", "seconds here"), lambda row: f"{row.seconds:.3g}"),
        (Column("time ×", "speed here, × reference", spare=True), lambda row: f"{row.faster:.2f}"),
        (Column("span ×", "span, × shorter", bar=True), lambda row: _digits(row.shorter)),
    ]


def _kept(outcomes: list[str]) -> str:
    """One word for several problems: the weakest of theirs."""
    return next((word for word in WORDS if word in outcomes), "reference")


def _merged(columns: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts added; of what says how far off something is the largest."""
    merged: dict[str, Any] = {}
    for name in columns[0]:
        values = [facts.get(name) for facts in columns]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) == len(values):
            merged[name] = max(numbers) if name in ("residual", "gradient") else sum(numbers)
        elif len(set(map(str, values))) == 1:
            merged[name] = values[0]
    return merged


def _means(facts: list[dict[str, Any]]) -> dict[str, float]:
    names = [name for name in facts[0] if all(isinstance(each.get(name), (int, float)) for each in facts)]
    return {name: sum(each[name] for each in facts) / len(facts) for name in names}


def _names(some: Sequence[Cost], rows: Sequence[Cost]) -> str:
    return " and ".join(_short(row, rows) for row in some)


def _short(row: Cost, rows: Sequence[Cost]) -> str:
    """A method's name, with its settings only where another has the same."""
    alone = sum(other.kind == row.kind for other in rows) == 1
    return row.method.partition("(")[0] if alone else row.method


def _digits(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.1f}"


def _times(ratio: float) -> str:
    return f"{_digits(ratio)} times"


def _number(value: Any) -> str:
    """A count, or a number to a few digits."""
    if value is None or isinstance(value, str):
        return value or ""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e5, None)):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}" if name else f"{value / 1e3:.0f} k"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def _small(value: Any) -> str:
    """How far off something is."""
    return "" if value is None else "0" if value == 0 else f"{value:.2g}"
