"""How the next token is taken from logits: the processing and the keyed draw that every method shares.

A sample is argmax(log p + gumbel), the noise keyed by (seed, request, position): it does not depend on who computes
it, in which call, beside which rows. So a parallel method can give the sampled text of the sequential one, token for
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch

from abreast.core import AbreastError, noise


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k 0 and top_p 1 keep every token. repetition_penalty as in Keskar et al., 2019:
    logits of tokens that were already seen are divided by it where positive, multiplied where negative."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < inf:
            raise AbreastError(f"temperature must be 0 (greedy) or more, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise AbreastError(f"top_p must lie in (0, 1], not {self.top_p}.")
        if self.top_k < 0:
            raise AbreastError(f"top_k must be 0 (all) or more, not {self.top_k}.")
        if self.repetition_penalty <= 0:
            raise AbreastError(f"repetition_penalty must be positive, not {self.repetition_penalty}.")

    @property
    def plain(self) -> bool:
        """Greedy with nothing else: the argmax of the raw logits."""
        return self.temperature == 0 and self.repetition_penalty == 1.0

    def scores(self, logits: torch.Tensor, history: Sequence[int]) -> torch.Tensor:
        """Processed logits [V] after the tokens `history`: penalised, divided by the temperature, filtered to -inf.
        float32 at least."""
        x = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        if self.repetition_penalty != 1.0:
            seen = torch.tensor(sorted(set(history)), device=x.device)
            values = x[seen]
            x[seen] = torch.where(values > 0, values / self.repetition_penalty, values * self.repetition_penalty)
        if self.temperature == 0:
            return x
        x /= self.temperature
        if 0 < self.top_k < len(x):
            x[x < x.topk(self.top_k).values[-1]] = -inf
        if self.top_p < 1:
            ordered, index = x.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            x[index[before >= self.top_p]] = -inf
        return x

    def probabilities(self, logits: torch.Tensor, history: Sequence[int]) -> torch.Tensor:
        """The law of the next token, [V] float64; greedy is a one-hot."""
        x = self.scores(logits, history).double()
        return torch.nn.functional.one_hot(x.argmax(), len(x)).double() if self.temperature == 0 else x.softmax(-1)


@dataclass(frozen=True)
class Dice:
    """The draws of one request: every method, reference or not, takes its randomness from here."""

    seed: int
    request: int

    def token(self, scores: torch.Tensor, position: int, greedy: bool) -> int:
        """The reference's own token at `position`."""
        return int(scores.argmax() if greedy else self.perturbed(scores, position).argmax())

    def perturbed(self, scores: torch.Tensor, position: int) -> torch.Tensor:
        """scores + gumbel, [V]: their argmax is the reference's token at `position`."""
        gumbel = noise.gumbel(self.seed, "token", self.request, position, n=len(scores))
        return scores + torch.from_numpy(gumbel).to(scores.device, scores.dtype)

    def uniform(self, purpose: str, position: int, round: int = 0) -> float:
        """In (0, 1), independent of every token's noise."""
        return noise.uniform(self.seed, purpose, self.request, position, round)

    def draw(self, probabilities: torch.Tensor, purpose: str, position: int, round: int = 0) -> int:
        """A token from unnormalised probabilities [V], by inversion of one uniform number."""
        cumulative = probabilities.double().cumsum(-1).cpu().numpy()
        token = int(np.searchsorted(cumulative, self.uniform(purpose, position, round) * cumulative[-1], "right"))
        return min(token, int(np.flatnonzero(probabilities.cpu().numpy())[-1]))
