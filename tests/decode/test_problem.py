"""Bad input is one sentence; texts end where they should; near ties are told from differences."""

from __future__ import annotations

import pytest
import torch

import abreast
from abreast import AbreastError, decode
from abreast.decode.paths import PathModel, editor
from abreast.decode.problem import near_ties
from tests.decode.tiny import VOCAB, heads, llama

PROMPT = [5, 9, 14, 7, 5, 9, 14, 3]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: decode.Generation(llama(0), []), "empty"),
        (lambda: decode.Generation(llama(0), [[1], []]), "empty"),
        (lambda: decode.Generation(llama(0), [1] * 500, 20), "context"),
        (lambda: decode.Generation(llama(0), [1, VOCAB]), "vocabulary"),
        (lambda: decode.Generation(llama(0), [1], 0), "at least 1"),
        (lambda: decode.Generation(llama(0), "text"), "tokenizer"),
        (lambda: decode.Generation(llama(0), [1], stop=("x",)), "tokenizer"),
        (lambda: decode.Sampling(temperature=-1), "temperature"),
        (lambda: decode.Sampling(top_p=0), "top_p"),
        (lambda: decode.Lookahead(ngram=1), "ngram"),
        (lambda: decode.Jacobi(window=-1), "window"),
        (lambda: decode.Jacobi(mode="newton"), "mode"),
        (lambda: decode.PromptLookup(min_ngram=4, max_ngram=3), "min_ngram"),
        (lambda: decode.AggressiveInput(draft_tokens=0), "draft_tokens"),
        (lambda: decode.Blockwise(heads("blockwise"), k=9), "k from 1"),
        (lambda: decode.Medusa(heads("medusa"), nodes=0), "nodes"),
        (lambda: decode.Stacked(()), "at least one"),
        (lambda: decode.Stacked((decode.Jacobi(),)), "read their own rows"),
        (lambda: decode.load_heads("nowhere"), "heads.safetensors"),
    ],
)
def test_bad_input_is_a_sentence(build, words):
    with pytest.raises(AbreastError, match=words) as refusal:
        build()
    assert "\n" not in str(refusal.value)


def test_drafts_of_another_vocabulary_are_refused():
    problem = decode.Generation(llama(0), PROMPT)
    with pytest.raises(AbreastError, match="tokenizer"):
        abreast.run(problem, decode.SpeculativeSampling(PathModel(lambda paths: torch.zeros(len(paths), 7), 7)))


def test_heads_of_another_width_are_refused():
    with pytest.raises(AbreastError, match="width"):
        abreast.run(decode.Generation(llama(0), PROMPT), decode.Medusa(heads("medusa", width=16)))


@pytest.mark.parametrize(
    "method", [decode.PromptLookup(min_ngram=1), decode.AggressiveInput(source=(3, 4, 5, 6, 7, 8))]
)
def test_nothing_is_committed_beyond_the_end(method):
    """The end lies inside an accepted draft."""
    problem = decode.Generation(editor([3, 4, 5, 6, 0, 8, 9], 1, 10), [1], 7, eos=(0,))
    found = abreast.run(problem, method, against=abreast.run(problem, problem.reference))
    assert found.kept and found.value == [[3, 4, 5, 6, 0]]


def test_stop_strings_end_inside_a_draft():
    class Letters:
        def decode(self, tokens, skip_special_tokens=True):
            return "".join(chr(96 + t) for t in tokens)

    problem = decode.Generation(editor([3, 4, 5, 6, 7], 1, 10), [1], 5, eos=(), stop=("de",), tokenizer=Letters())
    found = abreast.run(problem, decode.AggressiveInput(source=(3, 4, 5, 6, 7)))
    assert problem.text(found.value) == ["cde"]


def test_near_ties_are_told_from_differences():
    def tie(paths):
        out = torch.zeros(len(paths), 5, dtype=torch.float64)
        out[:, 2], out[:, 3] = 1.0, 1.0 - 1e-12
        return out

    problem = decode.Generation(PathModel(tie, 5), [1], 3, eos=())
    assert near_ties(problem, [[2, 3, 2]], [[2, 2, 2]]) == [True]
    assert near_ties(problem, [[2, 4, 2]], [[2, 2, 2]]) == [True]  # the reference's own choice was nearly a tie
    sure = decode.Generation(editor([3, 4, 5], 1, 9), [1], 3, eos=())
    assert near_ties(sure, [[3, 5, 5]], [[3, 4, 5]]) == [False]
    assert sure.distance([[3, 5, 5]], [[3, 4, 5]]) == pytest.approx(2 / 3)


def test_no_lane_is_left_loose():
    problem = decode.Generation(llama(0), PROMPT, 20, eos=())
    for method in (decode.Lookahead(), decode.SpeculativeSampling(llama(1, layers=1)), decode.Medusa(heads("medusa"))):
        world = abreast.World()
        found = abreast.run(problem, method, world)
        assert found.ledger.loose(world.lane()) == []


def test_steps_yield_what_is_committed():
    problem = decode.Generation(llama(0), PROMPT, 20, eos=())
    seen: list[int] = []
    found = abreast.run(problem, decode.Lookahead(), on_step=lambda commit: seen.extend(commit.tokens[0]))
    assert seen == found.value[0]
