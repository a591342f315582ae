"""The problem, its reference, its control and what the ledger says of them."""

from dataclasses import replace

import pytest
import torch

import abreast
from abreast import AbreastError, World, diffuse
from abreast.diffuse import FewerSteps, Guidance, Sampling, Sequential, fewer_steps
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.recurrence import StepChain
from abreast.diffuse.spacing import fewer

from . import tiny


def test_unet_reference_is_the_librarys_loop():
    from diffusers import DDIMScheduler

    net, noise, scheduler = tiny.unet(), torch.randn(2, 1, 8, 8), DDIMScheduler()
    problem = Sampling(net, scheduler, noise, steps=6)
    run = abreast.run(problem, problem.reference)
    scheduler.set_timesteps(6)
    with torch.no_grad():
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t).sample, t, x).prev_sample
    assert torch.equal(run.value, x) and not net.training
    assert run.ledger.span == run.ledger.work == 6 and run.ledger.calls("denoise") == 6


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [("uncond", "cond"), ("cond", "uncond")])
def test_guidance_counts_and_combines(together, order):
    net, noise = tiny.dit(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    net = net.double()
    labels, null = {"class_labels": torch.tensor([3, 5])}, {"class_labels": torch.tensor([1000, 1000])}
    guidance = Guidance(4.0, null, order, together)
    problem = Sampling(net, tiny.scheduler("DDIMScheduler"), noise, steps=4, cond=labels, guidance=guidance)
    world = World()
    denoise = Denoiser(problem, world.lane())
    both = denoise(1, problem.x0)
    assert world.ledger.work == world.ledger.span == 1
    assert world.ledger.calls("denoise") == (1 if together else 2)
    cond, uncond = (denoise(1, problem.x0, branch) for branch in ("cond", "uncond"))
    assert torch.allclose(both, uncond + 4.0 * (cond - uncond), atol=1e-12)
    assert world.ledger.work == world.ledger.span == 2
    with torch.no_grad():
        t = problem.scheduler.timesteps[1].expand(2)
        theirs = net(noise, timestep=t, **labels).sample[:, :4]
    assert torch.allclose(cond, theirs, atol=1e-12)


def test_many_indices_at_once():
    net, noise = tiny.dit().double(), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    labels, null = {"class_labels": torch.tensor([3, 5])}, {"class_labels": torch.tensor([1000, 1000])}
    problem = Sampling(net, tiny.scheduler("EulerDiscreteScheduler"), noise, 5, labels, Guidance(2.0, null))
    world = World()
    denoise = Denoiser(problem, world.lane())
    x = torch.randn(3, 2, 4, 8, 8, dtype=torch.float64)
    many = denoise([4, 0, 2], x)
    assert world.ledger.work == 3 and world.ledger.span == 1
    for row, i in enumerate((4, 0, 2)):
        assert torch.allclose(many[row], denoise(i, x[row]), atol=1e-12)
    shifted = denoise([4, 0], x[:2], at=[3, 1])
    assert not torch.allclose(shifted, many[:2])


def test_tiles_make_bits_independent_of_the_batch():
    net, noise = tiny.unet(), torch.randn(1, 1, 8, 8)
    problem = Sampling(net, tiny.scheduler("DDPMScheduler"), noise, steps=5, tile=4)
    denoise = Denoiser(problem, World().lane())
    x = torch.randn(5, 1, 1, 8, 8)
    many = denoise(range(5), x)
    assert all(torch.equal(many[i], denoise(i, x[i])) for i in range(5))


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler", "DDPMScheduler", "HeunDiscreteScheduler"])
@pytest.mark.parametrize("hold", ["output", "v"])
def test_recurrence_rolls_to_the_reference(name, hold):
    problem = tiny.problem(name, dtype=torch.float64)
    chain = StepChain(problem, hold)
    evaluate = chain.on(World().lane())
    x, carry = chain.x0, chain.carry0
    for i in range(chain.T):
        g = evaluate(torch.tensor([i]), x[None], torch.zeros(1))[0]
        kept = carry
        x, carry = chain.advance(i, x, g, carry)
        again, _ = chain.advance(i, x * 0, g, kept)
        assert again.shape == x.shape
    reference = abreast.run(problem, Sequential()).value
    assert problem.distance(x, reference) < (1e-9 if name != "HeunDiscreteScheduler" else 1e-4)
    assert hold == "v" or torch.equal(x, reference)


NOT_SHORTENED = {"CMStochasticIterativeScheduler", "IPNDMScheduler"}
SPACED = [name for name in (*tiny.FREE, *tiny.STATEFUL) if name not in NOT_SHORTENED]


@pytest.mark.parametrize("name", SPACED)
def test_controls_run_everywhere(name):
    problem = tiny.problem(name, steps=12)
    for method in fewer_steps(5.2):
        run = abreast.run(problem, method)
        assert torch.isfinite(run.value).all()
        assert 4 <= run.ledger.span <= 5 and run.ledger.work == run.ledger.span, method


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_more_steps_come_nearer(name):
    """On an exact denoiser the controls converge to the fine solution, whatever the solver's state space."""
    scheduler = tiny.scheduler(name, {"clip_sample": False} if name == "DDIMScheduler" else {})
    noise = torch.randn(8, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    exact, problem = (Sampling(tiny.mixture(scheduler), scheduler, noise, steps) for steps in (1000, 50))
    exact = abreast.run(exact, Sequential()).value
    for solver, spacing in ((None, "even"), (None, "quadratic"), ("dpm-solver++", "even")):
        methods = [FewerSteps(span, solver, spacing) for span in (6, 24)]
        errors = [problem.distance(abreast.run(problem, method).value, exact) for method in methods]
        assert errors[1] < errors[0] / 2 and errors[1] < 0.1, (solver, spacing, errors)


def test_full_span_is_the_reference():
    for name in ("DDIMScheduler", "DDPMScheduler", "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"):
        problem = tiny.problem(name)
        reference = abreast.run(problem, problem.reference)
        run = abreast.run(problem, FewerSteps(problem.length), against=reference)
        assert run.distance == 0 and list(run.method.controls(run)) == []


def test_first_order_multistep_is_ddim():
    """Even spacing by hand, through the class whose list may be replaced, equals the library's own DDIM."""
    from abreast.diffuse.spacing import _uneven

    problem = tiny.problem("DDIMScheduler", steps=10)
    uneven = problem.fresh()
    uneven.__class__ = _uneven(type(uneven))
    same = abreast.run(replace(problem, scheduler=uneven, steps=None), Sequential()).value
    assert torch.equal(same, abreast.run(problem, Sequential()).value)


def test_distance_and_columns():
    problem = tiny.problem("DDIMScheduler", {}, score=lambda x: {"mean": float(x.mean())})
    table = abreast.compare(problem, [FewerSteps(3)])
    facts = table[FewerSteps].facts()
    assert facts["columns"]["evaluations"] == 3 and facts["columns"]["psnr"] > 0 and "mean" in facts["quality"]
    x = table.reference.runs[0].value
    assert problem.distance(x + x.std() / 2, x) == pytest.approx(0.5, rel=1e-5)
    assert problem.distance(x * torch.nan, x) == float("inf")
    assert problem.rounding == 1e-3 and tiny.problem("DDIMScheduler", dtype=torch.float64).rounding == 1e-9
    assert tiny.problem("EulerDiscreteScheduler", dtype=torch.float64).rounding == 1e-3


def test_bad_input_is_one_sentence():
    ddim, noise = tiny.scheduler("DDIMScheduler"), torch.randn(1, 1, 4, 4)
    for match, make in {
        "no timesteps yet": lambda: Sampling(tiny.curve, ddim, noise),
        "floats with the samples": lambda: Sampling(tiny.curve, ddim, noise[0, 0, 0], 4),
        "steps must be": lambda: Sampling(tiny.curve, ddim, noise, 0),
        "a denoiser is": lambda: Sampling(3, ddim, noise, 4),
        "no option mu": lambda: Sampling(tiny.curve, ddim, noise, 4, options={"mu": 1}),
        "guidance is Guidance": lambda: Sampling(tiny.curve, ddim, noise, 4, guidance=7.5),
        "same form": lambda: Sampling(tiny.curve, ddim, noise, 4, cond={"a": noise}, guidance=Guidance(2.0)),
        "span is": lambda: FewerSteps(0),
        "spacing is": lambda: FewerSteps(3, spacing="log"),
        "cannot be set": lambda: Sampling(tiny.curve, tiny.scheduler("PNDMScheduler"), noise, 2),
        "already been stepped": lambda: Sampling(tiny.curve, stepped(), noise),
    }.items():
        with pytest.raises(AbreastError, match=match):
            make()


def stepped():
    problem = tiny.problem("EulerDiscreteScheduler")
    scheduler = problem.fresh()
    problem.step(scheduler, 0, problem.noise, problem.noise)
    return scheduler


def test_laws_hold():
    problem = tiny.problem("DDPMScheduler")
    assert all(ok for _, ok in abreast.laws(diffuse.FewerSteps(3), problem))


def test_fewer_steps_are_spaced_as_they_say():
    problem = tiny.problem("DDIMScheduler", steps=40)
    runs = {spacing: abreast.run(problem, FewerSteps(8, spacing=spacing)) for spacing in ("even", "quadratic")}
    assert [r.ledger.span for r in runs.values()] == [8, 8]
    assert not torch.equal(*(r.value for r in runs.values()))
    times = {s: fewer(problem.scheduler, 8, None, s).timesteps.double() for s in ("even", "quadratic")}
    gaps = {s: t[:-1] - t[1:] for s, t in times.items()}
    assert float(gaps["even"].max() - gaps["even"].min()) <= 1
    assert bool((gaps["quadratic"].diff() < 0).all())  # closer together towards the picture
