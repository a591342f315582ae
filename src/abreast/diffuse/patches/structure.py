"""ASGDiffusion: a picture larger than the model was trained for, whose patches follow one view of the whole.

Axes: B samples, C channels, H and W of the large picture, h = H / s and w = W / s of a view or tile, V of these.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from abreast.core import AbreastError, Kind, Method, Run
from abreast.core.problem import IDENTICAL, MEASURED, Guarantee, exhaust
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.flops import Counting
from abreast.diffuse.levels import held
from abreast.diffuse.patches.engine import first
from abreast.diffuse.patches.views import blend, crop, deinterleave, interleave, tiles
from abreast.diffuse.problem import Sampling
from abreast.diffuse.sequential import Sequential, fewer_steps, loop
from abreast.workers import Team, World


@dataclass(frozen=True)
class StructureGuided(Method):
    """Sample a picture `scale` times larger per side than the model was trained for: first as scale² coarse views of
    the whole, then as overlapping tiles of trained size, all on workers of their own; in both stages what a part
    predicts is drawn towards what view 0 predicts.

    With x0(.) the clean picture that the network sees in a state, a part p becomes x0(p) + w M (x0(view 0) - x0(p)),
    the view enlarged and cropped to a tile in the second stage. structure_steps: portion of the steps in the first
    stage. weight: w falls as "cos" from 1 to 0 over the steps, as its square "cos2", or is a number; 0 only averages
    tiles. space: "eps" draws the outputs as they are, the literal form, which needs one start noise for all views (else
    the views run apart). mask: M [h, w], or with more axes before, from 0 to 1; None is 1. asynchronous: guide by what
    view 0 predicted in the step before, so that nobody waits; else view 0 is evaluated first. overlap: portion of a
    tile shared with the next. workers: ranks that share the parts; they change nothing but time.

    The ledger's unit is one evaluation of all samples at the trained size. Raises AbreastError where sides do not
    divide, or views start from different noise in space "eps". Source: Li et al., ASGDiffusion, 2024; the clean picture
    in place of the noise is ours.
    """

    scale: int = 2
    structure_steps: float = 0.6
    weight: Literal["cos", "cos2"] | float = "cos"
    space: Literal["x0", "eps"] = "x0"
    mask: Tensor | None = field(default=None, repr=False, compare=False)
    asynchronous: bool = True
    overlap: float = 0.25
    workers: int = 1

    def __post_init__(self) -> None:
        if self.scale < 1 or self.workers < 1 or not 0 <= self.structure_steps <= 1:
            raise AbreastError(
                "scale and workers are numbers from 1 on and structure_steps is a portion, "
                f"not {self.scale}, {self.workers} and {self.structure_steps}."
            )
        if self.space not in ("x0", "eps"):
            raise AbreastError(f"space is x0 or eps, not {self.space!r}.")
        if isinstance(self.weight, str) and self.weight not in ("cos", "cos2"):
            raise AbreastError(f"weight is cos, cos2 or a number, not {self.weight!r}.")

    def run(self, problem: Sampling, world: World) -> Tensor:
        if problem.noise.ndim != 4:
            raise AbreastError(f"views are of pictures [B, C, H, W], not of noise {list(problem.noise.shape)}.")
        views = interleave(problem.x0, self.scale)
        if self.space == "eps" and not all(torch.equal(view, views[0]) for view in views):
            raise AbreastError("space='eps' needs one start noise for all views: repeat it, or guide in space 'x0'.")

        def worker(team: Team) -> Tensor | None:
            value = exhaust(self._sample(problem, team))
            return value if team.rank == 0 else None

        return first(world.with_ranks(self.workers).map(worker))

    def _sample(self, problem: Sampling, team: Team) -> Generator[tuple[int, Tensor], None, Tensor]:
        return loop(problem, Guided(self, problem, team))

    def strength(self, i: int, steps: int) -> float:
        """w of step i."""
        if not isinstance(self.weight, str):
            return self.weight
        return math.cos(math.pi * i / (2 * steps)) ** (1 if self.weight == "cos" else 2)

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.scale == 1 else MEASURED

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "a picture of trained size is the plain one", replace(self, scale=1), Sequential()
        yield "workers change nothing", self, replace(self, workers=self.workers % 3 + 1)

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        yield replace(self, structure_steps=0.0, weight=0.0)
        yield from fewer_steps(run.ledger.span)


class Guided:
    """Predicts the large picture's output on one rank, of parts that all ranks share."""

    def __init__(self, method: StructureGuided, problem: Sampling, team: Team):
        self.method, self.problem, self.team = method, problem, team
        self.sides = problem.noise.shape[-2:]
        self.view = tuple(side // method.scale for side in self.sides)
        self.corners = tiles(self.sides, self.view, method.overlap)
        self.space = "x0" if method.space == "x0" else "output"
        if team.lane.ledger.machine is not None and "denoise" not in team.lane.ledger.kinds:
            team.lane.ledger.kinds["denoise"] = Kind(flops=self._flops())
        self.denoise = Denoiser(problem, team.lane)
        self.before: Tensor | None = None

    def __call__(self, i: int, x: Tensor) -> Tensor:
        method, steps = self.method, self.problem.length
        views = interleave(x, method.scale)
        coarse = i < method.structure_steps * steps
        if method.scale == 1:
            parts, guided = [x], False
        elif coarse:
            parts, guided = list(views), True
        else:
            parts = [crop(x, corner, self.view) for corner in self.corners]
            guided = method.strength(i, steps) != 0
            parts = [views[0], *parts] if guided else parts
        said = [self._said(i, out, part) for out, part in zip(self._evaluate(i, parts, guided), parts)]
        if method.scale == 1:
            return self._output(i, said[0], x)
        guide = said[0]
        if guided:
            now, self.before = guide, guide if self.before is None else self.before
            guide = self.before if method.asynchronous else now
            self.before = now
        if coarse:
            strength = self._strength(i, self.view)
            others = [one + strength * (guide - one) for one in said[1:]]
            clean = deinterleave(torch.stack([said[0], *others]), method.scale)
        else:
            clean = blend(said[1:] if guided else said, self.corners, self.sides)
            if guided:
                clean = clean + self._strength(i, self.sides) * (enlarged(guide, self.sides) - clean)
        return self._output(i, clean, x)

    def _evaluate(self, i: int, parts: list[Tensor], guided: bool) -> list[Tensor]:
        """The outputs of all parts: each rank evaluates every `workers`-th, one at a time, so that what comes out does
        not depend on how many there are."""
        first: list[Tensor] = []
        if guided and not self.method.asynchronous:
            own = self.denoise(i, parts[0]) if self.team.rank == 0 else None
            first, parts = [self.team.broadcast(own)], parts[1:]
        team = self.team
        own_parts = [self.denoise(i, part) for part in parts[team.rank :: team.size]]
        empty = parts[0].new_zeros(0, *parts[0].shape)
        gathered = team.all_gather(torch.stack(own_parts) if own_parts else empty)
        return first + [gathered[k % team.size][k // team.size] for k in range(len(parts))]

    def _said(self, i: int, out: Tensor, part: Tensor) -> Tensor:
        if self.method.scale == 1:
            return out
        return held(self.problem.scheduler, i, out, part, "output", self.space)

    def _output(self, i: int, said: Tensor, x: Tensor) -> Tensor:
        if self.method.scale == 1:
            return said
        return held(self.problem.scheduler, i, said, x, self.space, "output")

    def _strength(self, i: int, sides: Any) -> Any:
        """w M, for a picture of these sides."""
        strength = self.method.strength(i, self.problem.length)
        if self.method.mask is None:
            return strength
        mask = self.method.mask
        if tuple(mask.shape[-2:]) != self.view:
            raise AbreastError(f"the mask is of a view, {list(self.view)}, not of {list(mask.shape[-2:])}.")
        return strength * enlarged(mask, sides).to(self.problem.noise)

    def _flops(self) -> float:
        from abreast.core import Ledger

        with Counting() as counter:
            Denoiser(self.problem, Ledger().lane("0"))(0, interleave(self.problem.x0, self.method.scale)[0])
        return counter.total


def enlarged(x: Tensor, sides: Any) -> Tensor:
    """A view [..., h, w] at the size of the picture: its pixels where it took them from, linear between."""
    if tuple(x.shape[-2:]) == tuple(sides):
        return x
    flat = x.reshape(-1, 1, *x.shape[-2:])
    s = sides[0] // x.shape[-2]
    # The view's pixels are the picture's at 0, s, 2s ...; the last one is repeated beyond them.
    padded = F.pad(flat, (0, 1, 0, 1), mode="replicate")
    grown = tuple(s * (side - 1) + 1 for side in padded.shape[-2:])
    large = F.interpolate(padded, grown, mode="bilinear", align_corners=True)[..., : sides[0], : sides[1]]
    return large.reshape(*x.shape[:-2], *sides)
