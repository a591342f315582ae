"""Typing mistakes, as fingers make them, in prose and source lines: a task whose answer mostly copies its question."""

from __future__ import annotations

import random
from dataclasses import dataclass

from abreast.core.errors import AbreastError

_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEAR = {c: row[max(i - 1, 0) : i] + row[i + 1 : i + 2] for row in _ROWS for i, c in enumerate(row)}


def corrupt(text: str, density: float, rng: random.Random) -> str:
    """`text` with each letter or digit hit by a mistake with probability `density`; white space and lines stay.

    A mistake is a neighbouring key, a letter left out, doubled, or swapped with the next one, equally likely.
    """
    out, i = [], 0
    while i < len(text):
        char, after = text[i], text[i + 1 : i + 2]
        if not char.isalnum() or rng.random() >= density:
            out.append(char)
        elif (mistake := rng.choice(("near", "drop", "double", "swap"))) == "swap" and after.isalnum():
            out.append(after + char)
            i += 1
        elif mistake == "near" and char.lower() in _NEAR:
            key = rng.choice(_NEAR[char.lower()])
            out.append(key.upper() if char.isupper() else key)
        elif mistake != "drop":
            out.append(char + char)
        i += 1
    return "".join(out)


@dataclass(frozen=True)
class Typos:
    """Pairs of clean and mistyped source code from the standard library; the same seed gives the same pairs.

    `density` is the chance of a mistake at each letter or digit, `lines` how many consecutive lines make one text.
    The lines come from the held-out modules, or with `held_out=False` from the training files.
    """

    density: float = 0.05
    lines: int = 1
    seed: int = 0
    held_out: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.density <= 1 or self.lines < 1:
            raise AbreastError(f"Typos needs a density from 0 to 1 and at least one line, not {self}.")

    def pairs(self, n: int) -> list[tuple[str, str]]:
        """`n` different (clean, mistyped) texts of 20 characters a line or more; AbreastError if there are fewer."""
        from abreast.zoo.train.corpus import held_out_modules, training_files

        texts = list(held_out_modules().values()) if self.held_out else training_files()
        blocks: dict[str, None] = {}
        for text in texts:
            rows = [row.rstrip() for row in text.splitlines() if row.strip() and not row.lstrip().startswith("#")]
            starts = range(0, len(rows) - self.lines + 1, self.lines)
            blocks |= dict.fromkeys("\n".join(rows[i : i + self.lines]) for i in starts)
        clean = [block for block in blocks if len(block.strip()) >= 20 * self.lines]
        if n > len(clean):
            raise AbreastError(f"Only {len(clean)} different texts of {self.lines} lines are there, not {n}.")
        chosen = random.Random(f"typos {self.seed}").sample(clean, n)
        return [(block, corrupt(block, self.density, random.Random(f"{self.seed} {block}"))) for block in chosen]
