"""A comparison of decoding methods as plain values: what `--json` prints and `report` reads.

    {"schema": "abreast.decode", "version": 1,
     "title", "model", "dtype", "device", "parameters", "steady", "chat", "seed", "max_new_tokens",
     "sampling": {"temperature", "top_k", "top_p", "repetition_penalty"},
     "machine": {"cpu", "threads", "torch"}, "interrupted": bool,
     "curve": [[rows, seconds], ...] or null,             measured cost of a call, where it was calibrated
     "problems": [{"name", "kind", "prompt", "prompt_tokens"}],
     "methods": [{"method", "settings", "guarantee", "control_of", "reference"}],
     "rows": [{"method", "problem", "guarantee", "kept", "outcome", "distance", "tokens", "calls", "rows", "span",
               "work", "seconds", "tokens_per_second", "text", "ids", "pieces", "ledger"}]}

One row is one method on one problem; `problem` is an index, `method` a label. kept: whether the promise was kept, null
where one run cannot show it. outcome: that in words. calls and rows: of the model, its prompt's call among the calls.
work and span: in calls of the model. ids and pieces: the text's tokens, and how each is spelled. ledger: as
`Ledger.from_json` reads it. Printed JSON leaves these three out. A file of several comparisons is
{"schema": "abreast.demo", "version": 1, "comparisons": [...]}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abreast.core.compare import Row, Table
from abreast.core.errors import AbreastError
from abreast.core.ledger import Ledger
from abreast.core.problem import Run, settings
from abreast.web.files import read_json

VERSION = 1
ONE, SEVERAL = "abreast.decode", "abreast.demo"


def comparison(table: Table, facts: dict[str, Any], problems: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A table as plain values. facts: what the caller knows (title, model, ...); problems: one for each problem."""
    done = len(table.reference.runs)
    names = _unique([row.label for row in table])
    problem: Any = table.reference.runs[0].problem
    return {
        "schema": ONE,
        "version": VERSION,
        **facts,
        "dtype": str(problem.model.dtype).removeprefix("torch."),
        "parameters": problem.model.parameters,
        "steady": problem.model.steady,
        "interrupted": table.interrupted,
        "problems": list(problems)[:done],
        "methods": [_method(name, row, table) for name, row in zip(names, table)],
        "rows": [_row(name, row, i) for name, row in zip(names, table) for i in range(len(row.runs))],
    }


def several(comparisons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A file of several comparisons."""
    return {"schema": SEVERAL, "version": VERSION, "comparisons": list(comparisons)}


def bare(saved: dict[str, Any]) -> dict[str, Any]:
    """The same without tokens, pieces and ledgers."""
    if saved["schema"] == SEVERAL:
        return {**saved, "comparisons": [bare(one) for one in saved["comparisons"]]}
    rows = [
        {key: value for key, value in row.items() if key not in ("ids", "pieces", "ledger")} for row in saved["rows"]
    ]
    return {**saved, "rows": rows}


def load(path: Path) -> list[dict[str, Any]]:
    """The comparisons in a file. Raises AbreastError where it holds none, or those of another version."""
    saved = read_json(path)
    schema = saved.get("schema") if isinstance(saved, dict) else None
    if schema not in (ONE, SEVERAL):
        raise AbreastError(f"{path} is no saved run: abreast compare and abreast demo write one.")
    if saved.get("version") != VERSION:
        raise AbreastError(
            f"{path} is of version {saved.get('version')}, and this abreast reads version {VERSION}: run it again."
        )
    found = saved["comparisons"] if schema == SEVERAL else [saved]
    if any("ledger" not in row for one in found for row in one["rows"]):
        raise AbreastError(f"{path} has no ledgers: give the file that was written, not the JSON that was printed.")
    return found


def ledger_of(row: dict[str, Any]) -> Ledger:
    """The ledger of a saved row."""
    return Ledger.from_json(json.dumps(row["ledger"]))


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, so that they add up to the whole; bytes that are no character yet wait for the rest."""
    texts, shown, start = [], "", 0
    for i in range(len(ids)):
        text = tokenizer.decode(ids[start : i + 1], skip_special_tokens=True)
        if text.endswith("\ufffd") and i + 1 < len(ids):
            texts.append("")
            continue
        texts.append(text[len(shown) :])
        # A window keeps this linear: tokens before the last line end no longer change how the rest is spelled.
        start, shown = (i + 1, "") if text.endswith("\n") else (start, text)
    return texts


def _unique(labels: list[str]) -> list[str]:
    """Labels with a number where they say the same of different methods (settings that are no text are left out)."""
    return [name if labels[:i].count(name) == 0 else f"{name} {labels[:i].count(name) + 1}"
            for i, name in enumerate(labels)]  # fmt: skip


def _method(name: str, row: Row, table: Table) -> dict[str, Any]:
    return {
        "method": name,
        "settings": settings(row.method),
        "guarantee": str(row.method.promise(row.runs[0].problem)),
        "control_of": row.control_of,
        "reference": row is table.reference,
    }


def _row(name: str, row: Row, index: int) -> dict[str, Any]:
    run = row.runs[index]
    problem: Any = run.problem
    columns = problem.columns(run)
    ids = list(run.value[0])
    return {
        "method": name,
        "problem": index,
        "guarantee": str(run.method.promise(problem)),
        "kept": run.kept,
        "outcome": outcome(run),
        "distance": run.distance,
        "tokens": columns["tokens"],
        "calls": columns["calls"],
        "rows": int(columns["rows"]),
        "span": run.ledger.span,
        "work": run.ledger.work,
        "seconds": run.seconds,
        "tokens_per_second": columns["tokens_per_second"],
        "text": problem.text(run.value)[0],
        "pieces": pieces(problem.tokenizer, ids),
        "ids": ids,
        "ledger": json.loads(run.ledger.to_json()),
    }


def outcome(run: Run[Any]) -> str:
    """How the answer stands to the reference's, in a word or two."""
    problem: Any = run.problem
    if run.against is None:
        return "reference"
    if run.distance == 0:
        return "bit-identical" if run.kept and problem.model.steady and _chains(run.ledger) else "identical"
    return {True: "near tie", False: "broken", None: "another text"}[run.kept]


def _chains(ledger: Ledger) -> bool:
    """Whether all drafts were chains, of which a steady model computes every row as if alone."""
    facts = [note for note in ledger.notes.values() if "drafted" in note]
    return all(note["drafted"] == note.get("depth", note["drafted"]) for note in facts)
