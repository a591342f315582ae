"""Kept features: against the blocks by hand, the settings in which they are the reference, and what they cost."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import abreast
from abreast import AbreastError, World
from abreast.diffuse import Guidance, Sampling
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.layers.feature_cache import FeatureCache
from abreast.diffuse.layers.foreground import ForegroundAttention, Mask, moving
from abreast.diffuse.layers.lightning import CachedSteps, Cycles, LightningCP
from abreast.diffuse.schedule import fork, step_at

from . import tiny


def picture(steps=9, name="DDIMScheduler"):
    return Sampling(tiny.unet().double(), tiny.scheduler(name), torch.randn(2, 1, 8, 8, dtype=torch.float64), steps)


def film(steps=9, guided=False, together=False, name="DDIMScheduler"):
    noise = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)
    cond, null = ({"encoder_hidden_states": torch.randn(2, 5, 16, dtype=torch.float64)} for _ in range(2))
    guidance = Guidance(3.0, null, together=together) if guided else None
    return Sampling(tiny.wan().double(), tiny.scheduler(name), noise, steps, cond, guidance)


def labelled(steps=9, guided=False, name="DDIMScheduler"):
    cond, null = ({"class_labels": torch.tensor(v)} for v in ([3, 5], [1000, 1000]))
    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    guidance = Guidance(3.0, null) if guided else None
    return Sampling(tiny.deep_dit().double().eval(), tiny.scheduler(name), noise, steps, cond, guidance)


def by_hand(problem, interval):
    """A transformer of four blocks, first and last shallow; every cycle by the letter of the card."""
    net, (a, b, c, d) = problem.denoiser.module, problem.denoiser.module.blocks
    text = problem.cond["encoder_hidden_states"]

    def run(x, i, added=None):
        t = problem.times[i].expand(len(x))
        temb, proj, enc, _ = net.condition_embedder(t, text, None, timestep_seq_len=None)
        rotary, args = net.rope(x), (enc, proj.unflatten(1, (6, -1)))
        first = a(net.patch_embedding(x).flatten(2).transpose(1, 2).contiguous(), *args, rotary)
        middle = c(b(first, *args, rotary), *args, rotary) if added is None else first + added
        h = d(middle, *args, rotary)
        shift, scale = (net.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        h = net.proj_out((net.norm_out(h.float()) * (1 + scale) + shift).type_as(h))
        h = h.reshape(len(x), 3, 4, 4, 1, 2, 2, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return h.flatten(6, 7).flatten(4, 5).flatten(2, 3), middle - first

    x, scheduler, i, T = problem.x0, problem.fresh(), 0, problem.length
    with torch.no_grad():
        while i < T:
            n = 1 if i < 2 or i >= T - 1 else min(interval, T - 1 - i)
            out, added = run(x, i)
            outs, ahead, other = [out], x, fork(scheduler)
            for k in range(1, n):
                ahead = step_at(other, i + k - 1, out, ahead)
                outs.append(run(ahead, i + k, added)[0])
            for k, value in enumerate(outs):
                x = step_at(scheduler, i + k, value, x)
            i += n
    return x


@pytest.mark.parametrize("name", ["DDIMScheduler", "UniPCMultistepScheduler"])
def test_cycles_are_the_ones_by_hand(name):
    problem = film(name=name)
    run = abreast.run(problem, LightningCP(3))
    near = problem.distance(run.value, by_hand(problem, 3))
    assert near < 1e-6 and problem.distance(run.value, by_hand(problem, 2)) > 20 * near
    beside = abreast.run(problem, CachedSteps(3))
    assert problem.distance(run.value, beside.value) > 20 * near


MAKE = [picture, film, labelled, lambda **k: film(guided=True, **k), lambda **k: film(guided=True, together=True, **k),
        lambda **k: labelled(guided=True, **k)]  # fmt: skip


@pytest.mark.parametrize("make", MAKE)
def test_laws(make):
    problem = make()
    for method in (LightningCP(3), CachedSteps(3)):
        assert all(ok for _, ok in abreast.laws(method, problem))
        assert str(method.promise(problem)) == "measured"
        assert str(replace(method, interval=1).promise(problem)) == "identical"
    reference = abreast.run(problem, problem.reference)
    full = abreast.run(problem, LightningCP(4, first=5, last=4), against=reference)
    assert full.kept and full.ledger.span == 9 and str(full.method.promise(problem)) == "identical"
    # Two steps a cycle: the shallow one stands where sequential caching has it, so the two are the same.
    same = [abreast.run(problem, kind(2)).value for kind in (LightningCP, CachedSteps)]
    assert problem.distance(*same) < 1e-6


@pytest.mark.parametrize("make", MAKE)
def test_a_key_state_seen_shallowly_gives_the_full_output(make):
    """The features of a state, put back at the same state and timestep, change nothing; nor do neighbours in a call."""
    problem = make()
    cache = FeatureCache(Denoiser(problem, World().lane()), 1)
    x = torch.randn_like(problem.x0)
    full = cache.key(4, x)
    again = cache.shallow(torch.tensor([4]), x[None])[0]
    assert problem.distance(again, full) < 1e-9 * (1 if make in (picture, labelled) else 1e4)
    many = cache.shallow(torch.tensor([6, 4, 5]), torch.stack([x * 0.9, x, x + 0.1]))
    assert problem.distance(many[1], full) < 1e-5
    other = cache.shallow(torch.tensor([5]), (x + 0.1)[None])[0]
    assert problem.distance(many[2], other) < 1e-5 < problem.distance(many[2], full)


@pytest.mark.parametrize("make", [picture, film, labelled])
@pytest.mark.parametrize("interval, steps", [(4, 12), (3, 9), (2, 4), (5, 3)])
def test_span_and_work_are_the_closed_form(make, interval, steps):
    problem = make(steps=steps)
    cache = FeatureCache(Denoiser(problem, World().lane()), 1)
    cache.key(0, problem.x0)
    cache.shallow(torch.tensor([0]), problem.x0[None])
    share = cache.denoiser.lane.ledger.events[-1].size
    assert 0.1 < share < 0.75
    method, other = LightningCP(interval), CachedSteps(interval)
    full, more = method.cycles(steps)
    run, beside = abreast.run(problem, method), abreast.run(problem, other)
    assert run.ledger.span == pytest.approx(method.span(steps, share)) == pytest.approx(full + more * share)
    assert beside.ledger.span == pytest.approx(other.span(steps, share)) == pytest.approx(full + (steps - full) * share)
    assert run.ledger.work == pytest.approx(beside.ledger.span) and beside.ledger.work == beside.ledger.span
    assert CachedSteps(interval) in list(run.method.controls(run))
    assert len(list(run.method.controls(run))) == 4


def test_the_cards_numbers():
    assert LightningCP(4).cycles(50) == (15, 12)
    assert LightningCP(4).span(50, 0.15) == pytest.approx(16.8) and LightningCP(4).span(50, 1 / 3) == pytest.approx(19)
    assert CachedSteps(4).span(50, 1 / 3) == pytest.approx(26.67, abs=0.01)
    window = Cycles(3, first=2, last=1)
    assert [window.end(b, 10) for b in (0, 1, 2, 5, 8, 9)] == [1, 2, 5, 8, 9, 10]


@pytest.mark.parametrize("make", [film, labelled, lambda **k: film(guided=True, together=True, **k)])
def test_foreground(make):
    problem = make()
    everywhere, none = (abreast.run(problem, LightningCP(3, foreground=f)) for f in (1.0, None))
    assert problem.distance(everywhere.value, none.value) < 1e-6
    assert all(ok for _, ok in abreast.laws(LightningCP(3, foreground=1.0), problem))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:4, 3] = True
    part = abreast.run(problem, LightningCP(3, foreground=mask))
    assert problem.distance(part.value, none.value) > 1e-4
    assert part.ledger.span < none.ledger.span
    assert abreast.label(part.method) == "LightningCP(interval=3, foreground=Mask(share=0.03125))"


def test_background_keeps_the_key_steps_attention():
    problem = labelled()
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0, 0] = True
    attention = ForegroundAttention(Mask.of(mask), problem.noise.shape)
    cache = FeatureCache(Denoiser(problem, World().lane()), 1, (), attention)
    seen = {}
    first = problem.denoiser.module.transformer_blocks[0].attn1
    handle = first.register_forward_hook(lambda m, a, out: seen.setdefault(len(seen), out))
    try:
        cache.key(4, problem.x0)
        cache.shallow(torch.tensor([5]), problem.x0[None] * 0.5)
    finally:
        handle.remove()
    before, after = seen[0], seen[1]
    assert attention.tokens().tolist() == [0]
    assert torch.equal(before[:, 1:], after[:, 1:]) and not torch.equal(before[:, 0], after[:, 0])


def test_what_moves():
    video = torch.zeros(1, 1, 6, 4, 4)
    video[:, :, ::2, 1, 2] = 1.0
    found = moving(video, 0.1)
    assert found.sum() == 1 and found[1, 2]
    assert moving(video, 1.0).all()
    run = abreast.run(film(), LightningCP(3, foreground=0.2))
    assert torch.isfinite(run.value).all()


class Referring(nn.Module):
    """Blocks that may look at a reference, in the shape of a transformer."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 4)
        self.transformer_blocks = nn.ModuleList(_Block() for _ in range(3))

    def forward(self, sample, timestep, reference=None):
        h = self.into(sample) + timestep[:, None, None].to(sample.dtype) / 1000
        for block in self.transformer_blocks:
            h = block(h, reference)
        return self.out(h)


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin, self.look = nn.Linear(8, 8), nn.Linear(4, 8)
        self.seen = []

    def forward(self, h, reference):
        self.seen.append(reference is not None)
        return h + self.lin(h).tanh() + (0 if reference is None else self.look(reference))


def test_reference_is_dropped_in_shallow_calls_alone():
    torch.manual_seed(0)
    net, noise = Referring(), torch.randn(1, 5, 4)
    problem = Sampling(net, tiny.scheduler("DDIMScheduler"), noise, 8, {"reference": torch.randn(1, 5, 4)})
    with_it = abreast.run(problem, LightningCP(4))
    for block in net.transformer_blocks:
        block.seen.clear()
    without = abreast.run(problem, LightningCP(4, drop_reference=("reference",)))
    assert problem.distance(with_it.value, without.value) > 1e-3
    assert not all(net.transformer_blocks[0].seen) and any(net.transformer_blocks[0].seen)
    assert all(net.transformer_blocks[1].seen)


def test_bad_input_is_one_sentence():
    for match, call in {
        "interval >= 1": lambda: LightningCP(0),
        "3 to|1 to 1": lambda: abreast.run(picture(), LightningCP(4, 2)),
        "4 blocks": lambda: abreast.run(film(), LightningCP(4, 2)),
        "none is deep": lambda: abreast.run(
            Sampling(
                tiny.dit().float(),
                tiny.scheduler("DDIMScheduler"),
                torch.randn(1, 4, 8, 8),
                3,
                {"class_labels": torch.tensor([1])},
            ),
            LightningCP(),
        ),
        "no parts": lambda: abreast.run(tiny.problem("DDIMScheduler"), LightningCP()),
        "no condition depth": lambda: abreast.run(film(), LightningCP(drop_reference=("depth",))),
        "true somewhere": lambda: LightningCP(foreground=torch.zeros(8, 8)),
        "the states": lambda: abreast.run(film(), LightningCP(foreground=torch.ones(4, 4))),
        "give a mask": lambda: abreast.run(labelled(), LightningCP(foreground=0.3)),
        "above 0": lambda: abreast.run(film(), LightningCP(foreground=1.5)),
        "no transformer block": lambda: abreast.run(picture(), LightningCP(foreground=torch.ones(8, 8))),
    }.items():
        with pytest.raises(AbreastError, match=match):
            call()
