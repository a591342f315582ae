"""Every scheduler: forks go on as if uninterrupted, free ones step in any order, batched steps equal single ones."""

import random
from importlib.util import find_spec

import pytest
import torch

from abreast import AbreastError, World
from abreast.diffuse import Sequential, batch_step, fork, held, scaled, sigma, step_at, tolerance_scale
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.schedule import memory

from . import tiny

CASES = [(name, config, {}) for name, config in {**tiny.FREE, **tiny.STATEFUL}.items()] + tiny.VARIANTS
CASES = [pytest.param(*case, id=f"{case[0]}-{'-'.join(map(str, {**case[1], **case[2]}))}") for case in CASES]
sde = pytest.mark.skipif(find_spec("torchsde") is None, reason="torchsde is not installed")
ALL = CASES + [pytest.param(name, {}, {}, id=name, marks=sde) for name in tiny.TREES]


def plain(problem):
    """The library's own loop on a fresh scheduler, a generator for every step and row."""
    s, x, states = tiny.scheduler(type(problem.scheduler).__name__, dict(problem.scheduler.config)), problem.x0, []
    s.set_timesteps(problem.steps)
    for i, t in enumerate(s.timesteps):
        seen = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        out = tiny.curve(seen, torch.as_tensor(t).expand(len(x)))
        more = dict(problem.options)
        if "generator" in s.step.__code__.co_varnames:
            more["generator"] = [torch.Generator().manual_seed(seed) for seed in problem._seeds(i)]
        x = s.step(out, t, x, **more).prev_sample
        states.append(x)
    return states


def walk(problem, scheduler, x, start):
    """States after `start` with a predictor that looks at nothing but index and state."""
    denoise, states = Denoiser(problem, World().lane()), []
    for i in range(start, problem.length):
        x = problem.step(scheduler, i, denoise(i, x), x)
        states.append(x)
    return states


@pytest.mark.parametrize("name, config, options", CASES)
def test_reference_is_the_librarys_loop(name, config, options):
    problem = tiny.problem(name, config, options=options)
    states = [x for _, x in Sequential().steps(problem, World())]
    for own, theirs in zip(states, plain(problem), strict=True):
        assert torch.equal(own, theirs)


@pytest.mark.parametrize("name, config, options", ALL)
def test_fork_in_the_middle(name, config, options):
    problem = tiny.problem(name, config, options=options)
    whole = walk(problem, problem.fresh(), problem.x0, 0)
    denoise, scheduler, x = Denoiser(problem, World().lane()), problem.fresh(), problem.x0
    for i in range(problem.length):
        branch = walk(problem, fork(scheduler), x, i)
        assert all(torch.equal(a, b) for a, b in zip(branch, whole[i:], strict=True))
        x = problem.step(scheduler, i, denoise(i, x), x)


@pytest.mark.parametrize("name, config, options", ALL)
def test_memory(name, config, options):
    problem = tiny.problem(name, config, options=options)
    assert problem.free == (name in tiny.FREE)
    assert torch.isfinite(tolerance_scale(problem.scheduler)).all() if name not in UNTOLD else True


@pytest.mark.parametrize("name, config, options", [case for case in CASES if case.values[0] in tiny.FREE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_order_and_batched(name, config, options, dtype):
    problem = tiny.problem(name, config, options=options, dtype=dtype)
    n, shape = problem.length, problem.noise.shape
    generator = torch.Generator().manual_seed(3)
    x, out, noise = (torch.randn(n, *shape, generator=generator, dtype=dtype) for _ in range(3))
    cursor = problem.fresh()
    rows = [step_at(cursor, i, out[i], x[i], noise[i], **options) for i in range(n)]
    order = random.Random(0).sample(range(n), n)
    for i in order:
        assert torch.equal(step_at(cursor, i, out[i], x[i], noise[i], **options), rows[i])
    index = [*order, order[0]]
    batch = batch_step(problem.scheduler, index, out[index], x[index], noise[index], **options)
    assert batch.dtype == rows[0].dtype
    assert all(torch.equal(a, rows[i]) for a, i in zip(batch, index, strict=True))


def test_scaling_ignores_what_was_asked_before():
    for name in (*tiny.FREE, *tiny.STATEFUL):
        problem = tiny.problem(name)
        lane = World().lane()
        denoise = Denoiser(problem, lane)
        single = [denoise(i, problem.x0) for i in range(problem.length)]
        for i in (3, 0, 5):
            assert torch.equal(denoise.scale(i, problem.x0), Denoiser(problem, lane).scale(i, problem.x0))
            assert torch.equal(denoise(i, problem.x0), single[i])


def test_rows_do_not_depend_on_the_batch():
    for name, config, options in (("DDPMScheduler", {}, {}), ("DDIMScheduler", {}, {"eta": 1.0})):
        many = Sequential().run(tiny.problem(name, config, batch=3, options=options), World())
        one = Sequential().run(tiny.problem(name, config, batch=1, options=options), World())
        assert torch.equal(many[:1], one)


UNTOLD = {"DPMSolverSDEScheduler", "CMStochasticIterativeScheduler"}


@pytest.mark.parametrize("name, config, options", [case for case in ALL if case.values[0] not in UNTOLD])
def test_held_outputs(name, config, options):
    """There and back again, at single and at many indices; the solver's own idea of the clean picture agrees."""
    problem = tiny.problem(name, config, options=options, dtype=torch.float64)
    scheduler, n = problem.scheduler, problem.length
    levels = sigma(scheduler)
    assert levels.shape == (n + 1,) and bool((levels[:-1] > 0).all() or "Ancestral" in name)
    inside = [i for i in range(n) if 1e-3 < levels[i] < 1e3]
    x, out = torch.randn(2, len(inside), *problem.noise.shape, dtype=torch.float64)
    for form in ("v", "x0", "epsilon"):
        said = held(scheduler, inside, out, x, "output", form)
        assert torch.allclose(held(scheduler, inside, said, x, form, "output"), out, atol=1e-8)
        assert torch.equal(held(scheduler, inside[0], out[0], x[0], "output", form), said[0])


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DDPMScheduler", "HeunDiscreteScheduler"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_clean_picture_is_the_schedulers(name, kind):
    config = {"prediction_type": kind} | ({"clip_sample": False} if name.startswith("DD") else {})
    problem = tiny.problem(name, config)
    x, out = torch.randn(2, *problem.noise.shape)
    theirs = problem.fresh()
    theirs._step_index = 0
    clean = theirs.step(out, theirs.timesteps[0], x, return_dict=True).pred_original_sample
    assert torch.allclose(held(problem.scheduler, 0, out, x, "output", "x0"), clean, rtol=1e-4, atol=1e-5)


def test_tolerance_scale_of_ddim_is_ddpms_posterior():
    ddim = tiny.problem("DDIMScheduler", steps=10)
    ddpm = tiny.problem("DDPMScheduler", steps=10)
    variance = [float(ddpm.scheduler._get_variance(t)) for t in ddpm.scheduler.timesteps]
    own = tolerance_scale(ddim.scheduler)
    assert torch.allclose(own[:-2], torch.tensor(variance[:-1]).double().sqrt(), rtol=1e-4)
    assert own[-2] == 0 and own[-1] == 0
    flow = tiny.problem("FlowMatchEulerDiscreteScheduler").scheduler
    assert torch.allclose(tolerance_scale(flow)[:-1], (flow.sigmas[:-1] - flow.sigmas[1:]).double())


def test_what_cannot_be_done_is_said():
    multi = tiny.problem("UniPCMultistepScheduler")
    x = multi.noise[None]
    with pytest.raises(AbreastError, match="remembers earlier steps"):
        batch_step(multi.scheduler, [0], x, x)
    ddpm = tiny.problem("DDPMScheduler")
    with pytest.raises(AbreastError, match="draws noise"):
        step_at(ddpm.fresh(), 0, ddpm.noise, ddpm.noise)
    with pytest.raises(AbreastError, match="draws of shape"):
        step_at(ddpm.fresh(), 0, ddpm.noise, ddpm.noise, ddpm.noise[:1])
    with pytest.raises(AbreastError, match="cannot be forked"):
        ddpm.scheduler.helper = object()
        fork(ddpm.scheduler)
    with pytest.raises(AbreastError, match="a diffusers scheduler is wanted"):
        fork(3)
    with pytest.raises(AbreastError, match="not known"):
        sigma(tiny.problem("CMStochasticIterativeScheduler", {"num_train_timesteps": 40}).scheduler)
    with pytest.raises(AbreastError, match="not as w"):
        held(multi.scheduler, 1, multi.noise, multi.noise, "output", "w")
    assert memory(multi.scheduler) >= {"model_outputs", "last_sample"}
    assert torch.equal(scaled(multi.scheduler, 2, multi.noise), multi.noise)
