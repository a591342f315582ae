"""Decoding one large latent on several devices: strips with exact borders, or tiles that overlap and are blended.

Axes: B samples, C channels, H and W of the latent; pictures are s times larger per side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from abreast.core import AbreastError, Kind, Method, Problem, Run
from abreast.core.problem import IDENTICAL, MEASURED, Guarantee
from abreast.diffuse.flops import Counting
from abreast.diffuse.networks import result
from abreast.diffuse.patches import sites
from abreast.diffuse.patches.engine import first
from abreast.diffuse.patches.strip import Plan, Strip
from abreast.diffuse.patches.strips import Strips, cut
from abreast.diffuse.problem import psnr
from abreast.workers import Team, World


@dataclass(frozen=True)
class Decoding(Problem[Tensor]):
    """Latents [B, C, H, W] to be decoded by a vae of diffusers (AutoencoderKL and its like) into pictures.

    The latents are what the vae's `decode` takes: already divided by its scaling factor. The ledger's unit is one whole
    decoding. Raises AbreastError for something else than a vae with a decoder, and latents of other axes.
    """

    vae: Any = field(repr=False, compare=False)
    latents: Tensor = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.vae, "decoder", None), torch.nn.Module):
            raise AbreastError(f"a vae of diffusers has a decoder, {type(self.vae).__name__} has none.")
        if self.latents.ndim != 4:
            raise AbreastError(f"latents are [B, C, H, W], not {list(self.latents.shape)}.")
        self.vae.eval()

    @property
    def reference(self) -> Method:
        return WholeDecode()

    @cached_property
    def entering(self) -> Tensor:
        """What the decoder itself is given."""
        before = getattr(self.vae, "post_quant_conv", None)
        with torch.no_grad():
            return self.latents if before is None else before(self.latents)

    @cached_property
    def flops(self) -> float:
        """Floating point operations of the whole decoder, counted by running it."""
        with Counting() as counter:
            self.decode(self.entering)
        return counter.total

    def decode(self, z: Tensor) -> Tensor:
        """Pictures [B, C, s H, s W]."""
        with torch.no_grad():
            return result(self.vae.decoder(z))

    def distance(self, value: Tensor, reference: Tensor) -> float:
        """Root mean square difference, in standard deviations of the reference's entries."""
        if value.shape != reference.shape:
            return float("inf")
        gap = (value.double() - reference.double()).square().mean().sqrt()
        return float(gap) / (float(reference.double().std()) or 1.0)

    @property
    def rounding(self) -> float:  # type: ignore[override]
        return 1e-10 if self.latents.dtype == torch.float64 else 1e-4

    def columns(self, run: Run[Tensor]) -> dict[str, Any]:
        return {} if run.against is None else {"psnr": psnr(run.value, run.against.value)}


@dataclass(frozen=True)
class WholeDecode(Method):
    """Decode the whole latent at once."""

    def run(self, problem: Decoding, world: World) -> Tensor:
        lane = world.lane()
        if lane.ledger.machine is not None:
            lane.ledger.kinds["decode"] = Kind(flops=problem.flops)
        with lane.measure("decode"):
            return problem.decode(problem.entering)

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL


@dataclass(frozen=True)
class StripDecode(Method):
    """Decode one horizontal strip of the latent on each rank.

    tiles: "exact" exchanges border rows at every convolution, statistics of every norm, keys and values: the picture is
    the whole one's. "blended" tells nothing: each rank decodes its strip with `overlap` of its rows more on either side
    as if it were the picture, and neighbours are cross-faded there, which changes pixels. split: "rows" as equal as
    they can be, or the latent's rows of each strip. Raises AbreastError where the latent cannot be cut so, or the
    decoder mixes rows in an unknown way.
    """

    patches: int = 2
    tiles: Literal["exact", "blended"] = "exact"
    overlap: float = 0.25
    split: Literal["rows"] | tuple[int, ...] = "rows"

    def __post_init__(self) -> None:
        Plan(self.patches)
        if self.tiles not in ("exact", "blended") or not 0 <= self.overlap <= 1:
            raise AbreastError(
                f"tiles are exact or blended, with an overlap up to 1, not {self.tiles!r} and {self.overlap}."
            )

    def run(self, problem: Decoding, world: World) -> Tensor:
        rows = None if self.split == "rows" else tuple(self.split)
        strips = cut(problem.latents.shape[2], self.patches, 1, rows)
        decoder = problem.vae.decoder
        sites.find(decoder)
        problem.flops  # noqa: B018  counted once here, not by every rank
        problem.entering  # noqa: B018

        def worker(team: Team) -> Tensor | None:
            team.lane.ledger.kinds.setdefault("decode", Kind(flops=problem.flops))
            own = self._exact(problem, strips, team) if self.tiles == "exact" else self._blended(problem, strips, team)
            parts = team.gather(own)
            if parts is None:
                return None
            return torch.cat(parts, 2) if self.tiles == "exact" else self._faded(problem, strips, parts)

        return first(world.with_ranks(self.patches).map(worker))

    def _exact(self, problem: Decoding, strips: Strips, team: Team) -> Tensor:
        z, plan = problem.entering, Plan(self.patches)
        rehearsal, strip = (Strip(plan, strips, team, 0, kind="decode") for _ in range(2))
        own = strips.take(z, team.rank, 2)
        with sites.installed(problem.vae.decoder):
            for one, counter in ((rehearsal, Counting()), (strip, nullcontext())):
                context: AbstractContextManager[Any] = counter
                with context as one.counter, sites.visiting(one):
                    one.begin(0)
                    one.whole = z
                    out = problem.decode(own)
                if one is rehearsal:
                    strip.profile, strip.unit = rehearsal.profile, 1 / problem.flops
                    strip.profile.total = rehearsal.counter.total
        strip.record(strip.profile.total)
        return out

    def _blended(self, problem: Decoding, strips: Strips, team: Team) -> Tensor:
        start, stop = self._seen(strips, team.rank)
        seen = problem.entering[:, :, start:stop]
        with Counting() as counter:
            out = problem.decode(seen)
        share = counter.total / problem.flops
        team.lane.add("decode", share, span=share)
        return out

    def _seen(self, strips: Strips, rank: int) -> tuple[int, int]:
        """Rows of the latent that a blended strip is decoded from."""
        start, stop = strips.bounds(rank, strips.rows)
        more = round(self.overlap * (stop - start))
        return max(0, start - more), min(strips.rows, stop + more)

    def _faded(self, problem: Decoding, strips: Strips, parts: list[Tensor]) -> Tensor:
        """Parts [B, C, rows, W] in one picture, their weights falling linearly over the rows that are not their own."""
        first = self._seen(strips, 0)
        scale = parts[0].shape[2] // (first[1] - first[0])
        total = parts[0].new_zeros(*parts[0].shape[:2], scale * strips.rows, parts[0].shape[3])
        weights = parts[0].new_zeros(scale * strips.rows, 1)
        for rank, part in enumerate(parts):
            a, b = (scale * x for x in self._seen(strips, rank))
            start, stop = (scale * x for x in strips.bounds(rank, strips.rows))
            row = torch.arange(a, b)[:, None].to(part)
            # Falls from 1, as far inside the strip as it was widened, to 0 at the far end of that.
            up = ((row - a + 0.5) / max(2 * (start - a), 1)).clamp(max=1) if start > a else torch.ones_like(row)
            down = ((b - row - 0.5) / max(2 * (b - stop), 1)).clamp(max=1) if b > stop else torch.ones_like(row)
            total[:, :, a:b] += torch.minimum(up, down) * part
            weights[a:b] += torch.minimum(up, down)
        return total / weights

    def promise(self, problem: Any) -> Guarantee:
        return IDENTICAL if self.tiles == "exact" or self.patches == 1 else MEASURED

    def laws(self) -> Iterator[tuple[str, Method, Method]]:
        yield "one strip is the whole picture", replace(self, patches=1, split="rows"), WholeDecode()
        yield "exact strips are the whole picture", replace(self, tiles="exact"), WholeDecode()

    def controls(self, run: Run[Any]) -> Iterator[Method]:
        if self.tiles == "blended":
            yield replace(self, overlap=0.0)
