"""The papers, and what holds of each: `papers.toml`, one row a paper.

A row has its number, slug, title, room, group and state; once it is worked on also methods (names of classes),
guarantee, claim (a sentence) and realness. The state is "planned" until a run of the claim has written "holds", or
"short" of the paper's headline, with what it measured.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import AbreastError, nearest

PATH = Path(__file__).with_name("papers.toml")
STATES = ("planned", "holds", "short")


@dataclass(frozen=True)
class Paper:
    """A row of the catalog."""

    number: int
    slug: str
    title: str
    room: str
    group: str
    state: str = "planned"
    methods: tuple[str, ...] = ()
    guarantee: str = ""
    claim: str = ""
    realness: str = ""
    measured: str = ""


def papers(room: str | None = None, state: str | None = None, path: Path = PATH) -> list[Paper]:
    """The papers of a room and state (of all, where not given), by number. Raises AbreastError where none has such a
    room or state."""
    rows = _read(path, path.stat().st_mtime_ns)
    if room is not None and all(row.room != room for row in rows):
        raise AbreastError(f"no paper is in a room {room!r}: {nearest(room, (row.room for row in rows))}")
    if state is not None:
        _check_state(state)
    return [row for row in rows if room in (None, row.room) and state in (None, row.state)]


def paper(slug: str, path: Path = PATH) -> Paper:
    """The paper of this slug. Raises AbreastError where there is none."""
    rows = {row.slug: row for row in papers(path=path)}
    if slug not in rows:
        raise AbreastError(f"no paper is called {slug!r}: {nearest(slug, rows)}")
    return rows[slug]


def record(slug: str, state: str, measured: str, path: Path = PATH) -> None:
    """Write what a run of the claim showed into the paper's row; the rest of the file stays byte for byte."""
    paper(slug, path)
    _check_state(state)
    text = path.read_bytes().decode()
    heads = [m.start() for m in re.finditer(r"^\[\[paper\]\]", text, re.M)]
    for start, stop in zip(heads, [*heads[1:], len(text)]):
        row = text[start:stop]
        if tomllib.loads(row)["paper"][0]["slug"] == slug:
            row = _set(_set(row, "state", state, after="group"), "measured", measured, after="state")
            _replace(path, text[:start] + row + text[stop:])
            return


def _set(row: str, field: str, value: str, after: str) -> str:
    """The text of a row with this field set; a new one goes on the line after the field `after`."""
    line = f"{field} = {json.dumps(value, ensure_ascii=False)}"
    new, count = re.subn(rf"^{field} = .*$", lambda _: line, row, count=1, flags=re.M)
    return new if count else re.sub(rf"^({after} = .*)$", lambda m: f"{m[1]}\n{line}", row, count=1, flags=re.M)


def _replace(path: Path, text: str) -> None:
    """Write through a file beside it, so that nobody reads half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode())
    os.chmod(name, path.stat().st_mode)
    os.replace(name, path)


def _check_state(state: str) -> None:
    if state not in STATES:
        raise AbreastError(f"a paper's state is one of {', '.join(STATES)}, not {state!r}.")


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> tuple[Paper, ...]:
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["paper"]
    try:
        found = [Paper(**{**row, "methods": tuple(row.get("methods", ()))}) for row in rows]
    except TypeError as error:
        raise AbreastError(f"{path.name} has a row with a field that is missing or unknown: {error}.") from error
    return tuple(sorted(found, key=lambda row: row.number))
