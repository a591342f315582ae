"""Prompts: the kinds and numbers promised, and no text shared between evaluation and training."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from abreast.core.errors import AbreastError
from abreast.zoo import code_prompts, manifest, prompts
from abreast.zoo.train.corpus import held_out_modules
from abreast.zoo.typos import Typos, corrupt


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> Path:
        raise AbreastError("HumanEval could not be fetched.")

    monkeypatch.setattr(prompts, "fetch", fetch)


def word_runs(text: str, length: int = 8) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_human_eval() -> None:
    if not manifest.SOURCES["human-eval"].path.exists():
        pytest.skip("HumanEval is not in the cache: abreast.zoo.fetch('human-eval') gets it")
    code = [prompt for prompt in prompts.evaluation() if prompt.kind == "code"]
    assert all(prompt.name.startswith("human-eval-") and ">>>" in prompt.text for prompt in code)
    assert not {"human-eval-0", "human-eval-12", "human-eval-30"} & {prompt.name for prompt in code}


def test_own_code_stands_in_and_says_so(unreachable: None) -> None:
    with pytest.warns(UserWarning, match="stand in for HumanEval. HumanEval could not be fetched"):
        found = prompts.evaluation()
    assert Counter(prompt.kind for prompt in found) == dict.fromkeys(prompts.KINDS, 4)
    assert len({prompt.name for prompt in found}) == 16


@pytest.mark.filterwarnings("ignore:Code prompts")
def test_few_takes_the_kinds_in_turn(unreachable: None) -> None:
    assert [prompt.kind for prompt in prompts.few(5)] == ["code", "edit", "summary", "chat", "code"]
    assert prompts.few(16)[:5] == prompts.few(5)
    with pytest.raises(AbreastError, match="1 to 16, not 17"):
        prompts.few(17)


@pytest.mark.filterwarnings("ignore:Code prompts")
def test_training_and_evaluation_share_no_text(unreachable: None) -> None:
    training = set().union(*(word_runs(text) for seed in (0, 1) for text in prompts.training_prompts(seed, 2500)))
    own = [prompt.text for prompt in prompts.evaluation()]
    assert not training & set().union(*map(word_runs, own))
    assert not {prompt.lower() for prompt in prompts.training_prompts(0, 2500)} & {text.lower() for text in own}


def test_training_prompts_are_many_and_repeatable() -> None:
    first = prompts.training_prompts(0, 500)
    assert len(set(first)) == 500 and first[:90] == prompts.training_prompts(0, 90)
    assert first != prompts.training_prompts(1, 500)
    assert not [text for text in first if "{it}" in text or len(text) > 1500]
    with pytest.raises(AbreastError, match="training prompts can be made"):
        prompts.training_prompts(0, 100_000)


def test_chat_ids(tokenizer: Any) -> None:
    ids = prompts.chat_ids(tokenizer, "Hello")
    assert tokenizer.decode(ids) == "<|user|>Hello<|end|><|assistant|>"
    with pytest.raises(AbreastError, match="no chat template"):
        prompts.chat_ids(object(), "Hello")


def test_code_prompts_end_where_a_line_begins(tokenizer: Any) -> None:
    sources = list(held_out_modules().values())
    found = code_prompts(tokenizer, 20, prompt_tokens=64, seed=3)
    assert all(len(ids) == 64 for ids in found) and len({tuple(ids) for ids in found}) == 20
    assert found == code_prompts(tokenizer, 20, prompt_tokens=64, seed=3)
    for ids in found:
        text = tokenizer.decode(ids)
        assert not text.rpartition("\n")[2].strip() and any(text in source for source in sources)
    with pytest.raises(AbreastError, match="places for prompts"):
        code_prompts(tokenizer, 10**6)


def test_typos() -> None:
    pairs = Typos(density=0.1, lines=3).pairs(40)
    assert pairs == Typos(density=0.1, lines=3).pairs(40) != Typos(density=0.1, lines=3, seed=1).pairs(40)
    assert all(clean.count("\n") == wrong.count("\n") == 2 for clean, wrong in pairs)
    assert sum(clean != wrong for clean, wrong in pairs) > 35
    assert all(clean == wrong for clean, wrong in Typos(density=0.0).pairs(10))
    letters, mistakes = "word " * 5000, corrupt("word " * 5000, 0.2, random.Random(0))
    assert 0.5 < sum(a == b for a, b in zip(letters.split(), mistakes.split())) / 5000 / 0.8**4 < 1.5
    with pytest.raises(AbreastError, match="density from 0 to 1"):
        Typos(density=2.0)
    with pytest.raises(AbreastError, match=r"Only .* different texts"):
        Typos().pairs(10**6)
