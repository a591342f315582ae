"""The one face that every engine part sees: a forward over rows, each a token at a position that sees some slots.

Shapes: m rows, S slots (the cache's used ones, this call's rows last), V vocabulary, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from abreast.attention import SlotCache


@dataclass
class Out:
    """logits [w, V] of the wanted rows, in the model's dtype; hidden [w, d] of the same, after the final norm."""

    logits: torch.Tensor
    hidden: torch.Tensor


class TokenModel(Protocol):
    """A causal language model as rows over a slot cache."""

    vocab: int
    context: int  # positions that it was made for
    width: int
    parameters: int
    dtype: torch.dtype
    device: torch.device
    steady: bool  # a row's bits do not depend on how many rows share the call
    trees: bool  # rows may see any set of slots, not only all earlier ones

    def cache(self, capacity: int) -> SlotCache:
        """An empty cache of this model's shape."""

    def forward(
        self, cache: SlotCache, tokens: torch.Tensor, positions: torch.Tensor, owners: torch.Tensor,
        see: torch.Tensor, want: slice | torch.Tensor,
    ) -> Out:  # fmt: skip
        """Append m rows to the cache and compute them. tokens, positions, owners [m]; see [m, S] bool, over the slots
        after the append; want: the rows whose logits and hidden states are returned."""

    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [w, V] of hidden states [w, d]: the model's own output matrix."""

    def output(self, tokens: torch.Tensor) -> torch.Tensor:
        """The output matrix's rows of these tokens, [n, d]: what a guess over fewer tokens is read with."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the first layer is given for these tokens, [m, d]."""
