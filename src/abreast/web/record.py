"""What a comparison of decoding methods has beside what all comparisons have (`saved.py`).

    {"schema": "abreast.decode",
     "model", "dtype", "device", "parameters", "steady", "chat", "max_new_tokens",
     "sampling": {"temperature", "top_k", "top_p", "repetition_penalty"},
     "curve": [[rows, seconds], ...] or null,             measured cost of a call, where it was calibrated
     "problems": [{"name", "kind", "prompt", "prompt_tokens"}],
     "rows": [{"tokens", "calls", "rows", "tokens_per_second", "text", "ids", "pieces"}]}

calls and rows: of the model, its prompt's call among the calls. work and span: in calls of the model. ids and pieces:
the text's tokens, and how each is spelled; printed JSON leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from abreast.core.compare import Table
from abreast.core.ledger import Ledger
from abreast.core.problem import Run
from abreast.web import saved


def comparison(table: Table, facts: dict[str, Any], problems: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A table as plain values. facts: what the caller knows (title, model, ...); problems: one for each problem."""
    model: Any = table.reference.runs[0].problem.model  # type: ignore[attr-defined]
    known = {
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": model.parameters,
        "steady": model.steady,
    }
    return saved.comparison(saved.DECODE, table, facts | known, problems, _row)


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


def _row(run: Run[Any]) -> dict[str, Any]:
    problem: Any = run.problem
    columns = problem.columns(run)
    ids = list(run.value[0])
    return {
        "outcome": outcome(run),
        "tokens": columns["tokens"],
        "calls": columns["calls"],
        "rows": int(columns["rows"]),
        "tokens_per_second": columns["tokens_per_second"],
        "text": problem.text(run.value)[0],
        "pieces": pieces(problem.tokenizer, ids),
        "ids": ids,
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
