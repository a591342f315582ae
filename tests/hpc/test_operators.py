"""Operators with workers of their own: the same items, workers where the time goes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import abreast
from abreast import hpc


def pipeline(n: int, *seconds: float) -> Any:
    """Operators that sleep; the second drops every third item."""

    def operator(k: int) -> Any:
        def run(x: int) -> int | None:
            time.sleep(seconds[k])
            return None if k == 1 and x % 3 == 0 else x + 10 * k

        return run

    return hpc.DataPipeline(list(range(n)), {f"op {k}": operator(k) for k in range(len(seconds))})


@given(st.integers(0, 20), st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_the_same_items_in_the_same_order(n: int, operators: int, spare: int, autosize: bool) -> None:
    problem = pipeline(n, *[0.0] * operators)
    method = hpc.OperatorGraph(operators + spare, autosize)
    run = abreast.run(problem, method, against=abreast.run(problem, problem.reference))
    assert run.kept and run.distance == 0
    assert run.ledger.work == run.against.ledger.work


def test_autosized_throughput_is_near_the_slowest_operators() -> None:
    seconds = (0.016, 0.008, 0.048)
    problem = pipeline(86, *seconds)
    method = hpc.OperatorGraph(8, sample=6)
    run = abreast.run(problem, method)
    counts = hpc.sizes([0.016, 0.008, 0.032], 8)  # a third of the items is dropped before the last operator
    took = max(e.end for e in run.ledger.events if "/" in e.lane)
    bound = 80 * max(s * share / n for s, share, n in zip(seconds, (1, 1, 2 / 3), counts))
    assert sum(counts) == 8 and bound / took > 0.8  # of that on a busy machine, too
    assert run.ledger.loose(run.ledger.lane("0")) == []


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers(0, 12))
def test_sizes_are_the_best_whole_numbers(costs: list[float], spare: int) -> None:
    counts = hpc.sizes(costs, len(costs) + spare)
    assert sum(counts) == len(costs) + spare and min(counts) >= 1
    slowest = max(c / n for c, n in zip(costs, counts))
    for k in range(len(costs)):  # moving one worker does not help
        for j in range(len(costs)):
            if j != k and counts[j] > 1:
                moved = [n + (i == k) - (i == j) for i, n in enumerate(counts)]
                assert max(c / n for c, n in zip(costs, moved)) >= slowest - 1e-12


def test_an_operators_error_is_raised() -> None:
    problem = hpc.DataPipeline(list(range(9)), {"half": lambda x: 1 / (x - 7)})
    with pytest.raises(ZeroDivisionError):
        abreast.run(problem, hpc.OperatorGraph(3))


def test_bad_input() -> None:
    with pytest.raises(abreast.AbreastError, match="at least one operator"):
        hpc.DataPipeline([1], {})
    with pytest.raises(abreast.AbreastError, match="as many workers"):
        abreast.run(pipeline(3, 0.0, 0.0), hpc.OperatorGraph(1))


def test_ray_gives_the_same() -> None:
    pytest.importorskip("ray")
    problem = pipeline(12, 0.001, 0.001)
    run = abreast.run(problem, hpc.OperatorGraph(3, backend="ray"), against=abreast.run(problem, problem.reference))
    assert run.kept
    assert run.ledger.work == run.against.ledger.work
