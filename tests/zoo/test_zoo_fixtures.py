"""LawLM's closed forms against enumeration and simulation."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abreast.core.errors import AbreastError
from abreast.zoo.fixtures import LawLM, TableLM, tokens_per_call

laws = st.builds(
    LawLM,
    vocab=st.integers(2, 6),
    eps=st.floats(0, 1),
    decay=st.floats(0.2, 1),
    order=st.integers(1, 2),
    seed=st.integers(0, 9),
)


@given(laws)
@settings(max_examples=30, deadline=None)
def test_every_state_accepts_alike(law: LawLM) -> None:
    p, q = law.target.probs.flatten(0, -2), law.drafter.probs.flatten(0, -2)
    assert torch.allclose(torch.minimum(p, q).sum(-1), torch.tensor(law.alpha, dtype=torch.float64))
    uniform = torch.full_like(p, 1 / law.vocab)
    assert law.alpha == pytest.approx(1 - law.eps * (p - uniform).abs().sum(-1)[0].item() / 2)
    tv = 1 - law.alpha
    assert (1 - tv) / (1 + tv) - 1e-12 <= law.alpha_match <= law.alpha + 1e-12
    assert torch.allclose(p.sort(-1).values, p[:1].sort(-1).values)


def test_matching_under_shared_gumbel_noise() -> None:
    law = LawLM(vocab=5, eps=0.6, decay=0.5, seed=2)
    draws = 200_000
    noise = -torch.log(
        torch.empty(draws, 5, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(1))
    )
    for state in ([0], [3]):
        target, drafted = ((m.law(state).log() + noise).argmax(-1) for m in (law.target, law.drafter))
        assert (target == drafted).double().mean().item() == pytest.approx(law.alpha_match, abs=5 * 0.5 / draws**0.5)
        greedy = law.drafter.law(state).argmax()
        assert (target == greedy).double().mean().item() == pytest.approx(law.alpha_greedy, abs=5 * 0.5 / draws**0.5)


@pytest.mark.parametrize("gamma", [0, 1, 3])
def test_tokens_per_call_by_enumeration(gamma: int) -> None:
    law = LawLM(vocab=4, eps=0.5, seed=1)
    overlap = torch.minimum(law.target.probs, law.drafter.probs)
    expected = 1.0
    for length in range(1, gamma + 1):
        for path in product(range(4), repeat=length):
            steps = zip((2, *path), path)
            expected += torch.stack([overlap[a, b] for a, b in steps]).prod().item()
    assert tokens_per_call(law.alpha, gamma) == pytest.approx(expected)
    assert tokens_per_call(1.0, gamma) == gamma + 1


def test_table_is_a_law_of_sequences() -> None:
    model = LawLM(vocab=3, order=2, seed=4).target
    joint = model.joint([1], 3)
    assert joint.sum().item() == pytest.approx(1)
    by_hand = model.law([0, 1])[2] * model.law([1, 2])[0] * model.law([2, 0])[1]
    assert joint[2, 0, 1].item() == pytest.approx(by_hand.item())
    logits = model([[1], [2, 2, 1, 2]])
    assert torch.equal(logits.exp(), torch.stack([model.probs[0, 1], model.probs[1, 2]]).log().exp())
    assert TableLM(torch.tensor([0.25, 0.75])).joint([], 2)[1, 1].item() == pytest.approx(0.5625)


def test_bad_tables_are_refused() -> None:
    with pytest.raises(AbreastError, match=r"shape \[V, ..., V\], not \[2, 3\]"):
        TableLM(torch.ones(2, 3))
    with pytest.raises(AbreastError, match="sums to 1"):
        TableLM(torch.ones(2, 2))
    with pytest.raises(AbreastError, match="eps from 0 to 1"):
        LawLM(eps=1.5)
    with pytest.raises(AbreastError, match="too large"):
        LawLM(vocab=1000, order=3)
