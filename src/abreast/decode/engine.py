"""The loop of every method that drafts and verifies: propose, one call of the target, judge, commit, roll back.

Target   the model on a lane: one call is one event
Stream   one live text: its tokens, of which the last is not in the cache yet
Drafter  guesses what comes next, for all live streams at once
serial   the loop; a batch is a forest of streams in one call
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from abreast.attention import SlotCache
from abreast.core import Guarantee, Kind, Lane, Method
from abreast.decode.model import Out, TokenModel
from abreast.decode.problem import Generation, Tokens
from abreast.decode.sampling import Dice
from abreast.decode.tree import NOTHING, Draft, ancestors, depths
from abreast.decode.verify import Context, Match, Verdict, Verifier
from abreast.workers import World

SLACK = 256  # slots for a call's drafts and probes, beyond what the texts fill


@dataclass
class Stream:
    """One text in the making. tokens: prompt and what was committed; the last one is pending: in no cache yet."""

    number: int
    tokens: list[int]
    prompt: int
    left: int
    dice: Dice
    done: bool = False

    @property
    def out(self) -> list[int]:
        """The committed tokens."""
        return self.tokens[self.prompt :]


@dataclass(frozen=True)
class Commit:
    """What one call added: tokens by stream number. guessed: how many of them were drafted."""

    tokens: dict[int, list[int]]
    drafted: int
    accepted: int


@dataclass(frozen=True)
class Seen:
    """What a call computed for one stream: out's rows are [root, nodes, wanted probes]."""

    draft: Draft
    verdict: Verdict
    out: Out

    @property
    def hidden(self) -> torch.Tensor:
        """[d], where the bonus was read: all that is known of the text before the pending token."""
        return self.out.hidden[self.verdict.last]


class Drafter:
    """Guesses for all live streams. Subclasses write `draft` (one stream) or `propose` (all at once)."""

    def begin(self, stream: Stream, seen: Seen) -> None:
        """The prompt was computed; `seen` has its last row, and the first token is committed."""

    def propose(self, streams: Sequence[Stream]) -> list[Draft]:
        return [self.draft(stream) for stream in streams]

    def draft(self, stream: Stream) -> Draft:
        """What may come after the stream's tokens."""
        return NOTHING

    def observe(self, stream: Stream, seen: Seen) -> None:
        """A call was judged, and its tokens are committed."""


class Target:
    """A model and its cache on a lane: every call enters the ledger with its rows and, on this machine, its times."""

    def __init__(self, model: TokenModel, lane: Lane, capacity: int, kind: str = "target", unit: float = 1.0):
        self.model, self.lane, self.kind = model, lane, kind
        self.cache: SlotCache = model.cache(capacity)
        self.event = -1
        size = model.parameters
        bytes = size * torch.finfo(model.dtype).bits / 8
        for name in (kind, "prefill"):
            lane.ledger.kinds.setdefault(name, Kind(unit=unit, flops=2.0 * size, reads=bytes))

    def __call__(self, rows: Rows, want: slice | torch.Tensor, kind: str | None = None) -> Out:
        device = self.model.device
        tokens, positions, owners = (torch.tensor(x, device=device) for x in (rows.tokens, rows.positions, rows.owners))
        see = torch.from_numpy(rows.see).to(device)
        with self.lane.measure(kind or self.kind, len(rows.tokens)):
            out = self.model.forward(self.cache, tokens, positions, owners, see, want)
        self.event = self.lane.last
        return out


@dataclass
class Rows:
    """The rows of a call under construction, over a cache whose used slots are `start`."""

    start: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    blocks: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(
        self, owner: int, tokens: Iterable[int], positions: Iterable[int], prefix: np.ndarray, among: np.ndarray
    ) -> int:
        """Append k rows that see `prefix` [start] of the cache and, among themselves, `among` [k, k]; the first row's
        number."""
        first = len(self.tokens)
        self.tokens += tokens
        self.positions += positions
        self.owners += [owner] * (len(self.tokens) - first)
        self.blocks.append((prefix, among))
        return first

    @property
    def see(self) -> np.ndarray:
        """[m, start + m] bool."""
        m = len(self.tokens)
        see = np.zeros((m, self.start + m), dtype=bool)
        at = 0
        for prefix, among in self.blocks:
            k = len(among)
            see[at : at + k, : self.start] = prefix
            see[at : at + k, self.start + at : self.start + at + k] = among
            at += k
        return see


def prefill(target: Target, stream: Stream) -> Out:
    """Compute a prompt in one call; what its last row gave."""
    m, start = len(stream.tokens), target.cache.length
    rows = Rows(start)
    rows.add(stream.number, stream.tokens, range(m), np.zeros(start, dtype=bool), np.tri(m, dtype=bool))
    return target(rows, slice(m - 1, m), "prefill")


def serial(
    problem: Generation, world: World, drafter: Drafter, verify: Verifier, capacity: int | None = None
) -> Generator[Commit, None, Tokens]:
    """Draft, verify, commit, until every stream has ended; yields what each call committed."""
    lane = world.lane()
    room = problem.capacity + SLACK * len(problem.prompts) if capacity is None else capacity
    target = Target(problem.model, lane, room)
    streams = [
        Stream(i, list(prompt), len(prompt), problem.max_new_tokens, problem.dice(i))
        for i, prompt in enumerate(problem.prompts)
    ]
    for stream in streams:
        out = prefill(target, stream)
        verdict = verify(NOTHING, out.logits, _context(problem, stream))
        commit = commit_path(problem, stream, NOTHING, verdict)
        lane.ledger.note(target.event, committed=1)
        drafter.begin(stream, Seen(NOTHING, verdict, out))
        yield Commit({stream.number: commit}, 0, 0)
    live = [stream for stream in streams if not stream.done]
    while live:
        drafts = drafter.propose(live)
        yield _step(problem, target, live, drafts, drafter, verify)
        live = [stream for stream in live if not stream.done]
    return [stream.out for stream in streams]


def _step(
    problem: Generation, target: Target, live: Sequence[Stream], drafts: Sequence[Draft], drafter: Drafter,
    verify: Verifier,
) -> Commit:  # fmt: skip
    start = target.cache.length
    rows, firsts, whole = Rows(start), [], True
    want: list[int] = []
    single = len(problem.prompts) == 1
    for stream, draft in zip(live, drafts):
        prefix = np.ones(start, bool) if single else target.cache.owned(stream.number).cpu().numpy()
        first = _add_draft(rows, stream, draft, prefix)
        firsts.append(first)
        wanted = range(first, first + 1 + len(draft))
        probes = len(draft.probes.tokens) if draft.probes else 0
        last = wanted.stop + probes
        want += wanted
        if draft.probes:
            want += range(last - draft.probes.wanted, last)
            whole &= draft.probes.wanted == probes
    out = target(rows, slice(None) if whole else torch.tensor(want, device=target.model.device))
    tokens, kept, at, seen = {}, [], 0, []
    for stream, draft, first in zip(live, drafts, firsts):
        count = 1 + len(draft) + (draft.probes.wanted if draft.probes else 0)
        part = Out(out.logits[at : at + count], out.hidden[at : at + count])
        at += count
        verdict = verify(draft, part.logits, _context(problem, stream))
        tokens[stream.number] = commit_path(problem, stream, draft, verdict)
        # Cut before keep, or slots beyond the end of a text survive.
        path = verdict.path[: len(tokens[stream.number]) - 1]
        kept += [start + first, *(start + first + 1 + node for node in path)]
        seen.append(Seen(draft, verdict, part))
    target.cache.keep(start, kept)
    drafted, accepted = sum(map(len, drafts)), sum(len(s.verdict.path) for s in seen)
    depth = max((max(depths(draft.parent), default=0) for draft in drafts), default=0)
    committed = sum(map(len, tokens.values()))
    target.lane.ledger.note(target.event, drafted=drafted, depth=depth, accepted=accepted, committed=committed)
    for stream, what in zip(live, seen):
        if not stream.done:
            drafter.observe(stream, what)
    return Commit(tokens, drafted, accepted)


def _add_draft(rows: Rows, stream: Stream, draft: Draft, prefix: np.ndarray) -> int:
    """The pending token, the tree under it and its probes; the pending token's row number."""
    at = len(stream.tokens) - 1
    tree, probes = len(draft), draft.probes
    k = 1 + tree + (len(probes.tokens) if probes else 0)
    among = np.zeros((k, k), dtype=bool)
    among[:, 0] = True
    if tree:
        among[1 : 1 + tree, 1 : 1 + tree] = ancestors(draft.parent)
    tokens, positions = [stream.tokens[-1], *draft.tokens], [at, *(at + d for d in depths(draft.parent))]
    if probes:
        among[1 + tree :, 1 + tree :] = probes.see
        tokens += probes.tokens
        positions += [at + ahead for ahead in probes.ahead]
    return rows.add(stream.number, tokens, positions, prefix, among)


def _context(problem: Generation, stream: Stream) -> Context:
    return Context(stream.tokens, problem.sampling_of(stream.number), stream.dice)


def commit_path(problem: Generation, stream: Stream, draft: Draft, verdict: Verdict) -> list[int]:
    """Append the accepted tokens and the bonus to the stream, cut where the text ends; what was appended."""
    new: list[int] = []
    for token in (*(draft.tokens[node] for node in verdict.path), verdict.bonus):
        new.append(token)
        stream.tokens.append(token)
        stream.left -= 1
        if stream.left == 0 or problem.ended(stream.tokens, stream.prompt):
            stream.done = True
            break
    return new


@dataclass(frozen=True)
class Speculative(Method):
    """A method of this room: a drafter, a verifier and the serial loop. `verify` decides the guarantee."""

    def drafter(self, problem: Generation, lane: Lane) -> Drafter:
        """What guesses, for one run. Its own model calls are recorded on `lane`."""
        raise NotImplementedError(f"{type(self).__name__} has no drafter.")

    @property
    def verifier(self) -> Verifier:
        return getattr(self, "verify", Match())

    def steps(self, problem: Generation, world: World) -> Generator[Commit, None, Tokens]:
        return serial(problem, world, self.drafter(problem, world.lane()), self.verifier)

    def promise(self, problem: Any) -> Guarantee:
        return self.verifier.guarantee(problem.sampling)

    def __call__(self, model: Any, input_ids: torch.Tensor, **generate: Any) -> Any:
        """The face of Hugging Face's `generate(custom_generate=...)`."""
        from abreast.decode.custom_generate import generate_with

        return generate_with(self, model, input_ids, **generate)
