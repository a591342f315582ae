"""A smaller model as drafter: its own cache, one chain of guesses a stream, all streams in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from abreast.core import AbreastError, Lane
from abreast.decode.engine import NOTHING, Drafter, Rows, Stream, Target
from abreast.decode.model import TokenModel
from abreast.decode.problem import Generation, common
from abreast.decode.tree import Draft


class ModelDrafter(Drafter):
    """`length` guesses, drawn one after the other from the draft model's own law.

    shared: draw with the target's noise, so that `Match` accepts as often as two models can agree; else with noise of
    its own, and the draft carries q, as rejection wants.
    """

    def __init__(self, model: TokenModel, problem: Generation, lane: Lane, length: int, shared: bool):
        if model.vocab != problem.model.vocab:
            raise AbreastError(
                f"the draft model has {model.vocab} tokens and the target {problem.model.vocab}: they must share one "
                "tokenizer."
            )
        self.problem, self.length, self.shared = problem, length, shared
        room = problem.capacity + 2 * length * len(problem.prompts)
        self.target = Target(model, lane, room, "draft", model.parameters / problem.model.parameters)
        self.fed: dict[int, list[int]] = {}

    def propose(self, streams: Sequence[Stream]) -> list[Draft]:
        self._roll_back(streams)
        guesses: dict[int, list[int]] = {stream.number: [] for stream in streams}
        laws: dict[int, list[torch.Tensor]] = {stream.number: [] for stream in streams}
        for step in range(self.length):
            open_ = [stream for stream in streams if step < stream.left - 1]
            if not open_:
                break
            for stream, logits in zip(open_, self._call(open_, guesses)):
                tokens = [*stream.tokens, *guesses[stream.number]]
                token, law = self._draw(stream, logits, tokens)
                guesses[stream.number].append(token)
                if law is not None:
                    laws[stream.number].append(law)
        return [
            Draft.chain(guesses[s.number], torch.stack(laws[s.number]) if laws[s.number] else None)
            if guesses[s.number] else NOTHING
            for s in streams
        ]  # fmt: skip

    def _draw(self, stream: Stream, logits: torch.Tensor, tokens: list[int]) -> tuple[int, torch.Tensor | None]:
        sampling = self.problem.sampling_of(stream.number)
        if self.shared:
            return stream.dice.token(sampling.scores(logits, tokens), len(tokens), sampling.temperature == 0), None
        law = sampling.probabilities(logits, tokens)
        return stream.dice.draw(law, "draft", len(tokens), stream.left), law

    def _call(self, streams: Sequence[Stream], guesses: dict[int, list[int]]) -> list[torch.Tensor]:
        """Feed every stream what the draft model has not seen; the logits after each stream's last token."""
        cache = self.target.cache
        rows, last = Rows(cache.length), []
        for stream in streams:
            fed = self.fed.setdefault(stream.number, [])
            new = [*stream.tokens, *guesses[stream.number]][len(fed) :]
            prefix = cache.owned(stream.number).cpu().numpy()
            positions = range(len(fed), len(fed) + len(new))
            rows.add(stream.number, new, positions, prefix, np.tri(len(new), dtype=bool))
            fed += new
            last.append(len(rows.tokens) - 1)
        return list(self.target(rows, torch.tensor(last, device=self.target.model.device)).logits)

    def _roll_back(self, streams: Sequence[Stream]) -> None:
        """Drop the slots of guesses that were rejected, and of streams that have ended."""
        valid = {}
        for stream in streams:
            fed = self.fed.setdefault(stream.number, [])
            valid[stream.number] = common(fed, stream.tokens)
            del fed[valid[stream.number] :]
        cache = self.target.cache
        slots = zip(cache.owners[: cache.length].tolist(), cache.positions[: cache.length].tolist())
        kept = [slot for slot, (owner, position) in enumerate(slots) if position < valid.get(owner, 0)]
        if len(kept) < cache.length:
            cache.keep(0, kept)
