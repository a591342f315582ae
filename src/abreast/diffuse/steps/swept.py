"""What the methods of this axis share: sweeps over a window of the sampler's own trajectory, alone or on ranks."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from abreast.core import Lane, Method, Run
from abreast.core.problem import exhaust
from abreast.diffuse.problem import Sampling
from abreast.diffuse.sequential import fewer_steps
from abreast.solve.engine import Solved
from abreast.workers import Team, World

Solving = Generator[int, None, Solved]


@dataclass(frozen=True)
class Swept(Method):
    """A sampler that sweeps; a subclass says how."""

    def sweeps(self, problem: Sampling, lane: Lane, team: Team | None) -> Solving:
        """An iteration of `solve.engine` that keeps the last state."""
        raise NotImplementedError

    def steps(self, problem: Sampling, world: World) -> Generator[tuple[int, None], None, Tensor]:
        """Yields the number of final states after each sweep; on several ranks only the sample comes back."""
        if world.size > 1:
            return world.map(lambda team: exhaust(self.sweeps(problem, team.lane, team)).states[-1])[0]
        return (yield from shown(self.sweeps(problem, world.lane(), None)))

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        return fewer_steps(run.ledger.span)


def shown(solving: Solving) -> Generator[tuple[int, None], None, Tensor]:
    """An iteration as the steps of a sampler: (final states, None) a sweep; returns the last state."""
    while True:
        try:
            yield next(solving), None
        except StopIteration as end:
            return end.value.states[-1]
