"""Sampling with each rank predicting its own strip of the picture; all ranks hold the whole state and step it.

So the scheduler may be any, and a step needs no more than the gathered output. Unit 1 of the ledger is one full
denoiser evaluation; a strip counts its share of the floating point operations on its rank's lane, found by a rehearsal
of the strip with what others would send filled in with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from abreast.core import IDENTICAL, MEASURED, AbreastError, Guarantee, Kind, Method
from abreast.core.problem import exhaust
from abreast.diffuse.denoise import Denoiser, _weight
from abreast.diffuse.flops import Counting
from abreast.diffuse.patches import sites
from abreast.diffuse.patches.strip import Plan, Profile, Strip
from abreast.diffuse.patches.strips import Strips, cut
from abreast.diffuse.sequential import loop
from abreast.workers import Team, World

if TYPE_CHECKING:
    from abreast.diffuse.problem import Sampling


def sample(problem: Sampling, world: World, plan: Plan) -> Tensor:
    """The last state [B, C, H, W], found by `plan.ranks` ranks. Raises AbreastError where the network's parts cannot
    be seen or mix rows in unknown ways, the picture cannot be cut so, or the world has another number of ranks."""
    strips = dealt(problem, plan)
    problem.flops  # noqa: B018  counted once here, not by every rank
    profiles: dict[Any, Profile] = {}

    def worker(team: Team) -> Tensor | None:
        with sites.installed(problem.denoiser.module):
            value = exhaust(loop(problem, StripDenoiser(problem, team, plan, strips, profiles)))
        return value if team.rank == 0 else None

    return first(world.with_ranks(plan.ranks).map(worker))


@dataclass(frozen=True)
class Planned(Method):
    """A method that is a plan for strips: a subclass says which, and what it is held against."""

    def __post_init__(self) -> None:
        self.plan()

    def plan(self) -> Plan:
        """The method in the engine's words. Raises AbreastError for settings that make no sense."""
        raise NotImplementedError

    def run(self, problem: Sampling, world: World) -> Tensor:
        return sample(problem, world, self.plan())

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if exact(self.plan(), lambda: problem.length) else MEASURED


def first(values: Sequence[Tensor | None]) -> Tensor:
    """Rank 0's value, which alone is kept."""
    assert values[0] is not None
    return values[0]


def dealt(problem: Sampling, plan: Plan) -> Strips:
    """The strips of a problem's picture. Raises AbreastError where it cannot be cut so."""
    module = problem.denoiser.module
    if module is None or not hasattr(problem.denoiser, "inputs"):
        raise AbreastError("this denoiser is a function: it has no parts. Give the diffusers model itself.")
    if problem.noise.ndim != 4:
        raise AbreastError(f"patches are cut from pictures [B, C, H, W], not from noise {list(problem.noise.shape)}.")
    if plan.branches == 2 and problem.guidance is None:
        raise AbreastError("branches=2 puts the branches of guidance on ranks of their own, and there is no guidance.")
    found = sites.find(module)
    if plan.cache is not None and not any(site.kind == "attention" and site.first for site in found):
        raise AbreastError(
            f"the step cache needs a transformer whose first block has an attn1, not {type(module).__name__}."
        )
    if plan.attention == "ulysses" and not sites.in_tokens(module):
        raise AbreastError(f"Ulysses attention splits the tokens of a transformer, not {type(module).__name__}.")
    return cut(problem.noise.shape[2], plan.patches, sites.multiple(module), plan.rows)


class StripDenoiser:
    """One rank's way to predict: its strip through the network, then the gathered output of all.

    team: patches x branches ranks, the patches of one branch side by side. profiles: of rehearsals, shared between the
    ranks of a process whose strips are alike.
    """

    def __init__(self, problem: Sampling, team: Team, plan: Plan, strips: Strips, profiles: dict[Any, Profile]):
        self.problem, self.team, self.plan, self.strips = problem, team, plan, strips
        # A share of the operations is a strip here, but every rank reads all weights.
        reads = _weight(problem.denoiser.module) * plan.patches
        team.lane.ledger.kinds.setdefault("denoise", Kind(flops=problem.flops, reads=reads))
        self.denoise = Denoiser(problem, team.lane)
        self.names = self.denoise.branches
        self.mates = team
        if plan.branches == 2:
            branch = team.rank // plan.patches
            self.mates, self.names = team.split(branch, "branch"), (self.names[branch],)
        self.strip = Strip(plan, strips, self.mates, problem.length - 1)
        self.strip.unit = 1 / problem.flops
        self.profiles = profiles
        self.network = problem.denoiser

    def __call__(self, i: int, x: Tensor) -> Tensor:
        strip = self.strip
        strip.profile = self._profile(i, x)
        strip.begin(i)
        outs = self._through(strip, i, x)
        strip.record(strip.profile.total)
        own = self.denoise.combine(outs) if len(outs) == len(self.denoise.branches) else outs[self.names[0]]
        parts, n = self.team.all_gather(own), self.plan.patches
        wholes = [torch.cat(parts[k : k + n], 2) for k in range(0, len(parts), n)]
        if self.plan.branches == 1:
            return wholes[0]
        return self.denoise.combine(dict(zip(self.denoise.branches, wholes)))

    def _through(self, strip: Strip, i: int, x: Tensor) -> dict[str, Tensor]:
        """By branch the outputs [B, C, rows, W] of the strip."""
        own, outs = self.strips.take(x, self.mates.rank, 2), dict[str, Tensor]()
        # With a cache each branch has its own decisions, so each is a call of its own.
        apart = self.plan.cache is not None
        for group in [(name,) for name in self.names] if apart else self.denoise.groups(self.names):
            seen, t, cond = self.denoise.rows(group, i, x)
            self.denoise.network = Seen(self.network, strip, self.strips)
            with torch.no_grad(), sites.visiting(strip):
                out = self.denoise._tiled(seen, t, cond)
            outs |= self.denoise._split(out, own, group)
        return outs

    def _profile(self, i: int, x: Tensor) -> Profile:
        """What a step costs by sites: the first step, those of the warm-up and the later ones may differ."""
        portion = self.plan.portion
        late = portion is not None and i >= self.plan.warmup and not self.strip.alone
        rank, rows = self.mates.rank, self.strips.rows
        seen = self.strips.within(rank, portion if portion is not None and late else math.inf, rows)
        phase = (self.names, i > 0 and bool(self.strip.prompts), self.strips.sizes[rank], seen[1] - seen[0], late)
        if phase not in self.profiles:
            with Counting() as counter:
                rehearsal = Strip(self.plan, self.strips, self.mates, self.strip.last, counter)
                rehearsal.prompts = dict(self.strip.prompts)
                rehearsal.begin(i)
                self._through(rehearsal, i, x)
                rehearsal.profile.total = counter.total
            self.profiles[phase] = rehearsal.profile
        return self.profiles[phase]


class Seen:
    """The network as a strip sees it: given whole states [N, C, H, W], it returns the strip of its output."""

    def __init__(self, network: Any, strip: Strip, strips: Strips):
        self.network, self.strip, self.strips = network, strip, strips
        self.module = network.module

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.strip.called()
        if sites.in_tokens(self.module):
            out = self.network.finish(self.module(**self.network.inputs(x, t, cond)))
            return self.strips.take(out, self.strip.rank, 2)
        _flat(cond)
        self.strip.whole = x.to(self.network.dtype or x.dtype)
        own = self.strips.take(x, self.strip.rank, 2)
        return self.network.finish(self.module(**self.network.inputs(own, t, cond)))


def _flat(cond: Any) -> None:
    for name, value in cond.items() if isinstance(cond, Mapping) else ():
        if isinstance(value, Tensor) and value.ndim > 3:
            raise AbreastError(f"the condition {name} is a picture {list(value.shape)}: strips do not cut conditions.")
        _flat(value)


def exact(plan: Plan, length: Callable[[], int]) -> bool:
    """Whether a plan gives the reference's answer, up to the rounding of reordered sums."""
    if plan.cache is not None and plan.cache.tau > 0 and plan.cache.warmup < length():
        return False
    if plan.patches == 1:
        return True
    return plan.exchange and (plan.warmup == math.inf or plan.warmup >= length())
