"""Word problems have the right answers, and their nets see only what is before them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import core
from abreast.solve import serial_tasks as tasks

NAMES = ("Z2", "S3", "S5", "majority", "max")


@pytest.mark.parametrize("name", ["Z2", "S3", "S5"])
def test_tables_are_groups(name: str) -> None:
    table = tasks._table(name)
    n = len(table)
    assert torch.equal(table[0], torch.arange(n)) and torch.equal(table[:, 0], torch.arange(n))
    assert all(len(set(row.tolist())) == n for row in table)
    a, b, c = torch.randint(n, (3, 50), generator=torch.Generator().manual_seed(0))
    assert torch.equal(table[table[a, b], c], table[a, table[b, c]])


def test_generators_reach_all_of_s5() -> None:
    _, answers = tasks.Words("S5").draw(200, 40, torch.Generator().manual_seed(0))
    assert len(answers[:, 20:].unique()) == 120


@given(st.sampled_from(NAMES), st.integers(1, 12), st.integers(0, 99))
def test_answers_are_of_prefixes(name: str, K: int, seed: int) -> None:
    task = tasks.Words(name)
    tokens, answers = task.draw(8, K, torch.Generator().manual_seed(seed))
    assert tokens.shape == answers.shape == (8, K) and int(tokens.max()) < task.symbols
    assert int(answers.max()) < task.classes
    if name == "Z2":
        assert torch.equal(answers, tokens.cumsum(1) % 2)
    if name == "max":
        assert torch.equal(answers[:, -1], tokens.max(1).values)


def test_nets_are_causal_and_of_equal_size() -> None:
    task = tasks.Words("S3")
    tokens, answers = task.draw(4, 9, torch.Generator().manual_seed(1))
    sizes = []
    for _, net in tasks.nets(task, 32):
        other = tokens.clone()
        other[:, 6:] = 0
        one, two = net(tokens), net(other)
        assert one.shape == (4, 9, 6) and torch.allclose(one[:, :6], two[:, :6], atol=1e-5)
        sizes.append(tasks.parameters(net))
    assert max(sizes) < 1.4 * min(sizes)
    written: Any = tasks.Written(6, 6, 1, 16)
    assert written.train_logits(tokens, answers).shape == (4, 9, 6)


def test_unknown_task() -> None:
    with pytest.raises(core.AbreastError, match="a task is"):
        tasks.Words("S4")
