"""The reference: one token, one call."""

from __future__ import annotations

from dataclasses import dataclass

from abreast.core import Lane
from abreast.decode.engine import Drafter, Speculative
from abreast.decode.problem import Generation


@dataclass(frozen=True)
class Autoregressive(Speculative):
    """Decode one token at a time: nothing is drafted, so every call commits its own token."""

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        return Drafter()
