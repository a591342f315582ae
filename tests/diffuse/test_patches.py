"""Strips of a picture: what must equal the whole picture does, bytes are the closed forms, modules come back whole."""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import abreast
from abreast import AbreastError, World
from abreast.diffuse import Sampling, Sequential
from abreast.diffuse.patches import sites
from abreast.diffuse.patches.displaced import DisplacedPatch
from abreast.diffuse.patches.naive import NaivePatch
from abreast.diffuse.patches.partial import PartialPatch
from abreast.diffuse.patches.strips import Strips, cut
from abreast.machine import Machine

from . import pictures, pipes, tiny

EXACT = 1e-12


def far(problem, one, other, world=World):
    return problem.distance(abreast.run(problem, one, world()).value, abreast.run(problem, other, world()).value)


@pytest.mark.parametrize("kind", pictures.KINDS)
@pytest.mark.parametrize("split", [(8,), (2, 6), (2, 2, 2, 2)])
def test_never_late_is_the_whole_picture(kind, split):
    problem = pictures.problem(kind, steps=2)
    method = DisplacedPatch(len(split), problem.length, split=split)
    if kind == "dit":
        method = PartialPatch(len(split), warmup=math.inf, split=split)
    run = abreast.run(problem, method, against=abreast.run(problem, Sequential()))
    assert method.promise(problem) == abreast.IDENTICAL
    assert run.distance < EXACT


@pytest.mark.parametrize("kind", ["unet-text", "dit", "pixart"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("branches", [1, 2])
def test_guidance(kind, together, branches):
    problem = pictures.problem(kind, 3, batch=1, guided=True, together=together)
    reference = abreast.run(problem, Sequential())
    run = abreast.run(problem, DisplacedPatch(2, math.inf, split=(2, 6), branches=branches), against=reference)
    assert run.distance < EXACT
    assert 0.99 <= run.ledger.work / problem.length < 1.2  # a prompt's keys are computed once
    assert 0.74 / branches <= run.ledger.span / problem.length < 0.85 / branches
    late = DisplacedPatch(2, 2)
    assert far(problem, late, replace(late, branches=2)) < EXACT


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_laws(kind):
    problem = pictures.problem(kind)
    for method in (DisplacedPatch(2, 1), PartialPatch(4, 0.3, 1), NaivePatch(2)):
        held = dict(abreast.laws(method, problem))
        assert held and all(held.values()), held


@pytest.mark.parametrize("kind", ["unet", "dit", "pixart"])
@pytest.mark.parametrize("split", [(2, 6), (2, 2, 4)])
def test_a_portion_of_everything_is_displaced_to_the_bit(kind, split):
    problem, n = pictures.problem(kind), len(split)
    partial = abreast.run(problem, PartialPatch(n, n - 1.0, 2, split=split))
    displaced = abreast.run(problem, DisplacedPatch(n, 2, split=split))
    assert torch.equal(partial.value, displaced.value)
    assert partial.ledger.work == displaced.ledger.work and partial.ledger.bytes == displaced.ledger.bytes


@contextmanager
def shapes(problem):
    """(site, input shape, output shape) of one plain evaluation, in order."""
    from abreast.diffuse.denoise import Denoiser

    seen, handles = [], []
    for site in sites.find(problem.denoiser.module):

        def hook(m, args, out, site=site):
            if site.kind != "attention":
                seen.append((site, args[0].shape if args else None, out.shape))

        handles.append(site.module.register_forward_hook(hook))
    Denoiser(problem, World().lane())(0, problem.x0)
    for handle in handles:
        handle.remove()
    yield seen


def closed_form(problem, split, portion=None):
    """Bytes of one step on all links: keys and values, border rows, statistics; and of the output's gather."""
    n, size, step, early = len(split), problem.noise.element_size(), 0, 0
    strips = Strips(split)
    with shapes(problem) as seen:
        for site, x, out in seen:
            if site.kind == "norm":
                both = 2 * x[0] * site.module.num_groups * n * (n - 1)
            elif site.kind == "conv":
                both = 0 if site.first else (n - 1) * sum(site.halo) * x[0] * x[1] * x[3]
            elif site.kind == "keys":
                both, tokens = out[0] * out[1] * out[2] * (n - 1), out[1]
                if portion is not None:
                    early += both
                    reach = [strips.within(r, portion, tokens) for r in range(n)]
                    own = [strips.bounds(r, tokens) for r in range(n)]
                    both = out[0] * out[2] * sum(b - a - (d - c) for (a, b), (c, d) in zip(reach, own))
                    early -= both
            else:
                continue
            step += both
    return step * size, early * size, problem.noise.numel() * (n - 1) * size


@pytest.mark.parametrize("kind", ["unet", "unet-padded", "unet-text", "dit"])
@pytest.mark.parametrize("split,portion", [((2, 6), None), ((2, 2, 2, 2), 0.3), ((2, 2, 2, 2), 1.4)])
def test_bytes_are_the_closed_form(kind, split, portion):
    problem, w, n = pictures.problem(kind, steps=4, batch=1), 1, len(split)
    step, early, output = closed_form(problem, split, portion)
    method = DisplacedPatch(n, w, split=split) if portion is None else PartialPatch(n, portion, w, split=split)
    ledger = abreast.run(problem, method).ledger
    T = problem.length
    assert ledger.total("hidden") == (T - w - 1) * step
    assert ledger.total("exposed") == w * (step + early) + T * output
    assert ledger.total("hidden") + ledger.total("exposed") == ledger.bytes
    frozen = abreast.run(problem, DisplacedPatch(n, w, "separate", split, refresh=False)).ledger
    assert frozen.total("hidden") == 0 and frozen.bytes == w * (step + early) + T * output
    assert abreast.run(problem, NaivePatch(n, split)).ledger.bytes == T * output


@pytest.mark.parametrize("kind", ["unet", "dit", "unet-text"])
def test_work_is_shared(kind):
    problem = pictures.problem(kind, steps=3)
    for n, split in ((4, (2, 2, 2, 2)), (2, (2, 6))):
        ledger = abreast.run(problem, DisplacedPatch(n, 1, split=split)).ledger
        assert 0.99 <= ledger.work / problem.length < 1.5  # embeddings of time are computed by every rank
        assert max(split) / 8.1 <= ledger.span / problem.length < max(split) / 8 + 0.12
        assert {e.lane for e in ledger.events if e.kind == "denoise"} == {f"rank {r}" for r in range(n)}
        partial = abreast.run(problem, PartialPatch(n, 0.3, 1, split=split)).ledger
        assert partial.work <= ledger.work


def test_staleness_is_one_step():
    """With norm="sync" and one site, late outputs are those of a network that sees the others' parts of before."""
    exchange, log = abreast.diffuse.patches.exchange, {0: [], 1: []}

    def worker(team):
        site = exchange.StaleExchange(team, 2, exchange.Everyone(), last=4)
        frozen = exchange.StaleExchange(team, 2, exchange.Everyone(), refresh=False)
        for step in range(5):
            own = torch.tensor([10.0 * team.rank + step])
            log[team.rank].append((site(step, own)[1 - team.rank].item(), frozen(step, own)[1 - team.rank].item()))

    World(2).map(worker)
    assert [a for a, _ in log[0]] == [10, 11, 11, 12, 13] and [a for a, _ in log[1]] == [0, 1, 1, 2, 3]
    assert [b for _, b in log[0]] == [10, 11, 11, 11, 11]


@pytest.mark.parametrize("norm", ["corrected", "stale", "separate", "sync"])
def test_norms_differ_only_when_late(norm):
    problem = pictures.problem("unet", steps=6)
    exact = abreast.run(problem, DisplacedPatch(2, 6, norm))
    late = abreast.run(problem, DisplacedPatch(2, 3, norm))
    reference = abreast.run(problem, Sequential())
    assert problem.distance(exact.value, reference.value) < EXACT
    assert 1e-6 < problem.distance(late.value, reference.value) < 1


def test_late_transfers_hide_behind_computing():
    """In virtual time: a link that doubles a synchronous step costs a late one little."""
    problem, w, n = pictures.problem("unet", steps=8), 1, 4
    step, _, _ = closed_form(problem, (2, 2, 2, 2))
    # A step computes for 1 / n seconds, and its transfers keep the link busy for as long.
    machine = Machine("four devices", flops=problem.flops, link=step)
    late, sync = (abreast.run(problem, DisplacedPatch(n, warmup), World(machine=machine)) for warmup in (w, math.inf))
    assert 1.7 < sync.ledger.makespan * n / problem.length < 2.6
    assert late.ledger.makespan < 0.75 * sync.ledger.makespan
    assert late.ledger.makespan >= late.ledger.span
    inline = abreast.run(problem, DisplacedPatch(n, w))
    assert torch.equal(inline.value, late.value) and inline.ledger.bytes == late.ledger.bytes


def test_modules_come_back():
    net = pictures.network("unet")
    before = {name: set(vars(m)) for name, m in net.named_modules()}
    problem = pictures.problem("unet")
    abreast.run(problem, DisplacedPatch(4, 1))
    with pytest.raises(AbreastError, match="ranks"):
        abreast.run(problem, DisplacedPatch(4, 1), World(3))

    def broken(team):
        with sites.installed(net):
            if team.rank == 1:
                raise AbreastError("broken")
            team.barrier()

    with pytest.raises(AbreastError, match="broken"):
        World(2).map(broken)
    assert {name: set(vars(m)) for name, m in net.named_modules()} == before and not sites._installed


def test_schedulers_with_memory_and_thresholding():
    for name, config in {"UniPCMultistepScheduler": {}, "DDPMScheduler": {"thresholding": True}}.items():
        problem = replace(pictures.problem("unet"), scheduler=tiny.scheduler(name, config), steps=4)
        reference = abreast.run(problem, Sequential())
        assert abreast.run(problem, DisplacedPatch(2, 4), against=reference).kept


def test_tiles():
    problem = replace(pictures.problem("dit", batch=3), tile=2)
    assert far(problem, Sequential(), DisplacedPatch(2, math.inf)) < EXACT


@given(st.integers(1, 6), st.integers(1, 20), st.sampled_from([1, 2, 4]))
def test_strips_cover_the_picture(n, units, multiple):
    rows = units * multiple
    if n > units:
        with pytest.raises(AbreastError, match="at most"):
            cut(rows, n, multiple)
        return
    strips = cut(rows, n, multiple)
    assert sum(strips.sizes) == rows and max(strips.sizes) - min(strips.sizes) <= multiple
    x = torch.arange(3 * rows).reshape(1, 3 * rows)
    assert torch.equal(torch.cat([strips.take(x, r, 1) for r in range(n)], 1), x)
    for r in range(n):
        assert strips.within(r, n - 1, rows) == (0, rows)
        a, b = strips.bounds(r, rows)
        assert strips.within(r, 0, rows) == (a, b)
        assert strips.whole(r, strips.sizes[r]) == rows


def test_bad_input_is_one_sentence():
    unet, dit = pictures.problem("unet"), pictures.problem("dit")
    for match, problem, make in (
        ("number of strips", unet, lambda: DisplacedPatch(0)),
        ("nothing older", unet, lambda: DisplacedPatch(2, 0)),
        ("norm is one of", unet, lambda: DisplacedPatch(2, norm="none")),
        ("portion is", unet, lambda: PartialPatch(2, -1.0)),
        ("branches is", unet, lambda: DisplacedPatch(2, branches=3)),
        ("there is no guidance", unet, lambda: DisplacedPatch(2, branches=2)),
        ("at most 4 strips", unet, lambda: DisplacedPatch(5)),
        ("multiples of 2", unet, lambda: DisplacedPatch(2, split=(3, 5))),
        ("multiples of 2", dit, lambda: DisplacedPatch(2, split=(3, 5))),
        ("is a function", tiny.problem("DDIMScheduler"), lambda: DisplacedPatch(2)),
        ("multiple of 2 rows", replace(unet, noise=pictures.draw(1, 1, 7, 8)), lambda: NaivePatch(2)),
    ):
        with pytest.raises(AbreastError, match=match):
            abreast.run(problem, make())


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_processes_give_the_same_bits(kind, pool2):
    problem = pictures.problem(kind)
    for method in (DisplacedPatch(2, 2, split=(2, 6)), PartialPatch(2, 0.3, 1)):
        inline, processes = abreast.run(problem, method), abreast.run(problem, method, World(pool=pool2))
        assert torch.equal(inline.value, processes.value)
        for fact in ("hidden", "exposed"):
            assert inline.ledger.total(fact) == processes.ledger.total(fact)
        assert inline.ledger.span == pytest.approx(processes.ledger.span)


@pytest.mark.parametrize("name", ["ddim", "dit", "sd", "sdxl", "lcm", "sd3", "pixart"])
def test_pipelines_of_the_library(name):
    """Captured pipelines, guidance and all: never late is the pipeline's own sample."""
    make, call = pipes.CALLS[name]
    problem = Sampling.from_diffusers(make(), **{**call, "num_inference_steps": 3})
    reference = abreast.run(problem, Sequential())
    for method in (DisplacedPatch(2, math.inf), DisplacedPatch(4, 1)):
        run = abreast.run(problem, method, against=reference)
        assert run.kept if math.isinf(method.warmup) else 0 < run.distance < 2


def test_networks_that_cannot_be_cut_are_told_so():
    make, call = pipes.CALLS["flux"]
    with pytest.raises(AbreastError, match="from pictures"):
        abreast.run(Sampling.from_diffusers(make(), **{**call, "num_inference_steps": 2}), DisplacedPatch(2))
    make, call = pipes.CALLS["wan"]
    with pytest.raises(AbreastError, match=r"pictures \[B, C, H, W\]"):
        abreast.run(Sampling.from_diffusers(make(), **{**call, "num_inference_steps": 2}), DisplacedPatch(2))
