"""Verifiers keep the target's law on chains and trees whose outcomes can be enumerated; wrong ones are found out."""

from __future__ import annotations

import itertools

import pytest
import torch

from abreast.core import noise
from abreast.core.laws import same_distribution
from abreast.decode.sampling import Dice, Sampling
from abreast.decode.tree import Draft
from abreast.decode.verify import Context, Match, MultiRejection, Rejection, Typical

V, LENGTH, SAMPLES = 4, 3, 5000
SAMPLING = Sampling(temperature=1.0)


def table(seed: int) -> torch.Tensor:
    """[V, V]: the law of the next token after each token."""
    return (1.2 * torch.from_numpy(noise.gumbel(seed, "table", n=V * V))).view(V, V).softmax(-1)


P, Q = table(11), table(12)
LAW = {
    path: float(P[0, path[0]] * P[path[0], path[1]] * P[path[1], path[2]])
    for path in itertools.product(range(V), repeat=LENGTH)
}


def own(seed: int, *keys: int) -> float:
    """Draws of a drafter: never the target's."""
    return noise.uniform(seed, "drafter", *keys)


def draw(law: torch.Tensor, u: float) -> int:
    return int(torch.searchsorted(law.cumsum(-1), u * float(law.sum())).clamp(max=V - 1))


def chain(seed: int, last: int, at: int) -> Draft:
    tokens, laws = [], []
    for depth in range(2):
        laws.append(Q[last])
        last = draw(Q[last], own(seed, at, depth))
        tokens.append(last)
    return Draft.chain(tokens, torch.stack(laws).double())


def siblings(seed: int, last: int, at: int, replaced: bool) -> Draft:
    """Two guesses for the next token, each with one child."""
    law = Q[last].clone()
    tokens, laws = [], []
    for number in range(2):
        tokens.append(draw(law, own(seed, at, number)))
        laws.append(Q[last])
        if replaced:
            law[tokens[-1]] = 0
    for number in range(2):
        laws.append(Q[tokens[number]])
        tokens.append(draw(Q[tokens[number]], own(seed, at, 2 + number)))
    return Draft(tuple(tokens), (-1, -1, 0, 1), torch.stack(laws).double(), replaced=replaced)


def sampler(verify, make):
    def sample(seed: int) -> tuple[int, ...]:
        tokens, dice = [0], Dice(seed, 0)
        while len(tokens) <= LENGTH:
            draft = make(seed, tokens[-1], len(tokens))
            rows = torch.stack([P[tokens[-1]], *(P[t] for t in draft.tokens)]).log()
            verdict = verify(draft, rows, Context(tokens, SAMPLING, dice))
            tokens += [*(draft.tokens[i] for i in verdict.path), verdict.bonus]
        return tuple(tokens[1 : LENGTH + 1])

    return sample


def tree(seed, last, at):
    return siblings(seed, last, at, False)


def without_replacement(seed, last, at):
    return siblings(seed, last, at, True)


@pytest.mark.parametrize(
    ("verify", "make"),
    [(Match(), chain), (Rejection(), chain), (MultiRejection(), tree), (MultiRejection(), without_replacement)],
    ids=["match-chain", "rejection-chain", "multi-tree", "multi-without-replacement"],
)
def test_law_is_kept(verify, make):
    passes, p = same_distribution(sampler(verify, make), LAW, SAMPLES)
    assert passes, p


class FromTarget(MultiRejection):
    """Negative control: the correction is drawn from p, not from the residual."""

    def _judge(self, draft, siblings, p, dice, position):
        child, _ = super()._judge(draft, siblings, p, dice, position)
        return child, p


class StaleQ(MultiRejection):
    """Negative control: q of later siblings is not renormalised."""

    @staticmethod
    def _drawn_from(draft, child, tried, p):
        return draft.q[child].to(p)


def merged(seed, last, at):
    """Negative control: equal sampled siblings are merged."""
    draft = tree(seed, last, at)
    if draft.tokens[0] != draft.tokens[1]:
        return draft
    return Draft((draft.tokens[0], draft.tokens[2]), (-1, 0), draft.q[[0, 2]])


@pytest.mark.parametrize(
    ("verify", "make"),
    [(Typical(), chain), (FromTarget(), chain), (StaleQ(), without_replacement), (MultiRejection(), merged)],
    ids=["typical", "correction-from-p", "stale-q", "merged-siblings"],
)
def test_wrong_verifiers_are_found_out(verify, make):
    passes, p = same_distribution(sampler(verify, make), LAW, SAMPLES)
    assert not passes, p


def test_rejection_refuses_trees():
    with pytest.raises(ValueError, match="MultiRejection"):
        Rejection()(tree(0, 0, 0), torch.zeros(5, V), Context([0], SAMPLING, Dice(0, 0)))
