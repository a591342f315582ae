"""Exact models: logits as a function of the tokens that a row sees, with the engine's face."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from abreast.attention import SlotCache
from abreast.decode.model import Out

Logits = Callable[[Sequence[Sequence[int]]], torch.Tensor]


class PathModel:
    """logits: token lists, each in the order of positions -> [m, V]. `zoo.TableLM` is such a function."""

    width, parameters, context = 1, 1, 1 << 30
    dtype, device = torch.float64, torch.device("cpu")
    steady = trees = True

    def __init__(self, logits: Logits, vocab: int):
        self.logits, self.vocab = logits, vocab

    def cache(self, capacity: int) -> SlotCache:
        cache = SlotCache(capacity)
        cache.storage.append(torch.zeros(cache.capacity, 1, dtype=torch.long))
        return cache

    def forward(
        self, cache: SlotCache, tokens: torch.Tensor, positions: torch.Tensor, owners: torch.Tensor,
        see: torch.Tensor, want: slice | torch.Tensor,
    ) -> Out:  # fmt: skip
        held = cache.storage[0][:, 0]
        held[cache.append(positions, owners)] = tokens
        paths = []
        for row in torch.arange(len(tokens))[want].tolist():
            slots = see[row].nonzero()[:, 0]
            paths.append(held[slots[cache.positions[slots].argsort()]].tolist())
        logits = self.logits(paths)
        return Out(logits, torch.zeros(len(logits), 1, dtype=torch.float64))

    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.expand(-1, self.vocab)

    def output(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, None].double()

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, None].double()


def editor(answer: Sequence[int], prompt: int, vocab: int) -> PathModel:
    """A model that writes `answer` after a prompt of `prompt` tokens, whatever it sees."""

    def logits(paths: Sequence[Sequence[int]]) -> torch.Tensor:
        out = torch.zeros(len(paths), vocab, dtype=torch.float64)
        for row, path in zip(out, paths):
            row[answer[min(len(path) - prompt, len(answer) - 1)]] = 1.0
        return out

    return PathModel(logits, vocab)


def hasher(vocab: int, seed: int = 0) -> PathModel:
    """A model whose next token depends on every token before it: the hardest case for guessing."""

    def logits(paths: Sequence[Sequence[int]]) -> torch.Tensor:
        out = torch.zeros(len(paths), vocab, dtype=torch.float64)
        for row, path in zip(out, paths):
            row[hash((seed, *path)) % vocab] = 1.0
        return out

    return PathModel(logits, vocab)
