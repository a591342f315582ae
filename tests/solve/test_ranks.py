"""The same solver on one worker, on ranks of one process, in virtual time and on processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import abreast
from abreast import World, solve
from abreast.machine import Machine

from .conftest import cell_sequence, plain

METHODS = [
    solve.DEER(atol=1e-11, rtol=0), solve.QuasiDEER(atol=1e-12, rtol=0, window=10), solve.Picard(), solve.Jacobi(),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=abreast.label)
def test_ranks_find_the_loops_states(method: Any, pool2: Any) -> None:
    problem = plain(41)
    loop = abreast.run(problem, problem.reference)
    alone = abreast.run(problem, method, against=loop)
    inline = abreast.run(problem, method, world=World(2), against=loop)
    virtual = abreast.run(problem, method, world=World(2, machine=Machine(latency=1e-6, link=1e9)))
    processes = abreast.run(problem, method, world=World(pool=pool2), against=loop)
    assert alone.kept and inline.kept and processes.kept
    assert torch.equal(inline.value, virtual.value) and torch.equal(inline.value, processes.value)
    assert inline.ledger.bytes == processes.ledger.bytes > 0
    assert inline.ledger.span == alone.ledger.span
    assert inline.ledger.loose(inline.ledger.lane("0")) == []


def test_four_processes_and_gradients(pool4: Any) -> None:
    problem = plain(50)
    run = abreast.run(problem, solve.DEER(atol=1e-11, rtol=0), world=World(pool=pool4))
    assert torch.equal(run.value, abreast.run(problem, run.method, world=World(4)).value)
    cells = cell_sequence("gru", 30)
    found = abreast.run(cells, solve.DEER(atol=1e-11, rtol=0), world=World(3)).value
    loop = abreast.run(cells, cells.reference).value
    weights = list(cells.cell.parameters())
    for mine, loops in zip(
        torch.autograd.grad(found.sin().sum(), weights), torch.autograd.grad(loop.sin().sum(), weights)
    ):
        assert torch.allclose(mine, loops, atol=1e-10)
