"""Triangular systems: whatever is updated at once, the answer is the one of one node at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import core, solve

EXACT = (
    solve.Jacobi(), solve.Jacobi(window=3), solve.GaussSeidel(), solve.JacobiGS(3), solve.GSJacobi(2),
    solve.GSJacobi(4),
)  # fmt: skip


def system(N: int, B: int, seed: int, kind: str, width: int = 1, density: float = 0.5, layered: bool = False) -> Any:
    """A random triangular map over a random order: nodes are sums (row by row) of what comes before them."""
    g = torch.Generator().manual_seed(seed)
    place = torch.randperm(N, generator=g)
    levels = place // 2 if layered else place
    mask = (levels[None] < levels[:, None]) & (torch.rand(N, N, generator=g) < density)
    W = 3 * torch.randn(N, N, generator=g, dtype=torch.float64) * mask
    u = torch.randn(B, N, width, generator=g, dtype=torch.float64)

    def total(x: torch.Tensor, nodes: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        out = u[:, nodes]
        for j in range(N):
            out = out + W[nodes, j][:, None] * x[:, j : j + 1].double()
        return (out > 0).long() if kind == "binary" else out / (1 + out.abs())

    def f(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return total(x, torch.arange(N), u)

    x0 = torch.zeros(B, N, width, dtype=torch.long if kind == "binary" else torch.float64)
    part = total if seed % 2 else None
    return solve.TriangularSystem(f, x0, levels, (u,), part)


systems = st.builds(
    system, st.integers(1, 12), st.integers(1, 4), st.integers(0, 10**6), st.sampled_from(("real", "binary")),
    st.integers(1, 2), st.floats(0.0, 1.0), st.booleans(),
)  # fmt: skip


@given(systems, st.sampled_from((*EXACT, solve.Anderson())))
def test_no_change_is_the_loop(problem: Any, method: Any) -> None:
    if isinstance(method, solve.Anderson) and problem.discrete:
        return
    run = core.run(problem, method, against=core.run(problem, problem.reference))
    assert torch.equal(run.value, run.against.value)
    assert method.promise(problem) is core.IDENTICAL and run.kept
    assert run.ledger.longest("f") <= (problem.L + 1 if not isinstance(method, solve.JacobiGS) else 3 * problem.L)
    assert problem.residual(run.value) == 0 and not run.ledger.loose(run.ledger.lane("0"))


@given(systems, st.integers(1, 6), st.sampled_from((None, 2)), st.booleans())
def test_prefix_after_k_rounds(problem: Any, k: int, window: int | None, mixed: bool) -> None:
    loop = core.run(problem, problem.reference).value
    method = solve.Jacobi(max_sweeps=k, window=window)
    if mixed and not problem.discrete:
        method = solve.Anderson(max_rounds=k)
    run = core.run(problem, method)
    prefix = run.ledger.series("prefix")
    assert all(found >= min(n, problem.L) for n, found in enumerate(prefix, 1)) and len(prefix) <= k
    nodes = problem.between(0, prefix[-1])
    assert torch.equal(run.value[:, nodes], loop[:, nodes])


@pytest.mark.parametrize("method", [*EXACT, solve.Anderson()])
@pytest.mark.parametrize("kind", ["real", "binary"])
def test_laws(method: Any, kind: str) -> None:
    if kind == "real" or not isinstance(method, solve.Anderson):
        for name, holds in core.laws(method, system(9, 3, 1, kind)):
            assert holds, name


def test_finished_members_are_left_out() -> None:
    """Member 0 depends on nothing, member 1 is a chain of ten: 2 rounds of both, 9 of one."""
    x0, chained = torch.zeros(2, 10, dtype=torch.float64), torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    def f(x: torch.Tensor, chained: torch.Tensor) -> torch.Tensor:
        return 1 + chained * torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)

    run = core.run(solve.TriangularSystem(f, x0, given=(chained,)), solve.Jacobi())
    assert run.value.tolist() == [[1.0] * 10, [float(n) for n in range(1, 11)]]
    assert run.ledger.series("members") == [2, 2] + [1] * 8
    assert (run.ledger.span, run.ledger.work) == (10, 10 * (2 * 2 + 8))


def test_costs_are_those_of_what_was_computed() -> None:
    problem = system(8, 2, 1, "real")
    loop, blocks = core.run(problem, problem.reference), core.run(problem, solve.JacobiGS(4))
    assert (loop.ledger.span, loop.ledger.work) == (8, 16)
    rounds = blocks.ledger.longest("f") / 2
    assert rounds <= 5 and blocks.ledger.calls("f") == rounds * 8
    layered = system(8, 2, 1, "real", layered=True)
    assert core.run(layered, solve.GaussSeidel()).ledger.span == 4
    whole = core.run(system(8, 2, 2, "real"), problem.reference)
    assert (whole.ledger.span, whole.ledger.work) == (8, 8 * 16)


@pytest.mark.parametrize("kind", ["real", "binary"])
def test_the_checker(kind: str) -> None:
    system(7, 2, 3, kind).check_triangular()

    def both(x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)

    x0 = torch.zeros(1, 4, dtype=torch.long if kind == "binary" else torch.float64)
    with pytest.raises(core.AbreastError, match="node 1 changes with node 2"):
        solve.TriangularSystem(both, x0).check_triangular()
    solve.TriangularSystem.from_callable(lambda x: torch.cat((x[:, 1:], 0 * x[:, :1]), 1), x0, [3, 2, 1, 0])
    with pytest.raises(core.AbreastError, match="each of the 4 nodes once"):
        solve.TriangularSystem.from_callable(both, x0, [0, 1, 1, 2])


def test_overflow_outside_the_prefix_is_no_error() -> None:
    """Squares of a bad guess overflow, and zero times infinity would reach every node of a matrix product."""
    before = torch.eye(6, dtype=torch.float64).roll(1, 1).triu(1)

    def f(x: torch.Tensor) -> torch.Tensor:
        new = (x @ before) ** 2
        new[:, 0] = 0.5 + 0 * new[:, 0]
        return new

    problem = solve.TriangularSystem(f, torch.full((1, 6), 1e200, dtype=torch.float64))
    assert core.run(problem, solve.Jacobi()).value.tolist() == [[0.5 ** (2**k) for k in range(6)]]


def test_bad_input_is_named() -> None:
    x0 = torch.zeros(2, 3, dtype=torch.float64)
    cases: list[tuple[str, Any]] = [
        ("x0 is a tensor", lambda: solve.TriangularSystem(lambda x: x, x0[0])),
        ("levels are 3 integers", lambda: solve.TriangularSystem(lambda x: x, x0, [0, 1])),
        ("f keeps shape and type", lambda: solve.TriangularSystem(lambda x: x[:, :2], x0)),
        ("a row for each of the 2", lambda: solve.TriangularSystem(lambda x, u: x, x0, given=(x0[:1],))),
        ("at least one level", lambda: solve.GSJacobi(0)),
        ("at least one block", lambda: solve.JacobiGS(0)),
        ("memory >= 1", lambda: solve.Anderson(0)),
        ("may never end", lambda: solve.Anderson(keep_prefix=False)),
        ("Recurrence is wanted", lambda: core.run(solve.TriangularSystem(lambda x: x, x0), solve.Picard())),
        ("its own x0", lambda: core.run(solve.TriangularSystem(lambda x: x, x0), solve.Jacobi(guess=solve.Constant()))),
        ("equal or not", lambda: core.run(solve.TriangularSystem(lambda x: x, x0.long()), solve.Jacobi(tol=0.1))),
        ("mixes floating-point", lambda: core.run(solve.TriangularSystem(lambda x: x, x0.long()), solve.Anderson())),
        ("not finite at node 1", lambda: core.run(
            solve.TriangularSystem(lambda x: x + torch.tensor([0.0, torch.nan, 0.0]), x0), solve.Jacobi())),
    ]  # fmt: skip
    for match, bad in cases:
        with pytest.raises(core.AbreastError, match=match):
            bad()
