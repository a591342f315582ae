"""Small exact problems with known answers, shared by the tests of core."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from abreast.core import IDENTICAL, Guarantee, Kind, Method, Problem, Run, uniform
from abreast.workers import World


@dataclass(frozen=True)
class Letters(Problem[list[int]]):
    """n letters, each drawn from three by a rule that looks at the one before."""

    n: int = 60
    seed: int = 0
    reference: ClassVar[Method]

    def letter(self, position: int, before: int) -> int:
        return (before + 1 + int(2 * uniform(self.seed, "letter", position))) % 3

    def distance(self, value: list[int], reference: list[int]) -> float:
        return sum(a != b for a, b in zip(value, reference)) + abs(len(value) - len(reference))

    def quality(self, value: list[int]) -> dict[str, float]:
        return {"zeros": float(value.count(0))}

    def law(self) -> dict[Any, float] | None:
        return {(1,): 0.5, (2,): 0.5} if self.n == 1 else None


@dataclass(frozen=True)
class OneByOne(Method):
    def promise(self, problem: Problem[Any]) -> Guarantee:
        return IDENTICAL

    def steps(self, problem: Letters, world: World) -> Iterator[int]:
        lane, out = world.lane(), [0]
        for position in range(problem.n):
            lane.add("target")
            out.append(problem.letter(position, out[-1]))
            yield out[-1]
        return out[1:]


Letters.reference = OneByOne()


@dataclass(frozen=True)
class Speculative(Method):
    """Chain speculation with a drafter that is right where `right` of the position says so."""

    gamma: int = 4
    cost: float = 0.1
    wrong_every: int = 0
    weights: Any = field(default=None, repr=False, compare=False)

    def promise(self, problem: Problem[Any]) -> Guarantee:
        return IDENTICAL

    def run(self, problem: Letters, world: World) -> list[int]:
        lane, out = world.lane(), [0]
        lane.ledger.kinds["draft"] = Kind(unit=self.cost)
        while len(out) <= problem.n:
            first = len(out) - 1
            guess = list(out)
            for position in range(first, first + self.gamma):
                lane.add("draft")
                missed = self.wrong_every and position % self.wrong_every == 0
                guess.append((problem.letter(position, guess[-1]) + bool(missed)) % 3)
            event = lane.add("target", self.gamma + 1)
            kept = 0
            while kept < self.gamma and problem.letter(first + kept, out[-1]) == guess[len(out)]:
                out.append(guess[len(out)])
                kept += 1
            lane.ledger.note(event, drafted=self.gamma, accepted=kept)
            out.append(problem.letter(first + kept, out[-1]))
        return out[1 : problem.n + 1]

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "nothing drafted is one letter at a time", replace(self, gamma=0), OneByOne()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        yield Shorter(round(run.ledger.span))
        yield OneByOne()


@dataclass(frozen=True)
class Shorter(Method):
    """Stops after n letters, and says that the rest are zeros."""

    n: int

    def run(self, problem: Letters, world: World) -> list[int]:
        return OneByOne().run(replace(problem, n=min(self.n, problem.n)), world) + [0] * max(0, problem.n - self.n)
