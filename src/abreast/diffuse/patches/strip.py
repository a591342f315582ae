"""One rank's strip of a picture on its way through the network: what it does at every site, and what it records.

Axes: N rows of a call, C channels, H and W of the strip at some level, G groups, L tokens of the strip, D their width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from abreast.core import AbreastError
from abreast.diffuse.patches.exchange import Everyone, Parts, Pieces, Route, StaleExchange
from abreast.diffuse.patches.reuse import Reuse, Rule, Skipped
from abreast.diffuse.patches.sites import PatchSite
from abreast.diffuse.patches.strips import Strips
from abreast.workers import Team

Norm = Literal["corrected", "stale", "separate", "sync"]


@dataclass(frozen=True)
class Plan:
    """How a picture is split and what its ranks exchange.

    patches: strips. warmup: steps that wait for the other strips' parts of the same step; inf is always. norm: of group
    norms after it (see `Strip.statistics`). portion: how much of its own length a strip's attention looks beyond it
    after the warm-up, None is all. refresh: whether parts are exchanged after the warm-up. exchange: False runs each
    strip as if it were the picture. rows: of each strip, where they are not to be equal. branches: 2 puts the two
    branches of guidance on ranks of their own. attention: "gather" keys and values, or by "ulysses". cache: when to
    reuse what the blocks added in an earlier step. Raises AbreastError for values that make no sense.
    """

    patches: int
    warmup: float = math.inf
    norm: Norm = "sync"
    portion: float | None = None
    refresh: bool = True
    exchange: bool = True
    rows: tuple[int, ...] | None = None
    branches: int = 1
    attention: Literal["gather", "ulysses"] = "gather"
    cache: Rule | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.patches, int) or self.patches < 1:
            raise AbreastError(f"patches is a number of strips from 1 on, not {self.patches!r}.")
        if self.warmup != math.inf and (self.warmup != int(self.warmup) or self.warmup < 1):
            raise AbreastError(
                f"warmup is a number of steps from 1 on (the first has nothing older), not {self.warmup!r}."
            )
        if self.norm not in get_args(Norm):
            raise AbreastError(f"norm is one of {', '.join(get_args(Norm))}, not {self.norm!r}.")
        if self.portion is not None and not self.portion >= 0:
            raise AbreastError(f"portion is a share of a strip from 0 on, not {self.portion!r}.")
        if self.branches not in (1, 2):
            raise AbreastError(f"branches is 1, or 2 with guidance, not {self.branches!r}.")
        if self.attention not in ("gather", "ulysses"):
            raise AbreastError(f"attention is gather or ulysses, not {self.attention!r}.")

    @property
    def ranks(self) -> int:
        """Of the world it runs in."""
        return self.patches * self.branches


@dataclass
class Profile:
    """Floating point operations of one step on one strip, by the site at which the count stood so high. fills: the
    sites after the blocks of a transformer."""

    at_sites: list[float] = field(default_factory=list)
    fills: list[int] = field(default_factory=list)
    total: float = 0.0


class Strip:
    """What one rank knows. team: the ranks that share the picture. last: the last step. counter: a count of floating
    point operations makes this a rehearsal, which talks to nobody. kind: of the ledger's events."""

    def __init__(self, plan: Plan, strips: Strips, team: Team, last: int, counter: Any = None, kind: str = "denoise"):
        self.plan, self.strips, self.team, self.last, self.counter = plan, strips, team, last, counter
        self.rank, self.kind = team.rank, kind
        self.alone = team.size == 1 or not plan.exchange
        self.exchanges: dict[int, StaleExchange] = {}
        self.before: dict[int, Tensor] = {}
        self.prompts: dict[int, tuple[Tensor, Tensor]] = {}
        self.whole: Tensor | None = None
        self.profile = Profile()
        self.unit = 1.0
        self.step = self.count = 0
        self.done = 0.0
        self.tokens: tuple[int, int, int] | None = None
        self.caches: dict[int, Reuse] = {}
        self.call = -1

    def begin(self, step: int) -> None:
        """A step starts: sites are told apart by the order in which they come up in it."""
        self.step, self.count, self.done, self.call = step, 0, 0.0, -1

    def called(self) -> None:
        """The network is called, for the rows or the branch whose turn it is."""
        self.call += 1
        if self.plan.cache is not None and self.counter is None:
            self.caches.setdefault(self.call, Reuse(self.plan.cache))

    def mark(self, kind: str = "") -> int:
        """Which site of the step this is."""
        here = self.count
        self.count += 1
        if self.counter is not None:
            self.profile.at_sites.append(self.counter.total)
            if kind == "fill":
                self.profile.fills.append(here)
        return here

    def visit(self, site: PatchSite, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the strip does at a site instead of `plain`."""
        here = self.mark(site.kind)
        if site.kind == "block":
            return self.block(site, plain, args, kwargs)
        if site.kind == "attention":
            return self.attend(site, here, plain, args, kwargs)
        x = args[0]
        if site.kind == "fill":
            return self.fill(plain(x))
        if site.kind == "text":
            return self.prompt(here, plain, x)
        if self.alone:
            return plain(*args, **kwargs)
        if site.kind == "conv":
            return self.convolve(site, here, x)
        return self.normalise(site, here, plain, x) if site.kind == "norm" else self.gather(here, plain(x))

    # What is exchanged at a site.

    def convolve(self, site: PatchSite, here: int, x: Tensor) -> Tensor:
        """A convolution of the strip [N, C, H, W] with the border rows of its neighbours; zeros outside the picture."""
        conv: Any = site.module
        above, below = site.halo
        if site.spare:
            x = x[:, :, : -site.spare]
        high = x.shape[2]
        if high < max(above, below):
            raise AbreastError(
                f"{site.name} needs {max(above, below)} rows of its neighbour, and a strip has {high} there: "
                "take fewer patches."
            )
        if site.first and self.whole is not None:
            parts = self._of_input(above, below)
        else:
            ranks = range(self.team.size)
            up, down = self.rank - 1, self.rank + 1
            gives = {r: span for r, span in ((up, (0, below)), (down, (high - above, high))) if r in ranks}
            others = {up: self._high(up, high), down: self._high(down, high)}
            takes = {up: (others[up] - above, others[up]), down: (0, below)}
            takes = {r: span for r, span in takes.items() if r in ranks and span[0] < span[1]}
            gives = {r: span for r, span in gives.items() if span[0] < span[1]}
            parts = self.swap(here, x, Pieces(2, gives, takes)) if gives or takes else {}
        edges = [parts.get(self.rank - 1), x, parts.get(self.rank + 1)]
        for k, size in ((0, above), (2, below)):
            if edges[k] is None:
                edges[k] = x.new_zeros(*x.shape[:2], size, x.shape[3])
        padding = (0, conv.padding[1])
        seen = torch.cat([edge for edge in edges if edge is not None], 2)
        return F.conv2d(seen, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)

    def _of_input(self, above: int, below: int) -> Parts:
        """Border rows of the network's own input, which every rank has: it is the state."""
        assert self.whole is not None
        start, stop = self.strips.bounds(self.rank, self.whole.shape[2])
        parts = {self.rank - 1: self.whole[:, :, max(0, start - above) : start]}
        parts[self.rank + 1] = self.whole[:, :, stop : stop + below]
        return {rank: part for rank, part in parts.items() if part.shape[2]}

    def _high(self, rank: int, own: int) -> int:
        if not 0 <= rank < self.team.size:
            return 0
        start, stop = self.strips.bounds(rank, self.strips.whole(self.rank, own))
        return stop - start

    def normalise(self, site: PatchSite, here: int, plain: Callable[..., Any], x: Tensor) -> Tensor:
        """A group norm of the strip [N, C, ...] by the whole picture's statistics."""
        if self.plan.norm == "separate" and self.step >= self.plan.warmup:
            return plain(x)
        norm: Any = site.module
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        groups_NGX = wide.reshape(len(x), norm.num_groups, -1)
        own = torch.stack([groups_NGX.mean(-1), groups_NGX.square().mean(-1)])
        mean, square = self.statistics(here, own)
        variance = square - mean**2
        # Corrected statistics of two steps may not belong together.
        variance = torch.where(variance < 0, own[1] - own[0] ** 2, variance)
        out = (groups_NGX - mean[..., None]) * (variance[..., None] + norm.eps).rsqrt()
        out = out.reshape(x.shape)
        if norm.weight is not None:
            shape = (1, -1, *[1] * (x.ndim - 2))
            out = out * norm.weight.view(shape) + norm.bias.view(shape)
        return out.to(x.dtype)

    def statistics(self, here: int, own: Tensor) -> Tensor:
        """Mean and mean of squares [2, N, G] of the whole picture from those of the strip.

        While warming up, and always with "sync": of all strips, by their rows. "stale": the others' of the step before.
        "corrected": all of the step before, the own too, and what the own has changed by since.
        """
        parts = self.swap(here, own, Everyone(), math.inf if self.plan.norm == "sync" else None)
        mine, late = own, self.step >= self.plan.warmup and self.plan.norm == "corrected"
        if late:
            mine = self.before.get(here, own)
        total = torch.zeros_like(own)
        for rank, share in enumerate(self.strips.shares):
            total += share * (mine if rank == self.rank else parts[rank])
        if late:
            total = total + (own - mine)
        if self.step < self.plan.warmup or self.plan.refresh:
            self.before[here] = own
        return total

    def gather(self, here: int, own_NLD: Tensor) -> Tensor:
        """Keys or values of all tokens that this strip attends to."""
        if self.plan.attention == "ulysses":
            return own_NLD
        parts = self.swap(here, own_NLD, Everyone(1), reach=self._reach(own_NLD.shape[1]))
        parts = {**parts, self.rank: own_NLD}
        return torch.cat([parts[rank] for rank in sorted(parts)], 1)

    def _reach(self, own: int) -> Route | None:
        portion = self.plan.portion
        if portion is None:
            return None
        whole = self.strips.whole(self.rank, own)

        def overlap(source: int, to: int) -> tuple[int, int]:
            start, stop = self.strips.bounds(source, whole)
            low, high = self.strips.within(to, portion, whole)
            return max(start, low) - start, min(stop, high) - start

        others = [rank for rank in range(self.team.size) if rank != self.rank]
        gives = {to: overlap(self.rank, to) for to in others}
        takes = {source: overlap(source, self.rank) for source in others}
        return Pieces(1, *({r: s for r, s in spans.items() if s[0] < s[1]} for spans in (gives, takes)))

    def prompt(self, here: int, plain: Callable[..., Any], x: Tensor) -> Tensor:
        """Keys or values of a prompt, which are the same in every step."""
        kept = self.prompts.get(here)
        if kept is None or not torch.equal(kept[0], x):
            kept = self.prompts[here] = (x, plain(x))
        return kept[1]

    def attend(self, site: PatchSite, here: int, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A whole attention module: its input decides whether the blocks are skipped, and Ulysses replaces it."""
        cache = self.caches.get(self.call)
        if cache is not None and site.first:
            self.record(self.profile.at_sites[here])
            x = args[0] if args else kwargs["hidden_states"]
            skip = cache.skips(self.step, self.last, x, self.team)
            lane = self.team.lane
            lane.ledger.note(lane.last, cache="hit" if skip else "miss")
            if skip:
                raise Skipped
        if self.alone or self.plan.attention != "ulysses" or site.module.is_cross_attention:
            return plain(*args, **kwargs)
        from abreast.diffuse.patches.ulysses import attend

        return attend(self, site.module, here, args, kwargs)

    # Tokens.

    def block(self, site: PatchSite, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block of a transformer. The first sees the strip's tokens alone; the cache may skip all."""
        x_NLD = args[0] if args else kwargs["hidden_states"]
        if site.first:
            start, stop = self.strips.bounds(self.rank, x_NLD.shape[1])
            self.tokens = (start, stop, x_NLD.shape[1])
            x_NLD = x_NLD[:, start:stop]
            args, kwargs = ((x_NLD, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x_NLD})
        cache = self.caches.get(self.call)
        if cache is None:
            return plain(*args, **kwargs)
        out = cache.through(site, plain, x_NLD, args, kwargs)
        if site.last and cache.skipping:
            # What comes next is what comes after the blocks.
            self.count = self.profile.fills[self.call]
            self.done = self.profile.at_sites[self.count]
        return out

    def fill(self, own_NLD: Tensor) -> Tensor:
        """After the last block the strip's tokens stand where they belong, among zeros, so that the network can make a
        picture of them; the strip is then taken from that."""
        assert self.tokens is not None
        start, stop, whole = self.tokens
        out = own_NLD.new_zeros(len(own_NLD), whole, own_NLD.shape[2])
        out[:, start:stop] = own_NLD
        return out

    # What is recorded.

    def swap(
        self, here: int, own: Tensor, first: Route, warmup: float | None = None, reach: Route | None = None
    ) -> Parts:
        """The other ranks' parts at this site."""
        if self.counter is not None:
            return self._blank(own, first if self.step < self.plan.warmup else reach or first)
        self.record(self.profile.at_sites[here])
        if here not in self.exchanges:
            plan = self.plan
            until = plan.warmup if warmup is None else warmup
            self.exchanges[here] = StaleExchange(self.team, until, first, reach, plan.refresh, self.last)
        return self.exchanges[here](self.step, own)

    def record(self, reached: float) -> None:
        """An event for what was computed since the last one, up to this count of operations in the step."""
        share = (reached - self.done) * self.unit
        if share > 0:
            self.team.lane.add(self.kind, share, span=share)
        self.done = reached

    def _blank(self, own: Tensor, route: Route) -> Parts:
        """Zeros of the shapes that a route would bring."""
        sizes = {rank: self._high(rank, own.shape[route.axis]) for rank in range(self.team.size) if rank != self.rank}
        if isinstance(route, Pieces):
            sizes = {source: stop - start for source, (start, stop) in route.takes.items()}
        elif not route.axis:
            sizes = dict.fromkeys(sizes, len(own))
        shape, axis = own.shape, route.axis
        return {rank: own.new_zeros(*shape[:axis], size, *shape[axis + 1 :]) for rank, size in sizes.items()}
