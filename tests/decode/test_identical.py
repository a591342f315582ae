"""Every IDENTICAL method gives the reference's text, greedy and sampled, over random models, prompts and settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import abreast
from abreast import decode
from tests.decode.tiny import VOCAB, heads, llama

prompts = st.lists(st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=4)
samplings = st.one_of(
    st.just(decode.Sampling()),
    st.builds(
        decode.Sampling,
        temperature=st.sampled_from([0.0, 0.3, 1.0]),
        top_k=st.sampled_from([0, 5]),
        top_p=st.sampled_from([1.0, 0.8]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
    ),
)
n, seeds = st.integers, st.integers(0, 3)
texts = st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=20).map(tuple)
methods = {
    "lookup": st.builds(decode.PromptLookup, draft_tokens=n(1, 9), max_ngram=st.just(3), min_ngram=n(1, 3)),
    "draft": st.builds(lambda s, n: decode.SpeculativeSampling(llama(s, layers=1), draft_tokens=n), seeds, n(0, 6)),
    "itself": st.builds(lambda n: decode.SpeculativeSampling(llama(0), draft_tokens=n), n(1, 6)),
    "blockwise": st.builds(lambda s, k: decode.Blockwise(heads("blockwise", s), k=k), seeds, n(1, 4)),
    "jacobi": st.builds(
        decode.Jacobi, window=n(0, 9), mode=st.sampled_from(["sliding", "block"]),
        init=st.sampled_from(["pad", "copy", "random"]),
    ),
    "aggressive": st.builds(
        decode.AggressiveInput, draft_tokens=n(1, 9), max_ngram=n(1, 3), source=st.one_of(st.none(), texts)
    ),
    "medusa": st.builds(
        lambda s, n, d: decode.Medusa(heads("medusa", s), nodes=n, depth=d), seeds, n(1, 30), n(0, 3)
    ),
    "stacked": st.builds(
        lambda s, k: decode.Stacked(
            (decode.Medusa(heads("medusa", s), nodes=k), decode.PromptLookup(min_ngram=1), decode.AggressiveInput())
        ),
        seeds, n(1, 20),
    ),
    "lookahead": st.builds(
        decode.Lookahead, window=n(0, 6), ngram=n(2, 5), guesses=n(0, 5), from_text=st.booleans()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", methods)
@given(data=st.data())
def test_text_is_the_references(name, data):
    problem = decode.Generation(
        llama(data.draw(st.integers(0, 2)), kv=data.draw(st.sampled_from([1, 2, 4]))),
        data.draw(prompts),
        max_new_tokens=data.draw(st.integers(1, 24)),
        sampling=data.draw(samplings),
        seed=data.draw(st.integers(0, 99)),
    )
    method = data.draw(methods[name])
    reference = abreast.run(problem, problem.reference)
    run = abreast.run(problem, method, against=reference)
    assert method.promise(problem) == abreast.IDENTICAL
    assert run.value == reference.value
    for law, holds in abreast.laws(method, problem):
        assert holds, law
