"""Asynchronous stages: against a hand-made pipeline of the same blocks, at the settings where they are the reference,
and in what they cost."""

import threading
from dataclasses import replace
from math import ceil

import pytest
import torch

import abreast
from abreast import AbreastError, Ledger, World
from abreast.diffuse import Guidance, Sampling
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.layers.async_stages import AsyncStages
from abreast.diffuse.layers.relay import needs, packed, unpacked
from abreast.diffuse.sequential import loop

from . import tiny


def labelled(steps=7, batch=2, name="DDIMScheduler", **more):
    net, noise = tiny.dit().double().eval(), torch.randn(batch, 4, 8, 8, dtype=torch.float64)
    cond = {"class_labels": torch.tensor([3, 5, 7, 9])[:batch]}
    return Sampling(net, tiny.scheduler(name), noise, steps, cond, **more)


def picture(steps=7, name="DDIMScheduler", **more):
    noise = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    return Sampling(tiny.unet().double(), tiny.scheduler(name), noise, steps, **more)


def wan(steps=5, guidance=None):
    noise = torch.randn(1, 4, 3, 8, 8, dtype=torch.float64)
    cond, null = ({"encoder_hidden_states": torch.randn(1, 5, 16, dtype=torch.float64)} for _ in range(2))
    guidance = guidance and Guidance(3.0, null, ("cond", "uncond"), together=False)
    return Sampling(tiny.wan().double(), tiny.scheduler("DDIMScheduler"), noise, steps, cond, guidance)


def by_hand(problem, warmup, shift=0):
    """Two stages of a transformer with two blocks: the second on what the first gave a step ago."""
    net = problem.denoiser.module
    first, second = net.transformer_blocks
    labels, kept = problem.cond["class_labels"], {}

    def block(of, h, t):
        t = t.expand(len(h))
        return of(h, timestep=t, class_labels=labels, attention_mask=None, encoder_hidden_states=None,
                  encoder_attention_mask=None, cross_attention_kwargs=None)  # fmt: skip

    def predict(i, x):
        t = problem.times[i - (shift if i >= warmup else 0)]
        fresh = block(first, net.pos_embed(x), t)
        h = kept["h"] if i >= warmup else fresh
        kept["h"] = fresh
        h = block(second, h, t)
        emb = first.norm1.emb(t.expand(len(h)), labels, hidden_dtype=h.dtype)
        move, scale = net.proj_out_1(torch.nn.functional.silu(emb)).chunk(2, dim=1)
        h = net.proj_out_2(net.norm_out(h) * (1 + scale[:, None]) + move[:, None])
        h = h.reshape(-1, 4, 4, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", h).reshape(-1, 8, 8, 8)[:, :4]

    with torch.no_grad():
        run = loop(problem, predict)
        while True:
            try:
                next(run)
            except StopIteration as end:
                return end.value


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("warmup, shift", [(1, False), (3, False), (2, True)])
def test_two_stages_are_the_pipeline_by_hand(name, warmup, shift):
    problem = labelled(name=name)
    run = abreast.run(problem, AsyncStages(2, 1, warmup, shift))
    assert problem.distance(run.value, by_hand(problem, warmup, int(shift))) < 1e-12
    assert problem.distance(run.value, abreast.run(problem, problem.reference).value) > 1e-6


def test_output_derives_from_the_state_stages_minus_one_steps_ago():
    """A poke at the state of one step is first seen in the output `stages` - 1 steps later (without skips)."""
    problem = wan(steps=11)
    for method, lag in ((AsyncStages(2), 1), (AsyncStages(3), 2), (AsyncStages(4), 3)):
        seen = []
        for poke in (0.0, 1.0):
            outs = []
            watched = replace(problem, scheduler=_Watching(problem.fresh(), outs.append, at=5, poke=poke), steps=None)
            abreast.run(watched, method)
            seen.append(outs)
        changed = [i for i, (a, b) in enumerate(zip(*seen)) if not torch.equal(a, b)]
        # The poke is in what step 5 gives, so in the state of index 6.
        assert min(changed) == 6 + lag, (method, changed)


class _Watching:
    """A scheduler whose steps add nothing but a poke at one index, and that notes rank 0's outputs."""

    def __init__(self, inner, note, at, poke):
        self.note, self.at, self.poke = note, at, poke
        self.timesteps, self.config, self.init_noise_sigma = inner.timesteps, inner.config, 1.0
        self.num_inference_steps = inner.num_inference_steps
        self._step_index = None

    def scale_model_input(self, x, t=None):
        return x

    def step(self, out, t, x, return_dict=True):
        if x.shape[-1] == 8 and threading.current_thread().name == "rank 0":
            self.note(out.clone())
        return (x + (self.poke if self._step_index == self.at else 0.0),)


@pytest.mark.parametrize("make", [labelled, picture, wan, lambda: wan(guidance=True)])
def test_laws(make):
    problem = make()
    for method in (AsyncStages(2), AsyncStages(2, stride=2, time_shift=True)):
        assert dict(abreast.laws(method, problem)) == {
            "one stage is one step at a time": True,
            "warming up for ever is one step at a time": True,
        }
        assert method.promise(problem).name == "measured"
    reference = abreast.run(problem, problem.reference)
    same = abreast.run(problem, AsyncStages(3, warmup=problem.length), against=reference)
    assert same.kept and str(same.method.promise(problem)) == "identical"


@pytest.mark.parametrize("make", [labelled, picture, lambda **k: wan(guidance=True, **k)])
@pytest.mark.parametrize(
    "n, stride, warmup, steps", [(1, 2, 1, 6), (2, 1, 1, 7), (2, 2, 1, 7), (3, 2, 2, 9), (3, 1, 3, 5)]
)
def test_span_work_and_bytes_are_the_closed_form(make, n, stride, warmup, steps):
    problem, method = make(steps=steps), AsyncStages(n, stride, warmup)
    denoiser = Denoiser(problem, Ledger().lane("0"))
    stages = denoiser.stages(n)
    shares = [part.share for part in stages.parts]
    run = abreast.run(problem, method)
    assert run.ledger.span == pytest.approx(method.span(steps, max(shares)))
    active = ceil((steps - warmup) / stride)
    ranks = method.ranks
    assert run.ledger.work == pytest.approx(warmup * ranks + active * (sum(shares) + (stride - 1) * shares[-1]))
    groups = denoiser.groups(denoiser.branches)
    inputs = denoiser.inputs(0, problem.x0, groups[0])
    with torch.no_grad():
        made, _ = stages.replay(inputs, {})
    reads = needs(stages, inputs)
    sent = sum(len(packed([made[name] for name in names])) for names in [*reads, *[reads[-1]] * (stride - 1)] if names)
    picture = problem.noise.numel() * 8
    relayed, outputs = (active - 1) * len(groups) * sent, (steps - warmup) * (ranks - 1) * picture
    assert run.ledger.bytes == relayed + outputs
    # With a call for each branch, what one call gave travels while the other is made.
    hidden = relayed if len(groups) > 1 else 0
    assert run.ledger.total("hidden") == hidden and run.ledger.total("exposed") == relayed + outputs - hidden
    controls = list(run.method.controls(run))
    assert len(controls) == 3 and all(c.span == max(1, round(run.ledger.span)) for c in controls)


def test_needs_are_what_a_stage_reads():
    denoiser = Denoiser(labelled(), Ledger().lane("0"))
    assert [len(names) for names in needs(denoiser.stages(3), denoiser.inputs(0, denoiser.problem.x0))] == [0, 1, 1]
    problem = picture()
    denoiser = Denoiser(problem, Ledger().lane("0"))
    stages, inputs = denoiser.stages(3), denoiser.inputs(0, problem.x0)
    reads = needs(stages, inputs)
    assert reads[0] == [] and "conv_in" in reads[2] and "conv_in" not in reads[1]
    # What is not read may be anything.
    with torch.no_grad():
        made, whole = stages.replay(inputs, {})
        for k, part in enumerate(stages.parts):
            spoilt = {n: v if n in reads[k] else tree_nan(v) for n, v in made.items()}
            mine, out = stages(k, inputs, spoilt)
            assert all(torch.equal(packed(mine[name]), packed(made[name])) for name in part.units)
    assert torch.equal(out[0], whole[0])


def tree_nan(value):
    from torch.utils._pytree import tree_map

    return tree_map(lambda t: t * torch.nan, value)


def test_packing():
    tree = (torch.randn(2, 3), (torch.arange(5), None), torch.randn(3, 4).half().T)
    back = unpacked(packed(tree), tree)
    assert back[1][1] is None and all(
        torch.equal(a, b) for a, b in zip((back[0], *back[1][:1], back[2]), (tree[0], tree[1][0], tree[2]))
    )


def test_virtual_time_shows_the_exposed_traffic():
    problem = picture()
    times = []
    for link in (1e12, 1e6):
        world = World(2, machine=_Priced(link))
        run = abreast.run(problem, AsyncStages(2), world)
        times.append(run.ledger.makespan)
        seconds, volume = run.ledger.exposed()
        assert 0 < seconds < run.ledger.makespan and 0 < volume <= run.ledger.bytes
    assert times[0] == pytest.approx(run.ledger.span * 1e-2, rel=1e-4) and times[1] > 1.5 * times[0]


class _Priced:
    def __init__(self, link):
        self.link = link

    def seconds(self, event, kind):
        return event.bytes / self.link if event.bytes else event.size * 1e-2


def test_bad_input_is_one_sentence():
    problem = picture()
    for match, call in {
        "stages >= 1": lambda: AsyncStages(0),
        "stride 1 or 2": lambda: AsyncStages(2, 3),
        "warmup >= 1": lambda: AsyncStages(2, 1, 0),
        "no parts": lambda: abreast.run(tiny.problem("DDIMScheduler"), AsyncStages()),
        "3 ranks": lambda: abreast.run(problem, AsyncStages(2, 2), World(2)),
        "stages, not 99": lambda: abreast.run(problem, AsyncStages(99)),
    }.items():
        with pytest.raises(AbreastError, match=match):
            call()


def test_processes_give_the_same_bits(request):
    try:
        pool2 = request.getfixturevalue("pool2")
    except pytest.FixtureLookupError:
        pytest.skip("this checkout has no pool of processes")
    problem = picture()
    inline, processes = (abreast.run(problem, AsyncStages(2), w) for w in (World(2), World(pool=pool2)))
    assert torch.equal(inline.value, processes.value)
    assert inline.ledger.bytes == processes.ledger.bytes and inline.ledger.span == processes.ledger.span
