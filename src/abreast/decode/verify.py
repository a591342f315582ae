"""Verifiers: which of the guessed tokens the target itself would have written.

A verifier walks a draft from the root. `rows[0]` are the target's logits after the last committed token, `rows[i + 1]`
those after node i, each [V]. It answers with the accepted path and the token that follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from abreast.core import IDENTICAL, MEASURED, SAME_DISTRIBUTION, AbreastError, Guarantee
from abreast.decode.sampling import Dice, Sampling
from abreast.decode.tree import Draft


@dataclass(frozen=True)
class Verdict:
    """path: accepted nodes, root downwards. bonus: the target's own token after them."""

    path: tuple[int, ...]
    bonus: int

    @property
    def last(self) -> int:
        """The row that the bonus was read from."""
        return self.path[-1] + 1 if self.path else 0


@dataclass(frozen=True)
class Context:
    """What a verifier knows of a stream: its tokens so far (prompt included), its sampling and its dice."""

    tokens: Sequence[int]
    sampling: Sampling
    dice: Dice

    def after(self, draft: Draft, path: Sequence[int]) -> list[int]:
        """The tokens that row `path[-1]` has seen."""
        return [*self.tokens, *(draft.tokens[i] for i in path)]


class Verifier(Protocol):
    def guarantee(self, sampling: Sampling) -> Guarantee: ...

    def __call__(self, draft: Draft, rows: torch.Tensor, context: Context) -> Verdict: ...


@dataclass(frozen=True)
class Match:
    """Accept what the reference would have drawn with the same seed: the text is the reference's, sampled or not."""

    def guarantee(self, sampling: Sampling) -> Guarantee:
        return IDENTICAL

    def __call__(self, draft: Draft, rows: torch.Tensor, context: Context) -> Verdict:
        greedy = context.sampling.plain
        best = rows.argmax(-1).tolist() if greedy else []
        path: list[int] = []
        while True:
            row = path[-1] + 1 if path else 0
            token = best[row] if greedy else self._draw(draft, rows[row], path, context)
            siblings = draft.children.get(row - 1, ())
            child = next((i for i in siblings if draft.tokens[i] == token), None)
            if child is None:
                return Verdict(tuple(path), token)
            path.append(child)

    def _draw(self, draft: Draft, logits: torch.Tensor, path: list[int], context: Context) -> int:
        tokens = context.after(draft, path)
        scores = context.sampling.scores(logits, tokens)
        return context.dice.token(scores, len(tokens), context.sampling.temperature == 0)


@dataclass(frozen=True)
class MultiRejection:
    """Accept siblings in the order they were drawn with min(1, p/q), else go on from the residual (Miao et al., 2023;
    chains: Leviathan et al., 2023). The text is distributed as the reference's, but is another draw of it."""

    def guarantee(self, sampling: Sampling) -> Guarantee:
        return IDENTICAL if sampling.temperature == 0 else SAME_DISTRIBUTION

    def __call__(self, draft: Draft, rows: torch.Tensor, context: Context) -> Verdict:
        path: list[int] = []
        while True:
            node = path[-1] if path else -1
            tokens = context.after(draft, path)
            p = context.sampling.probabilities(rows[node + 1], tokens)
            child, p = self._judge(draft, draft.children.get(node, []), p, context.dice, len(tokens))
            if child is None:
                return Verdict(tuple(path), context.dice.draw(p, "residual", len(tokens)))
            path.append(child)

    def _judge(
        self, draft: Draft, siblings: list[int], p: torch.Tensor, dice: Dice, position: int
    ) -> tuple[int | None, torch.Tensor]:
        """The accepted sibling, or None and the law that the next token must be drawn from."""
        tried: list[int] = []
        for number, child in enumerate(siblings):
            token = draft.tokens[child]
            q = self._drawn_from(draft, child, tried, p)
            if dice.uniform("accept", position, number) * float(q[token]) < float(p[token]):
                return child, p
            residual = (p - q).clamp(min=0)
            total = float(residual.sum())
            p = residual / total if total > 0 else p
            tried.append(token)
        return None, p

    @staticmethod
    def _drawn_from(draft: Draft, child: int, tried: list[int], p: torch.Tensor) -> torch.Tensor:
        if draft.q is None:
            return torch.nn.functional.one_hot(torch.tensor(draft.tokens[child]), len(p)).to(p)
        q = draft.q[child].to(p, copy=True)
        if draft.replaced:
            q[tried] = 0
            q /= q.sum()
        return q


@dataclass(frozen=True)
class Rejection(MultiRejection):
    """Rejection sampling of a chain (Leviathan et al., 2023; Chen et al., 2023)."""

    def __call__(self, draft: Draft, rows: torch.Tensor, context: Context) -> Verdict:
        if not draft.is_chain:
            raise AbreastError("Rejection judges chains: use MultiRejection() for a tree.")
        return super().__call__(draft, rows, context)


class Lenient:
    """Accepts more than the target would write: MEASURED. Takes the longest accepted path, the likelier of equals."""

    def guarantee(self, sampling: Sampling) -> Guarantee:
        return MEASURED

    def accepts(self, scores: torch.Tensor, token: int, sampling: Sampling) -> bool:
        """Whether `token` will do after processed logits `scores` [V]."""
        raise NotImplementedError

    def __call__(self, draft: Draft, rows: torch.Tensor, context: Context) -> Verdict:
        best: tuple[int, float, tuple[int, ...]] = (0, 0.0, ())
        likelihood = {-1: 0.0}
        paths: dict[int, tuple[int, ...]] = {-1: ()}
        laws: dict[int, torch.Tensor] = {}
        for i, (token, parent) in enumerate(zip(draft.tokens, draft.parent)):
            if parent not in paths:
                continue
            if parent not in laws:
                laws[parent] = context.sampling.scores(rows[parent + 1], context.after(draft, paths[parent]))
            scores = laws[parent]
            if self.accepts(scores, token, context.sampling):
                paths[i] = (*paths[parent], i)
                likelihood[i] = likelihood[parent] + float(scores.log_softmax(-1)[token])
                best = max(best, (len(paths[i]), likelihood[i], paths[i]), key=lambda found: found[:2])
        path = best[2]
        tokens = context.after(draft, path)
        scores = context.sampling.scores(rows[path[-1] + 1 if path else 0], tokens)
        return Verdict(path, context.dice.token(scores, len(tokens), context.sampling.temperature == 0))


@dataclass(frozen=True)
class Typical(Lenient):
    """Accept x if p(x) > min(epsilon, delta * exp(-entropy)) (Cai et al., 2024)."""

    epsilon: float = 0.09
    delta: float = 0.3

    def accepts(self, scores: torch.Tensor, token: int, sampling: Sampling) -> bool:
        log_p = scores.log_softmax(-1)
        entropy = float(-(log_p.exp() * log_p).nan_to_num(0.0).sum())
        return float(log_p[token].exp()) > min(self.epsilon, self.delta * 2.718281828459045**-entropy)


@dataclass(frozen=True)
class Tolerant(Lenient):
    """Accept x if it is among the `beta` best and at most `tau` below the best in log-probability (Ge et al., 2022).
    beta 1 is greedy decoding."""

    beta: int = 3
    tau: float = 1.0

    def guarantee(self, sampling: Sampling) -> Guarantee:
        return IDENTICAL if self.beta == 1 and sampling.temperature == 0 else MEASURED

    def accepts(self, scores: torch.Tensor, token: int, sampling: Sampling) -> bool:
        best = scores.topk(self.beta)
        return token in best.indices.tolist() and float(best.values[0] - scores[token]) <= self.tau


@dataclass(frozen=True)
class TopK(Lenient):
    """Accept x if it is among the `k` best (Stern et al., 2018). k 1 is greedy decoding."""

    k: int = 2

    def guarantee(self, sampling: Sampling) -> Guarantee:
        return IDENTICAL if self.k == 1 and sampling.temperature == 0 else MEASURED

    def accepts(self, scores: torch.Tensor, token: int, sampling: Sampling) -> bool:
        return token in scores.topk(self.k).indices.tolist()


@dataclass(frozen=True)
class Distance(Lenient):
    """Accept x if it is at most `epsilon` from the best token, where tokens are intensities (Stern et al., 2018)."""

    epsilon: int = 2

    def guarantee(self, sampling: Sampling) -> Guarantee:
        return IDENTICAL if self.epsilon == 0 and sampling.temperature == 0 else MEASURED

    def accepts(self, scores: torch.Tensor, token: int, sampling: Sampling) -> bool:
        return abs(token - int(scores.argmax())) <= self.epsilon
