"""A captured pipeline's reference is the pipeline's own run, bit for bit."""

import functools

import pytest
import torch

import abreast
from abreast import AbreastError
from abreast.diffuse import FewerSteps, Sampling
from abreast.diffuse.schedule import accepts

from . import pipes, tiny

NO_LATENTS = ("ddim", "ddpm", "dit", "dit without guidance")


def keyed(problem, pipe):
    """Let the pipeline's own loop draw the problem's noise: a generator for every step and row."""
    plain, count = pipe.scheduler.step, [0]
    if not accepts(pipe.scheduler, "generator"):
        return
    rows = len(problem.noise)

    @functools.wraps(plain)
    def step(*args, **more):
        more["generator"] = [torch.Generator().manual_seed(s) for s in problem._seeds(count[0] % problem.length)][:rows]
        count[0] += 1
        return plain(*args, **more)

    pipe.scheduler.step = step


@pytest.mark.parametrize("name", pipes.CALLS)
def test_reference_is_the_pipelines_run(name):
    torch.manual_seed(0)
    make, call = pipes.CALLS[name]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(4)
    call = {**call, "num_inference_steps": 5, "generator": generator}
    problem = Sampling.from_diffusers(pipe, **call)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(4).get_state())
    run = abreast.run(problem, problem.reference)
    assert run.ledger.span == run.ledger.work == problem.length == 5
    if name == "lcm":
        keyed(problem, pipe)
    if name in NO_LATENTS:
        plain = torch.from_numpy(pipe(**call, output_type="np").images).movedim(-1, 1)
        assert torch.equal(problem.decode(run.value), plain)
    else:
        latents = pipe(**call, output_type="latent")[0]
        assert torch.equal(run.value, latents)
        generator.manual_seed(4)
        pictures = pipe(**call, output_type="pt")[0]
        assert torch.equal(problem.decode(run.value), pictures)
    assert "step" not in vars(pipe.scheduler) or name == "lcm"
    assert problem.guidance is None or set(problem.guidance.order) == {"cond", "uncond"}


@pytest.mark.parametrize("name", pipes.CALLS)
def test_many_indices_and_controls(name):
    torch.manual_seed(0)
    make, call = pipes.CALLS[name]
    problem = Sampling.from_diffusers(make(), num_inference_steps=6, seed=2, **call)
    from abreast.diffuse.denoise import Denoiser

    denoise = Denoiser(problem, abreast.World().lane())
    x = torch.randn(3, *problem.noise.shape)
    many = denoise([5, 0, 3], x)
    for row, i in enumerate((5, 0, 3)):
        assert torch.allclose(many[row], denoise(i, x[row]), atol=1e-5)
    reference = abreast.run(problem, problem.reference)
    for method in (FewerSteps(3), FewerSteps(3, "dpm-solver++", "quadratic")):
        run = abreast.run(problem, method, against=reference)
        assert run.ledger.span == 3 and run.distance < 30


def test_ddpm_with_the_same_noise():
    """DDPM's pipeline hands its generator on: given the problem's keyed ones it gives the problem's bits."""
    torch.manual_seed(0)
    pipe = pipes.ddpm()
    call = {"batch_size": 2, "num_inference_steps": 5}
    problem = Sampling.from_diffusers(pipe, seed=1, **call)
    value = abreast.run(problem, problem.reference).value
    keyed(problem, pipe)
    plain = pipe(**call, output_type="np", generator=torch.Generator().manual_seed(1)).images
    assert torch.equal(problem.decode(value), torch.from_numpy(plain).movedim(-1, 1))


SCHEDULERS = {
    "PNDMScheduler": {"skip_prk_steps": True, "steps_offset": 1}, "EulerDiscreteScheduler": {"steps_offset": 1},
    "HeunDiscreteScheduler": {"steps_offset": 1}, "UniPCMultistepScheduler": {}, "LMSDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {}, "EulerAncestralDiscreteScheduler": {}, "LCMScheduler": {},
    "DPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"}, "DDPMScheduler": {"clip_sample": False},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_in_a_pipeline(name):
    torch.manual_seed(0)
    pipe = pipes.sd(tiny.scheduler(name, SCHEDULERS[name]), text=False)
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 8, "width": 8, "num_inference_steps": 5, "num_images_per_prompt": 2, **pipes.TWO}
    problem = Sampling.from_diffusers(pipe, seed=3, **call)
    value = abreast.run(problem, problem.reference).value
    keyed(problem, pipe)
    plain = pipe(**call, output_type="latent", generator=torch.Generator().manual_seed(3)).images
    assert torch.equal(value, plain)


def test_eta_is_kept():
    torch.manual_seed(0)
    call = {"height": 8, "width": 8, "num_inference_steps": 5, **pipes.TWO}
    problem = Sampling.from_diffusers(pipes.sd(text=False), eta=0.5, **call)
    assert problem.options == {"eta": 0.5}
    assert torch.isfinite(abreast.run(problem, FewerSteps(3, "dpm-solver++")).value).all()


def test_the_same_seed_is_the_same_problem():
    pipe = pipes.sd()
    one, two, three = (Sampling.from_diffusers(pipe, prompt="a", num_inference_steps=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.x0, two.x0) and not torch.equal(one.x0, three.x0)


def test_what_does_not_fit_is_said():
    torch.manual_seed(0)
    pipe = pipes.sd(text=False)
    call = dict(height=8, width=8, num_inference_steps=4, **pipes.TWO)
    with pytest.raises(AbreastError, match="something else than plain"):
        Sampling.from_diffusers(pipe, guidance_rescale=0.7, **call)
    with pytest.raises(AbreastError, match="callback"):
        Sampling.from_diffusers(pipe, callback_on_step_end=print, **call)
    from diffusers import StableDiffusionImg2ImgPipeline

    middle = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(AbreastError, match="as from an image"):
        Sampling.from_diffusers(middle, image=torch.zeros(1, 3, 8, 8), num_inference_steps=4, **pipes.TWO)
    with pytest.raises(AbreastError, match="a diffusers pipeline"):
        Sampling.from_diffusers(tiny.unet())
    flow = tiny.scheduler("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True})
    with pytest.warns(UserWarning, match="hands no generator"):
        Sampling.from_diffusers(pipes.flux(flow), num_inference_steps=3, **pipes.CALLS["flux"][1])


def test_guidance_that_changes_is_refused():
    torch.manual_seed(0)
    pipe = pipes.sd(text=False)
    scale = type(pipe).guidance_scale

    class Rising(type(pipe)):
        @property
        def guidance_scale(self):
            self.asked = getattr(self, "asked", 0) + 1
            return scale.fget(self) + 0.1 * self.asked

    pipe.__class__ = Rising
    with pytest.raises(AbreastError, match="changes its guidance"):
        Sampling.from_diffusers(pipe, height=8, width=8, num_inference_steps=4, **pipes.TWO)
