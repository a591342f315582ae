"""What each paper's headline comes to here: on exact denoisers, and on small ones trained on real pictures, from noise
that nothing was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from abreast import zoo
from abreast.core import Check, Figure, Grid, Method, Run, Table, at_least, at_most, claim, compare, exactly, run
from abreast.diffuse.problem import Sampling
from abreast.diffuse.recurrence import Sums
from abreast.diffuse.sequential import FewerSteps
from abreast.diffuse.steps.paradigms import ParaDiGMS
from abreast.diffuse.steps.parastep import ParaStep
from abreast.diffuse.steps.pcm import PCM, _Chain, _Switched, train_pcm
from abreast.solve.split import SplitRule
from abreast.workers import World


def noise(rows: int, *shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def linear(name: str, **facts: Any) -> Any:
    """A scheduler on 1000 linear betas, every value given."""
    import diffusers

    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
    return getattr(diffusers, name)(**betas, **facts)


def exact(steps: int, rows: int = 4, seed: int = 1, scheduler: Any = None) -> Sampling:
    """The exact denoiser of eight Gaussians in 16 dimensions."""
    scheduler = scheduler or linear("DDIMScheduler", clip_sample=False, set_alpha_to_one=True)
    denoiser = zoo.Mixture(components=8, shape=(16,), radius=4.0, variance=0.05, seed=0)
    return Sampling(denoiser, scheduler, noise(rows, 16, seed=seed, dtype=torch.float64), steps=steps)


@cache
def _digits(name: str) -> tuple[Any, Any]:
    return zoo.load_denoiser(name)


def digits(steps: int, rows: int = 8, scheduler: Any = None, name: str = "digits-dit", seed: int = 1) -> Sampling:
    """The transformer that was trained on handwritten digits of 32 x 32, two of each label asked for."""
    model, own = _digits(name)
    labels = torch.arange(rows) % 10
    cond = zoo.conditions(model, rows, labels)
    return Sampling(model, scheduler or own, noise(rows, 1, 32, 32, seed=seed), steps=steps, cond=cond)


def rms(found: Run, other: Run) -> float:
    """Root mean square difference of two samples."""
    return float((found.value.double() - other.value.double()).square().mean().sqrt())


def span(found: Run) -> float:
    return found.ledger.span


def far(found: Run) -> float:
    """From the reference's sample, in its standard deviations."""
    return found.distance or 0.0


def rows_of(title: str, problem: Sampling, reference: Run, methods: list[Method]) -> tuple[Grid, dict[Any, Run]]:
    """Methods beside each other: span, work and error; and their runs."""
    found = {m: run(problem, m, against=reference) for m in methods}
    rows = [[str(m), r.ledger.span, r.ledger.work, rms(r, reference)] for m, r in found.items()]
    return Grid(title, ("method", "span", "work", "RMS"), rows), found


@claim("paradigms", real="trained")
def paradigms() -> Iterator[Check | Grid | Table]:
    problem = exact(100)
    reference = run(problem, problem.reference)
    windows = [ParaDiGMS(w) for w in (8, 16, 32, 64)]
    grid, found = rows_of("exact mixture, DDIM 100", problem, reference, [*windows, ParaDiGMS(16, 0.0), FewerSteps(13)])
    yield grid
    for method, rounds in zip(windows, (18, 12, 10, 9)):
        yield at_most(f"mixture, T = 100, window {method.window}: rounds", span(found[method]), rounds + 2)
    worst = rms(found[ParaDiGMS(16)], reference) / rms(found[FewerSteps(13)], reference)
    yield at_most("mixture, window 16: RMS by that of 13 steps", worst, 1 / 5)
    yield exactly("mixture, tolerance 0: distance", found[ParaDiGMS(16, 0.0)].distance, 0.0)
    thousand = exact(1000, rows=1)
    long = run(thousand, ParaDiGMS(32), against=run(thousand, thousand.reference))
    yield at_most("mixture, DDIM 1000, window 32: rounds", span(long), 50)

    problem = digits(50)
    reference = run(problem, problem.reference)
    own = ParaDiGMS(16)
    fewer = FewerSteps(round(span(run(problem, own))))
    # Digits are nearly black and white: at 0.1 an iterate may settle on the other side of an edge. What a closer
    # tolerance costs stands beside it.
    others: list[Method] = [ParaDiGMS(8), ParaDiGMS(32), ParaDiGMS(16, 0.01), ParaDiGMS(32, 0.005)]
    grid, found = rows_of("digits-dit, DDIM 50", problem, reference, [own, *others, fewer])
    yield grid
    yield at_most("digits-dit, window 16, tolerance 0.1: rounds by steps", span(found[own]) / 50, 1 / 5)
    worst = rms(found[own], reference) / rms(found[fewer], reference)
    yield at_most("digits-dit, the same: RMS by that of fewer steps", worst, 1 / 5)

    ddpm = digits(1000, rows=2, scheduler=linear("DDPMScheduler", prediction_type="v_prediction", clip_sample=False))
    table = compare(ddpm, [ParaDiGMS(64)])
    yield table
    yield at_least("digits-dit, DDPM 1000, window 64: steps by rounds", 1000 / table[ParaDiGMS].sum(span), 6.0)
    for name in ("DDIMScheduler", "DPMSolverMultistepScheduler"):
        facts: dict[str, Any] = {"prediction_type": "v_prediction"}
        if name == "DDIMScheduler":
            facts |= {"clip_sample": False}
        problem = digits(100, rows=2, scheduler=linear(name, **facts))
        table = compare(problem, [ParaDiGMS(32)])
        yield table
        yield at_most(f"digits-dit, {name} 100: distance", table[ParaDiGMS].sum(far), 0.1)


@claim("parastep", real="trained")
def parastep() -> Iterator[Check | Grid]:
    problem = exact(50, rows=40)
    reference = run(problem, problem.reference)
    methods: list[Method] = [ParaStep(p, reuse=how) for p in (2, 4, 8) for how in ("own", "newest")]
    controls: list[Method] = [FewerSteps(s) for s in (28, 17, 11)]
    grid, found = rows_of("exact mixture, DDIM 50", problem, reference, [*methods, *controls, ParaStep(4, verify=0.0)])
    yield grid
    for p, s in ((2, 28), (4, 17), (8, 11)):
        yield exactly(f"mixture, {p} at once: span", span(found[ParaStep(p)]), float(s))
        worst = rms(found[ParaStep(p)], reference) / rms(found[FewerSteps(s)], reference)
        yield at_most(f"mixture, {p} at once: RMS by that of fewer steps", worst, 0.5)
    yield at_most("mixture, verified to the bit: distance", found[ParaStep(4, verify=0.0)].distance or 0.0, 1e-9)
    ranks = run(problem, ParaStep(4), world=World(4), against=reference)
    yield at_most("mixture, 4 ranks against one: difference", rms(ranks, found[ParaStep(4)]), 1e-9)
    state = problem.noise.numel() * problem.noise.element_size()
    # 45 steps after the warm-up: eleven cycles of 3 outputs and a state to 3 ranks; the last step all make themselves.
    yield exactly("mixture, 4 ranks: bytes of outputs and states", ranks.ledger.bytes, float(11 * (3 + 3) * state))

    problem = digits(50)
    reference = run(problem, problem.reference)
    grid, found = rows_of("digits-dit, DDIM 50", problem, reference, [*methods, *controls])
    yield grid
    for p, s in ((2, 28), (4, 17), (8, 11)):
        worst = rms(found[ParaStep(p)], reference) / rms(found[FewerSteps(s)], reference)
        yield at_most(f"digits-dit, {p} at once (own): RMS by that of fewer steps", worst, 0.7)


class Perceptron(nn.Module):
    """A small denoiser of points in 16 dimensions: three layers with skips, the timestep as sines."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.into, self.out = nn.Linear(16 + 32, width), nn.Linear(width, 16)
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        t = torch.as_tensor(timestep, dtype=sample.dtype).expand(len(sample))[:, None] / 1000
        waves = t * torch.exp(torch.linspace(0, 6, 16, dtype=sample.dtype))
        h = nn.functional.silu(self.into(torch.cat((sample, waves.sin(), waves.cos()), 1)))
        for layer in (self.one, self.two):
            h = h + nn.functional.silu(layer(h))
        return self.out(h)


def trained_perceptron(steps: int = 4000, seed: int = 0) -> nn.Module:
    """The perceptron, trained to denoise the mixture."""
    mixture = zoo.Mixture(components=8, shape=(16,), radius=4.0, variance=0.05, seed=0)
    torch.manual_seed(seed)
    net = Perceptron()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    bars, means = mixture.alphas_cumprod.float(), mixture.means.float()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        clean = means[torch.randint(8, (512,))] + 0.05**0.5 * torch.randn(512, 16)
        t, e = torch.randint(1000, (512,)), torch.randn(512, 16)
        a = bars[t][:, None]
        loss = (net(a.sqrt() * clean + (1 - a).sqrt() * e, t) - e).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.double()


@claim("picard-consistency", real="trained")
def picard_consistency() -> Iterator[Check | Grid | Figure]:
    net = trained_perceptron()
    scheduler = linear("DDIMScheduler", clip_sample=False, set_alpha_to_one=True)
    start = noise(512, 16, seed=2, dtype=torch.float64)
    tuned = train_pcm(Sampling(net, scheduler, start, steps=50), rank=32, steps=4000, batch=512)
    problem = Sampling(net, scheduler, noise(64, 16, seed=3, dtype=torch.float64), steps=50)
    reference = run(problem, problem.reference)
    lane = World().lane()
    curves = {"Picard": _errors(SplitRule(Sums(problem), lane), problem, reference)}
    for after in (1, 2, 3):
        method = PCM(tuned, window=50, switch_after=after)
        curves[f"PCM, switched after {after}"] = _errors(_Switched(_Chain(problem, method), lane), problem, reference)
    yield Figure("RMS to the fixed point", "sweep", "RMS", {k: list(enumerate(v, 1)) for k, v in curves.items()})
    first = {name: next(k for k, e in enumerate(errors, 1) if e <= 0.3) for name, errors in curves.items()}
    tail = {name: next(k for k, e in enumerate(errors, 1) if e <= 1e-2) for name, errors in curves.items()}
    names = list(curves)
    yield Grid("sweeps to an error", ("method", "0.3", "0.01"), [[n, first[n], tail[n]] for n in names])
    yield exactly("held-out noise: Picard's sweeps to RMS 0.3", first["Picard"], 3)
    yield exactly("held-out noise: PCM's sweeps to RMS 0.3", first["PCM, switched after 2"], 2)
    finish = run(problem, PCM(tuned, 16, 0.0), against=reference)
    yield at_most("tolerance 0: distance", finish.distance or 0.0, 1e-9)
    with torch.no_grad():
        for weight in tuned.adapters():
            weight.mul_(-3)
    ruined = run(problem, PCM(tuned, 16, 0.0), against=reference)
    yield at_most("ruined adapters, tolerance 0: distance", ruined.distance or 0.0, 1e-9)


@torch.no_grad()
def _errors(rule: SplitRule, problem: Sampling, reference: Run, sweeps: int = 12) -> list[float]:
    """RMS of the last state to the reference's after each sweep of the whole window."""
    T = problem.length
    x, ages, errors = problem.x0.expand(T + 1, *problem.x0.shape).clone(), torch.zeros(T, dtype=torch.long), []
    ages[0] = T
    for _ in range(sweeps):
        x = torch.cat((x[:1], rule.sweep(0, x, ages)))
        ages = ages + 1
        errors.append(float((x[-1] - reference.value).square().mean().sqrt()))
    return errors
