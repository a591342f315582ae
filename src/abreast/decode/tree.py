"""Drafts: a tree of guessed tokens under the last committed one, and probes that are computed but never accepted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch


@lru_cache(maxsize=4096)
def ancestors(parent: tuple[int, ...]) -> np.ndarray:
    """[m, m] bool: row i sees itself and its ancestors. Parents come before their children; -1 is the root."""
    see = np.eye(len(parent), dtype=bool)
    for i, p in enumerate(parent):
        if p >= 0:
            see[i] |= see[p]
    see.flags.writeable = False
    return see


@lru_cache(maxsize=4096)
def depths(parent: tuple[int, ...]) -> tuple[int, ...]:
    """1 for children of the root, one more than the parent's for the rest."""
    depth: list[int] = []
    for p in parent:
        depth.append(1 if p < 0 else depth[p] + 1)
    return tuple(depth)


@dataclass(frozen=True)
class Probes:
    """Rows beside the tree that are never accepted (a window, masks): what they compute feeds the next draft.

    ahead: positions after the last committed token. see: [k, k] bool among themselves; they see the committed text,
    and no node of the tree. wanted: how many of the last ones need logits.
    """

    tokens: tuple[int, ...]
    ahead: tuple[int, ...]
    see: np.ndarray
    wanted: int


@dataclass(frozen=True)
class Draft:
    """tokens[i] guesses the token after its parent's; parent -1 is the last committed token.

    q: [m, V] the distribution each token was drawn from, or None where the draft is deterministic. Siblings stand in
    the order they were drawn; equal siblings are merged only where they are deterministic.
    """

    tokens: tuple[int, ...] = ()
    parent: tuple[int, ...] = ()
    q: torch.Tensor | None = field(default=None, repr=False)
    probes: Probes | None = None
    replaced: bool = False  # siblings were drawn without replacement

    @staticmethod
    def chain(tokens: Iterable[int], q: torch.Tensor | None = None) -> Draft:
        """One guess after the other."""
        tokens = tuple(tokens)
        return Draft(tokens, tuple(range(-1, len(tokens) - 1)), q)

    @staticmethod
    def trie(paths: Iterable[Sequence[int]], probes: Probes | None = None) -> Draft:
        """Several deterministic continuations, common prefixes shared."""
        tokens: list[int] = []
        parent: list[int] = []
        node: dict[tuple[int, int], int] = {}
        for path in paths:
            at = -1
            for token in path:
                if (at, token) not in node:
                    node[at, token] = len(tokens)
                    tokens.append(token)
                    parent.append(at)
                at = node[at, token]
        return Draft(tuple(tokens), tuple(parent), probes=probes)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        return self.parent == tuple(range(-1, len(self.parent) - 1))

    @property
    def paths(self) -> list[list[int]]:
        """The tokens from the root to every node, parents first."""
        paths: list[list[int]] = []
        for token, parent in zip(self.tokens, self.parent):
            paths.append([*(paths[parent] if parent >= 0 else []), token])
        return paths

    @cached_property
    def children(self) -> dict[int, list[int]]:
        """Node to its children, in draft order; -1 is the root."""
        children: dict[int, list[int]] = {}
        for i, p in enumerate(self.parent):
            children.setdefault(p, []).append(i)
        return children


NOTHING = Draft()
