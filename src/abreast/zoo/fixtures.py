"""Laws of tokens that are known exactly, to hold decoding methods against closed forms.

Axes: m rows, V vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from abreast.core.errors import AbreastError
from abreast.zoo.typos import Typos

__all__ = ["LawLM", "TableLM", "Typos", "tokens_per_call"]


class TableLM(nn.Module):
    """A language model that is one table: `probs[t1, ..., tk]` is the law `[V]` of the token after t1 ... tk.

    The table has shape `[V] * (k + 1)` for some order k >= 0, and its rows sum to 1. A context shorter than k is
    thought to be preceded by tokens 0.
    """

    probs: torch.Tensor

    def __init__(self, probs: torch.Tensor) -> None:
        super().__init__()
        if probs.ndim < 1 or len(set(probs.shape)) != 1 or not probs.is_floating_point():
            raise AbreastError(f"A table of probabilities has shape [V, ..., V], not {list(probs.shape)}.")
        if (probs < 0).any() or not torch.allclose(probs.sum(-1), torch.ones_like(probs[..., 0])):
            raise AbreastError("Every row of a table of probabilities is non-negative and sums to 1.")
        self.register_buffer("probs", probs)

    @property
    def vocab(self) -> int:
        return self.probs.shape[-1]

    @property
    def order(self) -> int:
        return self.probs.ndim - 1

    def law(self, path: Sequence[int]) -> torch.Tensor:
        """The law `[V]` of the token after `path`, oldest token first."""
        row = self.probs
        for token in ([0] * self.order + list(path))[len(path) :]:
            row = row[token]
        return row

    def forward(self, paths: Sequence[Sequence[int]]) -> torch.Tensor:
        """`logits_mV` = log of the laws after the tokens that each row sees, its own token last."""
        return torch.stack([self.law(path) for path in paths]).log()

    def joint(self, path: Sequence[int], length: int) -> torch.Tensor:
        """The exact law `[V] * length` of the next `length` tokens after `path`."""
        if length == 0:
            return self.probs.new_ones(())
        first = self.law(path)
        rest = [self.joint([*path, token], length - 1) for token in range(self.vocab)]
        return torch.stack([p * law for p, law in zip(first, rest)])


@dataclass(frozen=True)
class LawLM:
    """A Markov chain and a drafter for it that is accepted with the same probability in every state.

    The rows of the target are permutations of one vector p, p_i proportional to `decay`^i; the drafter's are
    (1 - eps) p + eps / V. So acceptances are independent, and what a drafting schedule gains has a closed form.
    """

    vocab: int = 16
    eps: float = 0.3
    decay: float = 0.6
    order: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocab < 2 or self.order < 1 or not 0 <= self.eps <= 1 or not 0 < self.decay <= 1:
            raise AbreastError(f"LawLM needs vocab >= 2, order >= 1, eps from 0 to 1 and 0 < decay <= 1, not {self}.")
        if self.vocab ** (self.order + 1) > 50_000_000:
            raise AbreastError(f"A table of {self.vocab} ** {self.order + 1} probabilities is too large.")

    @cached_property
    def p(self) -> torch.Tensor:
        """The vector `[V]`, float64, that every row of the target permutes."""
        weights = self.decay ** torch.arange(self.vocab, dtype=torch.float64)
        return weights / weights.sum()

    @cached_property
    def q(self) -> torch.Tensor:
        """The drafter's vector `[V]`, in the order of `p`."""
        return (1 - self.eps) * self.p + self.eps / self.vocab

    @cached_property
    def target(self) -> TableLM:
        return TableLM(self.p[self._order])

    @cached_property
    def drafter(self) -> TableLM:
        return TableLM(self.q[self._order])

    @cached_property
    def _order(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        keys = torch.rand(*[self.vocab] * (self.order + 1), generator=generator, dtype=torch.float64)
        return keys.argsort(-1)

    @property
    def alpha(self) -> float:
        """The chance that `Rejection` accepts the drafter's sample: 1 - eps TV(p, uniform)."""
        return torch.minimum(self.p, self.q).sum().item()

    @property
    def alpha_match(self) -> float:
        """The chance that target and drafter, sampling with the same Gumbel noise, draw the same token.

        Sum over x of 1 / sum over y of max(p_y / p_x, q_y / q_x); Moulton and Jiang (2018).
        """
        ratios = torch.maximum(self.p / self.p[:, None], self.q / self.q[:, None])
        return (1 / ratios.sum(-1)).sum().item()

    @property
    def alpha_greedy(self) -> float:
        """The chance that a target that samples draws the drafter's most likely token (for eps < 1)."""
        return self.p.max().item()


def tokens_per_call(alpha: float, draft_tokens: int) -> float:
    """Expected tokens a target call commits: (1 - alpha^(g+1)) / (1 - alpha) for chains of g drafted tokens.

    Leviathan, Kalman and Matias (2023), equation 1; exact when every drafted token is accepted independently.
    """
    return sum(alpha**i for i in range(draft_tokens + 1))
