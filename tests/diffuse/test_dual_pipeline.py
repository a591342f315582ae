"""Blocks of frames in a pipeline: against blocks by hand, on one device and several, in ticks, bytes and memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import abreast
from abreast import AbreastError, Ledger, World
from abreast.diffuse import Guidance, Sampling
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.frames.block_queue import Plan, continuity, starts, ticks
from abreast.diffuse.frames.dual_pipeline import DualPipeline
from abreast.diffuse.frames.shard import shards
from abreast.diffuse.schedule import step_at

from . import tiny


def video(frames=9, steps=4, name="DDIMScheduler", guided=False, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 4, frames, 4, 4, generator=generator)
    cond, null = ({"encoder_hidden_states": torch.randn(batch, 3, 16, generator=generator)} for _ in range(2))
    guidance = Guidance(3.0, null, ("cond", "uncond"), together=False) if guided else None
    return Sampling(tiny.wan().float(), tiny.scheduler(name), noise, steps, cond, guidance)


class Naive:
    """Attention with what another block left, written out."""

    def __init__(self, log, extra):
        self.log, self.extra = log, extra

    def __call__(self, attn, h, encoder_hidden_states=None, attention_mask=None, rotary_emb=None, **_):
        q, k, v = attn.to_q(h), attn.to_k(h), attn.to_v(h)
        self.log.append((k, v))
        cos, sin = self.extra["rotary"]
        if self.extra["kv"]:
            more = self.extra["kv"].pop(0)
            k, v = torch.cat([k, more[0]], 1), torch.cat([v, more[1]], 1)
        q, k = attn.norm_q(q), attn.norm_k(k)
        n, d = attn.heads, q.shape[-1] // attn.heads
        q, k, v = (t.view(t.shape[0], -1, n, d).transpose(1, 2) for t in (q, k, v))

        def turn(x):
            c, s = cos[0, : x.shape[2], 0], sin[0, : x.shape[2], 0]
            half = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
            return x * c + half * s

        weights = (turn(q) @ turn(k).transpose(-1, -2) / d**0.5).softmax(-1)
        out = (weights @ v).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


def by_hand(problem, F, C, share):
    """Two blocks, block 1 one step behind block 0; in an iteration block 1 passes first."""
    net, T = problem.denoiser.module, problem.length
    plan = Plan(problem.noise.shape[2], F, C, T)
    assert len(plan.lengths) == 2
    x = [t.clone() for t in starts(problem, plan, share)]
    schedulers = [problem.fresh() for _ in x]
    plain = [b.attn1.processor for b in net.blocks]

    def call(seen, i, kv):
        log, extra = [], {"kv": list(kv)}
        shape = list(seen.shape)
        shape[2] += C if kv else 0
        extra["rotary"] = net.rope(torch.zeros(shape))
        for b in net.blocks:
            b.attn1.processor = Naive(log, extra)
        try:
            with torch.no_grad():
                t = problem.times[i].expand(len(seen))
                return net(seen, t, problem.cond["encoder_hidden_states"], return_dict=False)[0], log
        finally:
            for b, p in zip(net.blocks, plain):
                b.attn1.processor = p

    for k in range(T + 1):
        kv, first = [], None
        if k >= 1:
            seen = torch.cat([x[0][:, :, -C:], x[1]], 2)
            first, log = call(seen, k - 1, [])
            kv = [(key[:, C * 4 : 2 * C * 4], value[:, C * 4 : 2 * C * 4]) for key, value in log]
        if k < T:
            out, _ = call(x[0], k, kv)
            x[0] = step_at(schedulers[0], k, out, x[0])
        if first is not None:
            x[1] = step_at(schedulers[1], k - 1, first[:, :, C:], x[1])
    return torch.cat(x, 2)


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("share", [True, False])
def test_two_blocks_are_the_blocks_by_hand(name, share):
    problem = video(frames=10, name=name)
    run = abreast.run(problem, DualPipeline(1, 4, 2, share))
    assert problem.distance(run.value, by_hand(problem, 4, 2, share)) < 1e-4
    assert problem.distance(run.value, by_hand(problem, 4, 2, not share)) > 1e-2


def test_without_context_blocks_are_separate_videos():
    problem = video(frames=11, name="DDPMScheduler")
    run = abreast.run(problem, DualPipeline(2, 4, 0, share_noise=False))
    plan = Plan(11, 4, 0, 4)
    assert plan.lengths == (3, 4, 4)
    for b in range(3):
        scheduler, x, denoiser = problem.fresh(), problem.x0[:, :, plan.slice(b)], Denoiser(problem, World().lane())
        for i in range(4):
            noise = problem.draw(i)[:, :, plan.slice(b)]
            x = step_at(scheduler, i, denoiser(i, x), x, noise)
        assert problem.distance(run.value[:, :, plan.slice(b)], x) < 1e-5


@pytest.mark.parametrize("guided, frames, block, context", [(True, 8, 3, 2), (False, 7, 2, 2), (False, 5, 4, 2)])
def test_laws(guided, frames, block, context):
    problem = video(frames, steps=3, guided=guided)
    method = DualPipeline(3, block, context)
    assert all(ok for _, ok in abreast.laws(method, problem))
    several, one = (abreast.run(problem, DualPipeline(n, block, context)).value for n in (3, 1))
    assert torch.equal(several, one)
    single = DualPipeline(2, frames, 0)
    run = abreast.run(problem, single, against=abreast.run(problem, problem.reference))
    assert run.kept and str(single.promise(problem)) == "identical"
    assert str(DualPipeline(2, 3, 0).promise(problem)) == "measured"


class Ticks:
    """A machine on which every stage takes one second, and messages none."""

    def seconds(self, event, kind):
        return float(event.kind == "denoise")


@given(steps=st.integers(1, 4), blocks=st.integers(1, 5), stages=st.integers(1, 4))
def test_ticks_are_the_closed_form(steps, blocks, stages):
    problem = video(frames=2 * blocks + 1, steps=steps)
    world = World(stages, machine=Ticks())
    ledger = abreast.run(problem, DualPipeline(stages, 2, 1), world).ledger
    assert ledger.makespan == ticks(steps, blocks, stages)
    # The same follows from what waits for what, without a clock.
    assert max(ledger._depths([float(e.kind == "denoise") for e in ledger.events])) == ledger.makespan


def test_the_cards_numbers():
    assert [ticks(50, blocks, 8) for blocks in (32, 8, 4)] == [1663, 505, 473]
    assert ticks(50, 1, 8) == 400 and ticks(50, 4, 1) == 200


def test_plan():
    plan = Plan(21, 8, 4, 5)
    assert plan.lengths == (5, 8, 8) and plan.edges == (5, 13)
    assert Plan(12, 8, 4, 5).lengths == (12,) and Plan(20, 8, 4, 5).lengths == (12, 8)
    tasks = list(plan.tasks())
    assert len(tasks) == 5 * 3 and all(t.step == t.iteration - t.block for t in tasks)
    assert [t.block for t in tasks if t.iteration == 2] == [2, 1, 0]
    assert [t.newest for t in tasks if t.iteration == 2] == [True, False, False]


def test_shared_noise_is_the_template_in_another_order():
    problem = video(frames=12)
    plan = Plan(12, 4, 2, 4)
    first, second, third = starts(problem, plan, True)
    assert first.shape[2] == 4 and torch.equal(first, problem.x0[:, :, 2:6])
    template = problem.x0[:, :, :6]
    assert sorted(second.sum((0, 1, 3, 4)).tolist()) == sorted(template[:, :, :4].sum((0, 1, 3, 4)).tolist())
    assert third.shape[2] == 4 and not torch.equal(third, second)
    own = list(starts(problem, plan, False))
    assert torch.equal(torch.cat(own, 2), problem.x0)


@pytest.mark.parametrize("guided", [False, True])
def test_bytes_memory_and_work(guided):
    steps, stages, F, C = 4, 3, 3, 2
    problem = video(frames=11, steps=steps, guided=guided)
    method = DualPipeline(stages, F, C)
    plan = method.plan(problem)
    run = abreast.run(problem, method)
    calls, hidden, latent, tokens = 1 + guided, 24 * 4, 4 * 4 * 4 * 4, 4
    sent = sum((t.before + t.own) * hidden * tokens * (stages - 1) * calls + t.own * latent for t in plan.tasks())
    assert run.ledger.bytes == sent
    facts = run.ledger.notes.values()
    assert sum(f.get("hidden", 0) + f.get("exposed", 0) for f in facts) == sent
    assert sum(f.get("hidden", 0) for f in facts) > sent / 2
    # Parameters of the stage, and keys and values of two blocks' first frames while one replaces the other.
    module, cut = problem.denoiser.module, shards(Denoiser(problem, Ledger().lane("0")), stages, plan.lengths[0])
    common = sum(p.numel() for p in module.parameters()) - sum(
        p.numel() for u in cut.units.values() for p in u.parameters()
    )
    for rank, part in enumerate(cut.parts):
        own = common + sum(p.numel() for name in part.units for p in module.get_submodule(name).parameters())
        layers = sum(name.startswith("blocks.") for name in part.units)
        cache = 2 * layers * C * tokens * 24 * 4 * calls
        peak = run.ledger.peak()[f"rank {rank}"]
        assert peak in (own * 4 + cache, own * 4 + 2 * cache)
    longer = abreast.run(video(frames=20, steps=steps, guided=guided), method)
    assert longer.ledger.peak() == run.ledger.peak()


def test_work_counts_operations_of_the_blocks():
    whole = video(frames=9)
    one = abreast.run(whole, DualPipeline(1, 9, 0))
    assert one.ledger.work == one.ledger.span == pytest.approx(4)
    several = abreast.run(whole, DualPipeline(2, 9, 0))
    assert 4 < several.ledger.work < 4.5 and several.ledger.span == pytest.approx(several.ledger.work)
    apart = abreast.run(whole, DualPipeline(1, 3, 0))
    assert 3.5 < apart.ledger.work < 4  # attention within blocks alone
    beside = abreast.run(whole, DualPipeline(1, 3, 3))
    assert beside.ledger.work > apart.ledger.work * 1.4
    controls = list(beside.method.controls(beside))
    assert len(controls) == 4 and controls[-1] == DualPipeline(1, 3, 0, False)


def test_continuity():
    smooth = torch.arange(12.0).view(1, 1, 12, 1, 1).expand(1, 1, 12, 2, 2)
    assert continuity(smooth, [4, 8]) == pytest.approx(1.0) and continuity(smooth, []) == 1.0
    jump = smooth + (torch.arange(12) >= 4).view(1, 1, 12, 1, 1) * 9.0
    assert continuity(jump, [4]) == pytest.approx(100.0) and continuity(jump, [8]) < 1


def test_bad_input_is_one_sentence():
    problem = video()
    for match, call in {
        "context <= block": lambda: DualPipeline(2, 4, 5),
        "stages >= 1": lambda: DualPipeline(0),
        "need a video, noise": lambda: abreast.run(tiny.problem("DDIMScheduler"), DualPipeline()),
        "not a function": lambda: abreast.run(
            Sampling(tiny.curve, tiny.scheduler("DDIMScheduler"), problem.noise, 3), DualPipeline()
        ),
        "has 80 positions": lambda: abreast.run(video(frames=81), DualPipeline(1, 40, 20)),
        "2 ranks": lambda: abreast.run(problem, DualPipeline(2, 4, 2), World(3)),
        "stages, not 50": lambda: abreast.run(problem, DualPipeline(50, 4, 2)),
    }.items():
        with pytest.raises(AbreastError, match=match):
            call()


def test_processes_give_the_same_bits(pool2):
    problem = video(frames=8, steps=2)
    inline, processes = (abreast.run(problem, DualPipeline(2, 3, 2), w) for w in (World(2), World(pool=pool2)))
    assert torch.equal(inline.value, processes.value)
    assert inline.ledger.bytes == processes.ledger.bytes and inline.ledger.span == processes.ledger.span
