"""Optimisers' paths in parallel: the user's own optimiser, stepped ahead, ends bit-equal to its plain loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import core, solve
from abreast.workers import World

OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.05),
    "momentum": lambda ps: torch.optim.SGD(ps, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda ps: torch.optim.Adam(ps, 0.05),
    "amsgrad": lambda ps: torch.optim.Adam(ps, 0.05, amsgrad=True),
    "adamw": lambda ps: torch.optim.AdamW(
        [{"params": ps[:1], "lr": 0.1}, {"params": ps[1:], "weight_decay": 0.2}], 0.02
    ),
}


def path(kind: str, steps: int = 15, seed: int = 0, schedule: bool = False, **facts: Any) -> Any:
    """Noisy least squares in two tensors, by sums and products."""
    g = torch.Generator().manual_seed(seed)
    params = {"a": torch.randn(3, 2, generator=g, dtype=torch.float64), "b": torch.zeros(2, dtype=torch.float64)}

    def loss(p: Any, given: Any) -> torch.Tensor:
        x, y = given
        return ((x @ p["a"] + p["b"] - y).sin() ** 2).sum()

    def data(seed: int) -> Any:
        g = torch.Generator().manual_seed(seed)
        return torch.randn(4, 3, generator=g, dtype=torch.float64), torch.randn(4, 2, generator=g, dtype=torch.float64)

    facts.setdefault("schedule", (lambda i: 1 / (1 + i)) if schedule else None)
    return solve.OptimizerPath(loss, params, OPTIMIZERS[kind], steps, seed, data, **facts)


paths = st.builds(
    path, st.sampled_from(sorted(OPTIMIZERS)), st.integers(1, 20), st.integers(0, 10**6), st.booleans()
)  # fmt: skip
EXACT = (
    solve.Propeller(window=4, threshold=0.0, adapt=None), solve.Propeller(window=1), solve.OptEx(parallel=1),
    solve.OptEx(parallel=4, verify=0.0), solve.OptEx(parallel=3, kernel=solve.Oracle()), solve.Descent(),
)  # fmt: skip


@given(paths, st.sampled_from(EXACT))
def test_exact_settings_are_the_loop_bit_for_bit(problem: Any, method: Any) -> None:
    run = core.run(problem, method, against=core.run(problem, problem.reference))
    assert torch.equal(run.value, run.against.value)
    assert run.ledger.longest("f") <= problem.steps


@given(paths)
def test_the_reference_is_torchs_own_loop(problem: Any) -> None:
    params = [torch.nn.Parameter(t.clone()) for t in problem.params.values()]
    optimizer = problem.make_optimizer(params)
    rates = [group["lr"] for group in optimizer.param_groups]
    for i in range(problem.steps):
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * problem.schedule(i) if problem.schedule else rate
        optimizer.zero_grad()
        problem.loss(dict(zip("ab", params)), problem.data(problem.seed(i))).backward()
        optimizer.step()
    last = core.run(problem, problem.reference).value[-1]
    assert torch.equal(torch.cat([p.detach().flatten() for p in params]), last)


@given(paths, st.integers(0, 8))
def test_a_step_leaves_what_it_was_given(problem: Any, seed: int) -> None:
    g = torch.randn(20, 1, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x, carry = problem.x0, problem.carry0
    for i in range(min(problem.steps, 4)):
        before = [{k: torch.as_tensor(v).clone() for k, v in s.items()} for s in carry.states]
        once, twice = (problem.advance(i, x, g[i], carry) for _ in range(2))
        assert torch.equal(once[0], twice[0])
        for old, new in zip(before, carry.states):
            assert all(torch.equal(old[k], torch.as_tensor(new[k])) for k in old)
        x, carry = once


@pytest.mark.parametrize("method", [solve.Propeller(window=5), solve.OptEx(), solve.Descent(3, 2)])
def test_laws(method: Any) -> None:
    for name, holds in core.laws(method, path("adam", 25)):
        assert holds, name


def test_vmap_gives_the_same_gradients_up_to_rounding() -> None:
    one, many = path("adam"), path("adam", batched=True)
    x = torch.randn(5, 8, dtype=torch.float64)
    assert torch.allclose(one.gradients(range(5), x), many.gradients(range(5), x), atol=1e-12)
    run = core.run(many, solve.Propeller(4, 0.0, adapt=None), against=core.run(one, solve.Loop()))
    assert run.kept


def test_modules_and_tensors_are_parameters_too() -> None:
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 1).double()
    start = [p.detach().clone() for p in net.parameters()]
    x = torch.randn(6, 2, dtype=torch.float64)
    problem = solve.OptimizerPath(lambda net, seed: (net(x) - seed).square().mean(), net, OPTIMIZERS["adam"], 6)
    loop = core.run(problem, problem.reference)
    assert torch.equal(core.run(problem, EXACT[0]).value, loop.value)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), start))
    plain = solve.OptimizerPath(lambda x, seed: x.square().sum(), x[0], OPTIMIZERS["sgd"], 3, objective=torch.sum)
    assert plain.quality(core.run(plain, plain.reference).value)["minus objective"] == pytest.approx(
        -float(x[0].sum() * 0.9**3)
    )


def test_costs_and_controls() -> None:
    problem = path("adam", 24)
    table = core.compare(problem, [solve.Propeller(window=4), solve.OptEx(parallel=4)])
    optex = table[solve.OptEx]
    assert optex.runs[0].ledger.span == 6 and optex.runs[0].ledger.work == 24
    assert len([row for row in table if row.control_of]) == 6
    assert table["Descent(rounds=6, batch=4)"].runs[0].ledger.work == 24
    for pick in ("loss", "norm"):
        run = core.run(problem, solve.OptEx(parallel=4, pick=pick))
        assert run.value.shape == (24, 8) and run.ledger.longest("f") == 6


@pytest.mark.skipif(not hasattr(World, "map"), reason="this World has one rank")
@pytest.mark.parametrize("method", [*EXACT[:4], solve.Propeller(), solve.OptEx()])
def test_ranks_share_a_window(method: Any) -> None:
    problem = path("adam", 12)
    alone, shared = core.run(problem, method), core.run(problem, method, World(2))  # type: ignore[arg-type]
    assert torch.equal(alone.value, shared.value)
    assert shared.ledger.longest("f") == alone.ledger.longest("f")
    # A window of fewer states than ranks is everybody's.
    assert 0 <= shared.ledger.work - alone.ledger.work <= alone.ledger.calls("f")


def test_score_distillation_depends_on_the_seed_alone() -> None:
    class Denoiser:
        alphas_cumprod = torch.linspace(0.99, 0.01, 50, dtype=torch.float64)

        def __call__(self, x: torch.Tensor, t: torch.Tensor) -> Any:
            return type("Found", (), {"sample": x / (1 + x.abs()) * t[:, None] / 50})

    problem = solve.ScoreDistillation(Denoiser(), torch.ones(4, dtype=torch.float64), OPTIMIZERS["adam"], 20)
    x = torch.randn(6, 4, dtype=torch.float64)
    rows = torch.cat([problem.gradients([s], x[s : s + 1]) for s in range(6)])
    assert torch.equal(problem.gradients(range(6), x), rows)
    run = core.run(problem, EXACT[0], against=core.run(problem, problem.reference))
    assert torch.equal(run.value, run.against.value)


@given(st.sampled_from((0.5, 1.5, 2.5)), st.integers(1, 6), st.integers(0, 10**6))
def test_the_regression_interpolates(nu: float, h: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    points, gradients = torch.randn(2, h, 3, generator=g, dtype=torch.float64)
    predict = solve.Matern(nu).on(None, points, gradients, 1e-10)
    for point, gradient in zip(points, gradients):
        assert torch.allclose(predict(0, point), gradient, atol=1e-5)


def test_bad_input_is_named() -> None:
    x, sgd = torch.zeros(2, dtype=torch.float64), OPTIMIZERS["sgd"]

    def made(loss: Any = lambda x, s: x.sum(), start: Any = x, make: Any = sgd, steps: int = 3, **facts: Any) -> Any:
        return solve.OptimizerPath(loss, start, make, steps, **facts)

    for match, bad in (
        ("at least one step", lambda: made(steps=0)),
        ("a seed each", lambda: made(seeds=[1])),
        ("needs data", lambda: made(batched=True)),
        ("params are", lambda: made(start=x.long())),
        ("one dtype", lambda: made(start={"a": x, "b": x.float()})),
        ("gives a torch.optim.Optimizer", lambda: made(make=lambda ps: None)),
        ("LBFGS", lambda: made(make=torch.optim.LBFGS)),
        ("exactly the parameters", lambda: made(make=lambda ps: sgd([torch.nn.Parameter(x)]))),
        ("a loss is a scalar", lambda: made(lambda x, s: x)),
        ("does not depend on the parameters", lambda: made(lambda x, s: torch.zeros(()))),
        ("vmap cannot batch", lambda: made(
            lambda x, given: x.sum() if x[0] > 0 else x.sum() * 2, data=lambda s: x, batched=True)),
        ("NaN at step 0", lambda: core.run(made(lambda x, s: x.sum() * torch.nan), solve.Propeller())),
        ("window >= 1", lambda: solve.Propeller(0)),
        ("adapt is", lambda: solve.Propeller(adapt="max")),  # type: ignore[arg-type]
        ("parallel >= 1", lambda: solve.OptEx(0)),
        ("pick is", lambda: solve.OptEx(pick="first")),  # type: ignore[arg-type]
        ("nu 0.5", lambda: solve.Matern(2.0)),
        ("an OptimizerPath is wanted", lambda: core.run(solve.TriangularSystem(lambda x: x, x[None]), solve.OptEx())),
        ("has no alphas_cumprod", lambda: solve.ScoreDistillation(object(), x, sgd, 3)),
    ):  # fmt: skip
        with pytest.raises(core.AbreastError, match=match):
            bad()


def test_thresholds_follow_the_errors() -> None:
    new, old = torch.tensor([[[1.0]], [[2.0]], [[4.0]]]), torch.zeros(3, 1, 1)  # errors 1, 4, 16
    for adapt, after in (("median", 0.9 * 10 + 0.1 * 4), ("mean", 0.9 * 10 + 0.1 * 7), (None, 10.0)):
        moving = solve.Threshold(10.0, 0.9, adapt, scale=1.0).begin()  # type: ignore[arg-type]
        assert moving(new, old, torch.arange(3), 1).tolist() == [False, False, True]
        at = torch.full((1, 1, 1), (after + 1e-3) ** 0.5)
        assert moving(at, torch.zeros(1, 1, 1), torch.arange(1), 2)[0]
        again = solve.Threshold(10.0, 0.9, adapt, scale=1.0).begin()  # type: ignore[arg-type]
        again(new, old, torch.arange(3), 1)
        assert not again(at * (after - 1e-3) ** 0.5 / at, torch.zeros(1, 1, 1), torch.arange(1), 2)[0]


def smooth(steps: int) -> Any:
    """A sum of squares in 20 entries, by SGD."""
    start = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return solve.OptimizerPath(lambda p, s: (p * p).mean(), start, lambda ps: torch.optim.SGD(ps, 0.5), steps)


def test_predictions_and_picks_are_used() -> None:
    problem = smooth(20)
    loss = {k: float((core.run(problem, solve.OptEx(4, kernel=k)).value[-1] ** 2).mean())
            for k in (solve.Matern(), solve.Held(), solve.Oracle())}  # fmt: skip
    loop = float((core.run(problem, problem.reference).value[-1] ** 2).mean())
    first = float((core.run(smooth(4), solve.OptEx(4)).value[-1] ** 2).mean())
    assert loss[solve.Oracle()] == pytest.approx(loop, rel=1e-12)
    # Without a prediction the four states of a round coincide, so that five rounds are five steps of the loop.
    still = float((core.run(smooth(5), problem.reference).value[-1] ** 2).mean())
    assert abs(loss[solve.Matern()] - loop) < 0.2 * abs(still - loop) and first > loss[solve.Matern()]
    noisy = path("sgd", 16)
    values = {pick: core.run(noisy, solve.OptEx(4, pick=pick)).value for pick in ("last", "loss", "norm")}
    assert not torch.equal(values["last"], values["loss"]) and not torch.equal(values["last"], values["norm"])
