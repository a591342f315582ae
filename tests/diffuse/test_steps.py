"""Many steps at once: exact at tolerance 0 for every kind of scheduler, the same on ranks, and counted as said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import abreast
from abreast import AbreastError, World, diffuse, zoo
from abreast.diffuse import PCM, ParaDiGMS, ParaStep, Sampling, train_pcm
from abreast.machine import Machine

from . import tiny

EXACT = [ParaDiGMS(7, 0.0), ParaStep(3, verify=0.0), ParaStep(1), ParaStep(4, warmup=99)]
SCHEDULERS = ["DDIMScheduler", "DDPMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler",
              "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"]  # fmt: skip


def mixture(steps: int = 30, rows: int = 4, seed: int = 1) -> Sampling:
    """The exact denoiser, float64, DDIM."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    noise = torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)).double()
    return Sampling(zoo.Mixture(components=4, shape=(16,), seed=0), scheduler, noise, steps=steps)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("method", EXACT, ids=abreast.label)
def test_exact_settings_are_the_sequential_sample(name: str, method: Any) -> None:
    problem = tiny.problem(name, dtype=torch.float64)
    run = abreast.run(problem, method, against=abreast.run(problem, problem.reference))
    assert run.kept and run.method.promise(problem) == abreast.IDENTICAL


@given(st.integers(1, 20), st.integers(1, 40), st.sampled_from(["sums", "v", "x0", "epsilon"]))
def test_paradigms_at_tolerance_0(window: int, steps: int, hold: Any) -> None:
    problem = mixture(steps, rows=2)
    run = abreast.run(problem, ParaDiGMS(window, 0.0, hold), against=abreast.run(problem, problem.reference))
    assert run.distance is not None and run.distance < 1e-9
    assert run.ledger.span <= steps


@pytest.mark.parametrize("method", [ParaDiGMS(8), ParaStep(4), ParaStep(3, reuse="newest")], ids=abreast.label)
def test_laws(method: Any) -> None:
    for name, holds in abreast.laws(method, mixture(12)):
        assert holds, name


@pytest.mark.parametrize(("p", "span"), [(2, 18), (4, 12), (8, 9), (1, 30)])
def test_parastep_counts(p: int, span: int) -> None:
    run = abreast.run(mixture(30), ParaStep(p))
    assert run.ledger.span == span == ParaStep(p).span(30)
    assert run.ledger.work == 30


def test_parastep_by_hand() -> None:
    """Each position walks ahead with what it evaluated itself in the last cycle."""
    problem, p, w = mixture(17), 3, 5
    denoise, x, scheduler = diffuse.Denoiser(problem, World().lane()), problem.x0, problem.fresh()
    own = []
    for i in range(w):
        out = denoise(i, x)
        own, x = [out] * p, problem.step(scheduler, i, out, x)
    for b in range(w, problem.length, p):
        n = min(p, problem.length - b)
        for r in range(n):
            ahead, y = diffuse.fork(scheduler), x
            for k in range(r):
                y = problem.step(ahead, b + k, own[r], y)
            own[r] = denoise(b + r, y)
        for r in range(n):
            x = problem.step(scheduler, b + r, own[r], x)
    apart = {how: problem.distance(abreast.run(problem, ParaStep(p, w, how)).value, x) for how in ("own", "newest")}
    assert apart["own"] < 1e-12 < apart["newest"]


def test_what_is_held_and_the_window_matter() -> None:
    problem = mixture(40)
    forms = [abreast.run(problem, ParaDiGMS(8, 0.1, form)) for form in ("sums", "v", "x0", "epsilon")]
    assert len({round(float(r.value.sum()), 9) for r in forms}) == 4
    for window in (1, 3, 8):
        sizes = [e.size for e in abreast.run(problem, ParaDiGMS(window)).ledger.events if e.kind == "denoise"]
        assert max(sizes) == window


def test_adapters_are_used_early_and_at_their_strength() -> None:
    torch.manual_seed(0)
    start = mixture(12, seed=2)
    problem = Sampling(Net().double(), start.scheduler, start.noise, steps=12)
    tuned = train_pcm(problem, rank=2, steps=3, batch=8)
    x, t = torch.randn(4, 16, dtype=torch.float64), torch.full((4,), 500)
    tuned.strength = torch.tensor([0.0, 0.5, 1.0, 1.0])
    mixed, plain = tuned(x, t), problem.denoiser.module(x, t)
    tuned.strength = 1.0
    full = tuned(x, t)
    assert torch.equal(mixed[0], plain[0]) and torch.equal(mixed[2:], full[2:])
    assert not torch.equal(mixed[1], plain[1]) and not torch.equal(mixed[1], full[1])
    with torch.no_grad():
        for weight in tuned.adapters():
            weight.add_(0.5 * torch.randn_like(weight))
    never = abreast.run(problem, PCM(tuned, 5, switch_after=None)).value
    assert not torch.equal(never, abreast.run(problem, ParaDiGMS(5)).value)


def test_paradigms_is_nearer_than_fewer_steps() -> None:
    problem = mixture(60)
    table = abreast.compare(problem, [ParaDiGMS(16, 0.05)])
    mine, *controls = (row.runs[0].distance for row in table.rows[1:])
    assert mine < min(controls) / 2


@pytest.mark.parametrize("method", [ParaDiGMS(6, 0.0), ParaDiGMS(8), ParaStep(2)], ids=abreast.label)
def test_ranks_in_one_process_in_virtual_time_and_on_processes(method: Any, pool2: Any) -> None:
    problem = mixture(20)
    alone = abreast.run(problem, method)
    inline = abreast.run(problem, method, world=World(2))
    virtual = abreast.run(problem, method, world=World(2, machine=Machine(latency=1e-6, link=1e9)))
    processes = abreast.run(problem, method, world=World(pool=pool2))
    assert torch.equal(inline.value, virtual.value) and torch.equal(inline.value, processes.value)
    assert problem.distance(inline.value, alone.value) < 1e-9
    assert inline.ledger.bytes == processes.ledger.bytes > 0
    assert inline.ledger.span == processes.ledger.span == alone.ledger.span
    assert virtual.ledger.makespan > 0
    assert inline.ledger.loose(inline.ledger.lane("0")) == []


def test_parasteps_traffic() -> None:
    problem = mixture(17)  # 5 plain steps, then three cycles of four on four ranks
    run = abreast.run(problem, ParaStep(4), world=World(4))
    state = problem.noise.numel() * problem.noise.element_size()
    assert run.ledger.bytes == 3 * (3 + 3) * state
    with pytest.raises(AbreastError, match="as many ranks"):
        abreast.run(problem, ParaStep(4), world=World(3))


class Net(nn.Module):
    """A denoiser with linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        t = torch.as_tensor(timestep, dtype=sample.dtype).expand(len(sample))[:, None] / 1000
        return sample * t + self.b(torch.tanh(self.a(sample)))


def test_pcm_ends_exact_even_with_ruined_adapters() -> None:
    torch.manual_seed(0)
    problem = mixture(12, seed=2)
    problem = Sampling(Net().double(), problem.scheduler, problem.noise, steps=12)
    tuned = train_pcm(problem, rank=2, steps=3, batch=8)
    with torch.no_grad():
        for weight in tuned.adapters():
            weight.add_(torch.randn_like(weight))
    test = mixture(12, seed=3)
    test = Sampling(problem.denoiser, test.scheduler, test.noise, steps=12)
    reference = abreast.run(test, test.reference)
    for method in (PCM(tuned, 5, 0.0), PCM(tuned, 5, 0.0, space="outputs")):
        assert abreast.run(test, method, against=reference).kept
    for name, holds in abreast.laws(PCM(tuned, 5), test):
        assert holds, name
    assert abreast.run(test, PCM(tuned, 5, switch_after=None)).method.promise(test) == abreast.MEASURED


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ParaDiGMS(0), "window >= 1"),
        (lambda: ParaDiGMS(tolerance=-1.0), "tolerance >= 0"),
        (lambda: ParaStep(0), "parallel >= 1"),
        (lambda: ParaStep(2, reuse="other"), "own or newest"),  # type: ignore[arg-type]
        (lambda: train_pcm(mixture(4)), "no linear map"),
        (lambda: abreast.run(mixture(4), ParaDiGMS(2, hold="other")), "held as"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_bad_settings_are_one_sentence(make: Any, said: str) -> None:
    with pytest.raises(AbreastError, match=said):
        make()
