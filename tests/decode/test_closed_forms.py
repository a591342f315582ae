"""Counts that can be computed by hand come out of the ledger."""

from __future__ import annotations

import math

import pytest

import abreast
from abreast import decode, zoo
from abreast.decode.draft.heads import greedy_tree, parents_of
from abreast.decode.paths import PathModel, editor, hasher
from tests.decode.tiny import heads, llama

PROMPT = [5, 9, 14, 7, 5, 9, 14, 3]


def run(problem, method):
    return abreast.run(problem, method, against=abreast.run(problem, problem.reference))


def notes(found, fact):
    return found.ledger.series(fact)


@pytest.mark.parametrize(("shared", "gamma"), [(True, 3), (False, 3)])
def test_tokens_a_step_of_a_law(shared, gamma):
    """(1 - alpha^(gamma + 1)) / (1 - alpha), with the exact acceptance of each verifier."""
    law = zoo.LawLM(vocab=8, eps=0.5, seed=1)
    alpha = law.alpha_match if shared else law.alpha
    target, drafter = PathModel(law.target, 8), PathModel(law.drafter, 8)
    problem = decode.Generation(target, [1], max_new_tokens=3000, sampling=decode.Sampling(temperature=1.0), eos=())
    verify = decode.Match() if shared else decode.Rejection()
    found = abreast.run(problem, decode.SpeculativeSampling(drafter, draft_tokens=gamma, verify=verify))
    steps = found.ledger.calls("target")
    expected = zoo.tokens_per_call(alpha, gamma)
    # A step's variance is below gamma^2; four standard errors.
    assert abs(2999 / steps - expected) < 4 * gamma / math.sqrt(steps)


def test_a_model_drafting_for_itself_is_always_right():
    problem = decode.Generation(llama(0), PROMPT, max_new_tokens=41, eos=())
    found = run(problem, decode.SpeculativeSampling(llama(0), draft_tokens=4))
    assert found.ledger.calls("target") == 8 and found.ledger.calls("draft") == 8 * 4
    assert found.ledger.rows("target") == 8 * 5


def test_blockwise_counts():
    problem = decode.Generation(llama(0), PROMPT, max_new_tokens=30, eos=())
    found = run(problem, decode.Blockwise(heads("blockwise"), k=4))
    blocks = [accepted + 1 for accepted in notes(found, "accepted")]
    assert found.ledger.calls("prefill") == 1 and found.ledger.calls("target") == len(blocks)
    assert 1 + sum(notes(found, "committed")[1:]) == 30
    assert sum(blocks) - (30 - 1) in range(4)  # the last block may be cut
    assert len(blocks) - found.ledger.calls("heads") in (0, 1)  # nothing is drafted for the last token


@pytest.mark.parametrize(("window", "ngram"), [(4, 4), (5, 2), (3, 3)])
def test_lookahead_rows(window, ngram):
    """(N - 1) W rows of window a pass, the current token included, and a row for every node of the guesses' trie."""
    problem = decode.Generation(llama(1), PROMPT, max_new_tokens=40, eos=())
    found = run(problem, decode.Lookahead(window=window, ngram=ngram, guesses=3))
    rows = [event.size for event in found.ledger.events if event.kind == "target"]
    for step, (size, drafted) in enumerate(zip(rows, notes(found, "drafted"))):
        levels = min(step + 1, ngram - 1)
        assert size - drafted == levels * (window + max(ngram - 2 - step, 0))
        assert drafted <= 3 * (ngram - 1)


def test_medusa_rows_and_bookkeeping():
    problem = decode.Generation(llama(0), PROMPT, max_new_tokens=40, eos=())
    found = run(problem, decode.Medusa(heads("medusa"), nodes=12))
    rows = [event.size for event in found.ledger.events if event.kind == "target"]
    assert set(rows[:-1]) == {12} and rows[-1] in (1, 12)  # nothing is drafted for the last token
    steps = found.ledger.calls("target")
    assert 1 + steps + found.ledger.total("accepted") >= 40 > 1 + steps + found.ledger.total("accepted") - 4


def test_jacobi_never_needs_more_calls_than_tokens():
    for init in ("pad", "random", "copy"):
        problem = decode.Generation(hasher(50), PROMPT, max_new_tokens=30, eos=())
        found = run(problem, decode.Jacobi(window=6, init=init))
        assert found.kept
        assert 25 <= found.ledger.calls("target") + 1 <= 30


def test_copying_accepts_exactly_the_common_prefix():
    source = list(range(10, 40))
    answer = [*source[:11], 99, *source[11:]]
    problem = decode.Generation(editor(answer, 1, 100), [1], max_new_tokens=len(answer), eos=())
    found = run(problem, decode.Jacobi(window=30, init="copy", source=tuple(source)))
    # The prompt's call wrote the first token; the first window then holds the other ten common ones.
    assert found.kept and notes(found, "accepted")[0] == 10


def test_aggressive_calls_by_cause():
    """One draft until the edit, one-by-one calls until an n-gram of the output is unique in the source, one draft."""
    source = list(range(10, 60))
    answer = [*source[:20], 99, 98, *source[20:]]
    problem = decode.Generation(editor(answer, 1, 100), [1], max_new_tokens=len(answer), eos=())
    found = run(problem, decode.AggressiveInput(source=tuple(source), draft_tokens=100))
    assert found.kept
    # prefill; the copy up to the edit, which writes 99; 98 and the next word one by one; the rest.
    assert [bool(drafted) for drafted in notes(found, "drafted")] == [True, False, False, True]


def test_greedy_tree_takes_the_likeliest_nodes():
    import itertools

    import torch

    accuracy = torch.tensor([[0.5, 0.2, 0.1], [0.4, 0.3, 0.05]])
    value = {
        path: math.prod(float(accuracy[d, r]) for d, r in enumerate(path))
        for depth in (1, 2)
        for path in itertools.product(range(3), repeat=depth)
    }
    for nodes in range(1, 9):
        tree = greedy_tree(accuracy, nodes)
        assert sorted(map(value.get, tree)) == pytest.approx(sorted(value.values(), reverse=True)[:nodes][::-1])
        assert all(parent < i for i, parent in enumerate(parents_of(tree)))
