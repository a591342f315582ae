"""Claims about optimisers' paths: on a mixture and functions whose answers are known and on held-out digits, each
beside what a sceptic would do instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abreast import zoo
from abreast.core import (
    Check,
    Figure,
    Grid,
    Method,
    Run,
    Table,
    at_least,
    at_most,
    claim,
    compare,
    exactly,
    label,
    run,
    uniform,
)  # fmt: skip
from abreast.solve.distillation import ScoreDistillation
from abreast.solve.optex import OptEx
from abreast.solve.path import OptimizerPath
from abreast.solve.propeller import Descent, Propeller
from abreast.solve.surrogate import Held
from abreast.zoo.digits8 import digits8
from abreast.zoo.mixture import Mixture

Item = Check | Grid | Figure | Table


def _span(found: Run[Any]) -> float:
    return found.ledger.span


def adam(lr: float) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    return lambda params: torch.optim.Adam(params, lr)


@cache
def mixture() -> Mixture:
    return Mixture(components=8, shape=(16,), radius=4.0, variance=0.05, seed=0)


def distillation(make: Any, seed: int, steps: int = 1000) -> ScoreDistillation:
    """A 16-vector that the mixture is to find likely, from a start of its own."""
    start = torch.randn(16, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)
    unlikely = lambda x: -mixture().log_density(x[None], 0)[0]  # noqa: E731
    return ScoreDistillation(mixture(), start, make, steps, 10**6 * (seed + 1), objective=unlikely)


@claim("dreampropeller", real="trained")
def dreampropeller() -> Iterator[Item]:
    exact, fixed, adaptive = Propeller(7, 0.0, adapt=None), Propeller(7, 1.0, adapt=None), Propeller(7, 30.0)
    problems = [distillation(adam(lr), seed) for lr in (0.003, 0.03) for seed in (0, 1)]
    table = compare(problems, [exact, fixed, adaptive])
    yield table
    changed = [_path_error(one, loop) for one, loop in zip(table[exact].runs, table.reference.runs)]
    for make in (lambda p: torch.optim.SGD(p, 0.03), lambda p: torch.optim.SGD(p, 0.03, momentum=0.9)):
        problem = distillation(make, 2, 300)
        found = run(problem, exact, against=run(problem, problem.reference))
        changed.append(_path_error(found, found.against))
    yield exactly("threshold 0: entries of the path that differ from the loop's (Adam, SGD, momentum)", sum(changed), 0)
    ratio = {m: table.reference.sum(_span) / table[m].sum(_span) for m in (exact, fixed, adaptive)}
    error = {m: sum(r.distance or 0.0 for r in table[m].runs) / len(problems) for m in (fixed, adaptive)}
    yield at_least("threshold 0: steps by rounds", ratio[exact], 1.7)
    yield at_least("fixed threshold 1: steps by rounds", ratio[fixed], 4.0)
    yield at_most("fixed threshold 1: RMS to the sequential result, mean", error[fixed], 1e-4)
    yield at_most("fixed threshold 1: gradients by those of the loop", table.ratio(fixed, _work), 1.8)
    yield at_most("adaptive: RMS to the sequential result, mean", error[adaptive], 5e-3)
    rows = [[_called(row.method), table.reference.sum(_span) / row.sum(_span), _score(row.runs)] for row in table]
    yield Grid("what the rounds are worth: batches of 7 seeds with 4 x lr come near on this toy",
               ["method", "steps by rounds", "minus log density, mean"], rows)  # fmt: skip
    yield from _on_a_transformer()
    yield from _on_digits()


def _work(found: Run[Any]) -> float:
    return found.ledger.work


def _path_error(found: Run[Any], loop: Any) -> int:
    return int((found.value != loop.value).sum())


def _called(method: Method) -> str:
    return f"control: batch {method.batch}, {method.lr:g} x lr" if isinstance(method, Descent) else label(method)


def _score(runs: Sequence[Run[Any]]) -> float:
    return sum(r.problem.score(r.value[-1]) for r in runs) / len(runs)  # type: ignore[attr-defined]


@cache
def digit_denoiser(digit: int = 3) -> Any:
    """The embedded transformer of digits as a predictor of the noise on pictures [n, 1, 32, 32] of one digit."""
    model, scheduler = zoo.load_denoiser("digits-dit")

    class Denoiser:
        alphas_cumprod = scheduler.alphas_cumprod

        def __call__(self, x: Tensor, t: Tensor) -> Any:
            v = model(x, timestep=t, class_labels=torch.full((len(x),), digit)).sample[:, :1]
            a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
            return SimpleNamespace(sample=a.sqrt() * v + (1 - a).sqrt() * x)

    return Denoiser()


def _on_a_transformer() -> Iterator[Item]:
    """A picture that a trained denoiser is to take for a digit; float32, whose rounding depends on the batch."""
    denoiser = digit_denoiser()
    level = torch.arange(100, 900, 50)
    noise = torch.randn(len(level), 1, 32, 32, generator=torch.Generator().manual_seed(5))

    def unlike(x: Tensor) -> Tensor:
        a = denoiser.alphas_cumprod[level].view(-1, 1, 1, 1)
        found = denoiser(a.sqrt() * x + (1 - a).sqrt() * noise, level).sample
        return (found - noise).square().mean()

    start = 0.1 * torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    problem = ScoreDistillation(denoiser, start, adam(0.02), 80, objective=unlike)
    exact, fixed = Propeller(7, 0.0, adapt=None), Propeller(7, 1.0, adapt=None)
    table = compare(problem, [exact, fixed, Propeller(7, 30.0)])
    yield Grid(
        "a digit from a trained transformer, 80 steps of Adam",
        ["method", "steps by rounds", "gradients by steps", "RMS", "error of the noise on 16 fixed draws"],
        [[_called(row.method), 80 / row.sum(_rounds), row.sum(_work) / 80, row.runs[0].distance, _score(row.runs)]
         for row in table],
    )  # fmt: skip
    yield exactly("transformer, threshold 0: promises broken", sum(row.kept is False for row in table), 0)
    yield at_least("transformer, fixed threshold 1: steps by rounds", 80 / table[fixed].sum(_rounds), 3.0)
    off = table[fixed].runs[0].distance or 0.0
    yield at_most("transformer, fixed threshold 1: RMS to the sequential result", off, 1e-3)


def _rounds(found: Run[Any]) -> float:
    return found.ledger.longest("f")


@cache
def _labelled() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels = torch.cat((digits8("train"), digits8("held-out"))).flatten(1).double() / 16
    return pixels, torch.from_numpy(load_digits().target).long()


def classifier(lr: float, steps: int) -> OptimizerPath:
    """A small network on minibatches of digits; its objective is the loss on held-out ones."""
    pixels, labels = _labelled()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()

    def batch(seed: int) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(uniform(seed, "minibatch", n=64) * 1437).long()
        return pixels[rows], labels[rows]

    def held_out(net: Any) -> Tensor:
        return F.cross_entropy(net(pixels[1437:]), labels[1437:])

    return OptimizerPath(lambda net, b: F.cross_entropy(net(b[0]), b[1]), net, adam(lr), steps, 0, batch,
                         objective=held_out)  # fmt: skip


def _on_digits() -> Iterator[Item]:
    """Training a classifier is less obliging than distillation: minibatches disagree more from step to step."""
    rows, changed = [], 0
    for lr in (0.003, 0.01):
        problem = classifier(lr, 120)
        loop = run(problem, problem.reference)
        for method in (Propeller(7, 0.0, adapt=None), Propeller(7, 1.0, adapt=None), Propeller(7, 30.0)):
            found = run(problem, method, against=loop)
            changed += _path_error(found, loop) if method.threshold == 0 else 0
            rows.append([lr, label(method), 120 / found.ledger.span, found.ledger.work / 120, found.distance,
                         problem.score(found.value[-1]), problem.score(loop.value[-1])])  # fmt: skip
    yield Grid(
        "a classifier of digits, 120 steps of Adam",
        ["lr", "method", "steps by rounds", "gradients by steps", "RMS", "held-out loss", "the loop's"], rows,
    )  # fmt: skip
    yield exactly("digits, threshold 0: entries of the path that differ", changed, 0)


def sphere(x: Tensor) -> Tensor:
    return (x * x).mean()


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).mean()


def ackley(x: Tensor) -> Tensor:
    return -20 * torch.exp(-0.2 * (x * x).mean().sqrt()) - torch.exp(torch.cos(2 * math.pi * x).mean()) + 20 + math.e


STEPS, POINTS, RATES, LATEST = 50, 5, (0.01, 0.03, 0.1, 0.3), 50


@cache
def minimised(f: Callable[[Tensor], Tensor], lr: float, seed: int) -> OptimizerPath:
    """A function of 1000 numbers from N(0, 1), by Adam."""
    start = torch.randn(1000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return OptimizerPath(lambda x, s: f(x), start, adam(lr), LATEST * POINTS, objective=f)


def rounds_to(problem: OptimizerPath, method: Method, target: float, each: int) -> float:
    """Rounds of `each` states until the loss is at most `target`; infinite where the path never gets there."""
    value = run(problem, method).value
    for k in range(each - 1, len(value), each):
        if problem.score(value[k]) <= target:
            return float((k + 1) // each)
    return math.inf


def _rounds_of(f: Callable[[Tensor], Tensor], lr: float, seeds: int = 3) -> list[float]:
    """Means over seeds of the rounds to the loss of Adam's step 50, by GP, last gradient held, Adam with 5 x lr and the
    best of Adam's other rates; then Adam's own loss at round 10."""
    found = []
    for seed in range(seeds):
        problem = minimised(f, lr, seed)
        loop = run(problem, Descent(STEPS)).value
        target = problem.score(loop[-1])
        tuned = min(rounds_to(minimised(f, other, seed), Descent(LATEST), target, 1) for other in RATES)
        found.append([
            rounds_to(problem, OptEx(POINTS), target, POINTS),
            rounds_to(problem, OptEx(POINTS, kernel=Held()), target, POINTS),
            rounds_to(problem, Descent(LATEST, lr=POINTS), target, 1), tuned,
            problem.score(loop[STEPS // POINTS - 1]),
        ])  # fmt: skip
    return [sum(column) / seeds for column in zip(*found)]


@claim("optex", real="exact")
def optex() -> Iterator[Item]:
    found = {f: {lr: _rounds_of(f, lr) for lr in RATES} for f in (sphere, rosenbrock, ackley)}
    best = {f: min(RATES, key=lambda lr, f=f: found[f][lr][-1]) for f in found}  # type: ignore[misc]
    yield Grid(
        "rounds of 5 points to the loss of Adam's step 50 (oracle 10, inf: not in 50 rounds; 3 starts)",
        ["function", "lr", "GP", "last gradient held", "Adam, 5 x lr", "Adam, best lr", "best lr at 10 rounds"],
        [[f.__name__, lr, *found[f][lr][:4], lr == best[f]] for f in found for lr in RATES],
    )
    held = [(sphere, 0.1), (rosenbrock, 0.1), (ackley, 0.01), *((f, best[f]) for f in found)]
    for f, lr in held:
        gp, last, faster = found[f][lr][:3]
        beside = min(last, faster)
        yield at_most(f"{f.__name__}, lr {lr}: rounds, GP by the better control",
                      gp / beside if gp < math.inf else math.inf, 0.99)  # fmt: skip
    yield from _speed_up()
    yield from _verified()
    digits = classifier(0.003, 120)
    plain = run(digits, digits.reference).value
    rows = []
    for n in (2, 4, 8):
        others = (OptEx(n), OptEx(n, kernel=Held()), Descent(120 // n, lr=n), Descent(120 // n, batch=n))
        rows.append([n, 120 // n, digits.score(plain[120 // n - 1]),
                     *[digits.score(run(digits, m).value[-1]) for m in others]])  # fmt: skip
    yield Grid(
        "a classifier of digits, held-out loss after equal rounds",
        ["points", "rounds", "Adam", "GP", "last gradient held", "Adam, n x lr", "batch x n"], rows,
    )  # fmt: skip
    yield at_most("digits, 4 points: loss by Adam's at equal rounds", rows[1][3] / rows[1][2], 0.9)


def _verified() -> Iterator[Item]:
    """Rolling with the true gradients is safe, and pays only as far as the predictions are that good."""
    rows, changed = [], 0
    for f in (sphere, rosenbrock):
        start = minimised(f, 0.1, 0)
        problem = OptimizerPath(start.loss, start.params, adam(0.1), 60, objective=f)
        loop = run(problem, problem.reference)
        for verify in (0.0, 1e-6, 1e-4, 1e-2):
            one = run(problem, OptEx(POINTS, verify=verify), against=loop)
            changed += _path_error(one, loop) if verify == 0 else 0
            rows.append([f.__name__, verify, 60 / _span(one), one.distance])
    yield Grid("verified rounds, 60 steps", ["function", "verify", "steps by rounds", "RMS to the loop"], rows)
    yield exactly("verify = 0: entries of the path that differ from the loop's", changed, 0)


def _speed_up() -> Iterator[Item]:
    """Rounds against points: the exponent of n in (steps of the loop) / rounds."""
    series = {}
    for f in (sphere, rosenbrock):
        target = minimised(f, 0.1, 0).score(run(minimised(f, 0.1, 0), Descent(STEPS)).value[-1])
        series[f.__name__] = [(n, STEPS / rounds_to(minimised(f, 0.1, 0), OptEx(n), target, n)) for n in (1, 2, 4, 8)]
    yield Figure("steps of the loop by rounds, against points a round", "points", "steps by rounds", series)
    for name, points in series.items():
        x, y = (np.log([p[k] for p in points]) for k in (0, 1))
        yield at_least(f"{name}: exponent of the points in it", float(np.polyfit(x, y, 1)[0]), 0.5)
