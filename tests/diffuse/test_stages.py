"""A network run in stages gives what it gives whole; sites are found by type."""

import threading

import pytest
import torch

from abreast import AbreastError, World
from abreast.diffuse import Sampling
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.stages import balanced

from . import pipes, tiny

KINDS = ["unet", "sd", "sdxl", "dit", "pixart", "sd3", "flux", "wan"]


def problem(kind):
    torch.manual_seed(0)
    if kind == "unet":
        return Sampling(tiny.unet().float(), tiny.scheduler("DDIMScheduler"), torch.randn(2, 1, 8, 8), steps=4)
    make, call = pipes.CALLS[kind]
    return Sampling.from_diffusers(make(), num_inference_steps=4, **call)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_stages_in_a_row_are_the_network(kind):
    denoise = Denoiser(problem(kind), World().lane())
    x = torch.randn_like(denoise.problem.x0)
    group = denoise.groups(denoise.branches)[0]
    inputs = denoise.inputs(1, x, group)
    whole = denoise.network.module(**inputs)[0]
    for n in (1, 2, 3, 5):
        stages = denoise.stages(n)
        carried, out = {}, None
        for k in range(n):
            left, out = stages(k, inputs, carried)
            assert (out is None) == (k < n - 1) and set(left) == set(stages.parts[k].units)
            carried |= left
        assert torch.equal(out[0], whole)
        assert 1 <= sum(part.share for part in stages.parts) < 1.5
        assert max(part.share for part in stages.parts) < 1 / n + 0.45
    assert torch.equal(denoise.network.module(**inputs)[0], whole)
    assert not any("forward" in vars(part) for part in denoise.network.module.modules())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_stage_takes_what_an_earlier_step_left(kind):
    """With the first stage's output of another state, the last stage sees that state and this step's timestep."""
    denoise = Denoiser(problem(kind), World().lane())
    x, old = torch.randn_like(denoise.problem.x0), torch.randn_like(denoise.problem.x0)
    group = denoise.groups(denoise.branches)[0]
    stages = denoise.stages(2)
    now = denoise.inputs(3, x, group)
    left, _ = stages(0, denoise.inputs(3, old, group), {})
    out = stages(1, now, left)[1][0]
    assert torch.equal(out, stages(1, now, left)[1][0])
    assert torch.equal(out, denoise.network.module(**denoise.inputs(3, old, group))[0])
    stale, _ = stages(0, denoise.inputs(0, old, group), {})
    assert not torch.equal(stages(1, now, stale)[1][0], out)
    wire = stages.wire(1, now, left)
    assert wire and set(wire) <= set(stages.parts[0].units)
    if kind in ("dit", "pixart"):
        assert len(wire) == 1
    if kind in ("unet", "sd"):
        assert len(wire) > 1


def test_ranks_as_threads_share_a_module():
    """Two threads, each in its own stage of the same module, one waiting inside of it for the other."""
    denoise = Denoiser(problem("dit"), World().lane())
    inputs = denoise.inputs(1, denoise.problem.x0)
    module, turns, outs = denoise.network.module, threading.Barrier(2, timeout=20), {}
    block = module.transformer_blocks[0].attn1

    def meet(*_):
        turns.wait()

    def rank(k):
        with torch.no_grad():
            outs[k] = cuts[k].replay(inputs, {})[1][0]

    with torch.no_grad():
        cuts = [denoise.stages(n) for n in (1, 2)]
        whole = module(**inputs)[0]
        handle = block.register_forward_pre_hook(meet)
    threads = [threading.Thread(target=rank, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    assert torch.equal(outs[0], whole) and torch.equal(outs[1], whole)
    assert not any("forward" in vars(part) for part in module.modules())


@torch.no_grad()
def test_outputs_of_a_call_in_parts():
    denoise = Denoiser(problem("sd"), World().lane())
    x = torch.randn(3, *denoise.problem.noise.shape)
    raw = denoise.network.module(**denoise.inputs([0, 2, 1], x))
    assert torch.equal(denoise.combine(denoise.outputs(raw, x)), denoise([0, 2, 1], x))
    denoise.record(1, share=0.25)
    ledger = denoise.lane.ledger
    assert ledger.work == 3.25 and ledger.span == 1.25


def test_balanced():
    assert balanced([1, 1, 1, 1], 2) == [2, 4]
    assert balanced([5, 1, 1, 1, 1], 2) == [1, 5]
    assert balanced([0, 0, 9], 3) == [1, 2, 3]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        costs = torch.rand(7, generator=generator).tolist()
        ends = balanced(costs, 3)
        best = min(max(sum(costs[:a]), sum(costs[a:b]), sum(costs[b:])) for a in range(1, 6) for b in range(a + 1, 7))
        assert max(sum(costs[a:b]) for a, b in zip([0, *ends], ends)) == pytest.approx(best)


@pytest.mark.parametrize(
    "kind, counts",
    [
        ("unet", {"attention": 4, "norm": True, "conv": True}),
        ("sd", {"attention": True, "cross": True, "norm": True, "conv": True}),
        ("dit", {"attention": 2, "patch": 1}),
        ("pixart", {"attention": 2, "cross": 2, "patch": 1}),
        ("sd3", {"joint": 2, "patch": 1}),
        ("flux", {"joint": 2, "attention": 2}),
        ("wan", {"attention": 2, "cross": 2, "patch": 1}),
    ],
)
def test_sites(kind, counts):
    denoise = Denoiser(problem(kind), World().lane())
    found = [site.kind for site in denoise.sites]
    for name in ("conv", "patch", "norm", "attention", "joint", "cross"):
        expected, number = counts.get(name, 0), found.count(name)
        assert number > 0 if expected is True else number == expected, (name, number)
    assert all(site.reach == (1, 1) for site in denoise.sites if site.kind == "conv")


def test_a_function_has_no_parts():
    denoise = Denoiser(tiny.problem("DDIMScheduler"), World().lane())
    for parts in (lambda: denoise.sites, lambda: denoise.stages(2)):
        with pytest.raises(AbreastError, match="no parts"):
            parts()
    denoise = Denoiser(problem("dit"), World().lane())
    with pytest.raises(AbreastError, match="cut it into"):
        denoise.stages(100)
