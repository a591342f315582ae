"""What the papers that split layers and frames come to here: models trained on real digits and on a real talking head,
from noise that nothing was trained on. Where fewer steps do better at the same span, the tables say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from abreast import zoo
from abreast.core import Check, Figure, Grid, Ledger, Method, Run, at_least, at_most, claim, exactly, label, run
from abreast.diffuse.denoise import Denoiser
from abreast.diffuse.frames.block_queue import continuity, ticks
from abreast.diffuse.frames.dual_pipeline import DualPipeline
from abreast.diffuse.layers.async_stages import AsyncStages
from abreast.diffuse.layers.foreground import Mask, moving
from abreast.diffuse.layers.lightning import CachedSteps, LightningCP
from abreast.diffuse.problem import Sampling, psnr
from abreast.diffuse.sequential import FewerSteps
from abreast.workers import World

STEPS = 50


@cache
def _model(name: str) -> tuple[Any, Any]:
    return zoo.load_denoiser(name)


def digits(name: str = "digits-dit", rows: int = 8, seed: int = 1) -> Sampling:
    """Handwritten digits of 32 x 32, labels in turn, DDIM."""
    model, scheduler = _model(name)
    noise = torch.randn(rows, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Sampling(model, scheduler, noise, STEPS, zoo.conditions(model, rows, torch.arange(rows) % 10))


def head(frames: int = 8, steps: int = STEPS, rows: int = 1, seed: int = 1) -> Sampling:
    """A talking head of 40 x 32, DDIM."""
    model, scheduler = _model("carphone-dit")
    noise = torch.randn(rows, 1, frames, 40, 32, generator=torch.Generator().manual_seed(seed))
    return Sampling(model, scheduler, noise, steps, zoo.conditions(model, rows))


def rms(found: Run, other: Run) -> float:
    """Root mean square difference of two samples."""
    return float((found.value.double() - other.value.double()).square().mean().sqrt())


class Rounds:
    """A machine on which a full evaluation takes 1, and a round of messages this much."""

    def __init__(self, cost: float):
        self.cost = cost

    def seconds(self, event: Any, kind: Any) -> float:
        return event.span * self.cost if event.bytes else event.size


@claim("asyncdiff", real="trained")
def asyncdiff() -> Iterator[Check | Grid | Figure]:
    problem = digits()
    reference = run(problem, problem.reference)
    kinds = [AsyncStages(2), AsyncStages(3), AsyncStages(4), AsyncStages(4, time_shift=True), AsyncStages(3, stride=2)]
    curves, rows, gains = {}, [], []
    for kind in kinds:
        name = f"N = {kind.stages}" + ", stride 2" * (kind.stride - 1) + ", shifted" * kind.time_shift
        found = {w: run(problem, replace(kind, warmup=w), against=reference) for w in (1, 5, 9)}
        errors = [rms(r, reference) for r in found.values()]
        span = found[1].ledger.span
        largest = max(part.share for part in Denoiser(problem, Ledger().lane("0")).stages(kind.stages).parts)
        off = max(abs(r.ledger.span - replace(kind, warmup=w).span(STEPS, largest)) for w, r in found.items())
        yield at_most(f"{name}: span, off the closed form", off, 1e-9)
        yield exactly(f"{name}: RMS falls with warm-up 1, 5, 9", errors == sorted(errors, reverse=True), True)
        curves[name] = list(zip(map(float, found), errors))
        fewer = run(problem, FewerSteps(max(1, round(span))))
        gains.append(STEPS / span)
        rows.append([name, span, STEPS / span, *errors, rms(fewer, reference)])
    columns = ("stages", "span, w = 1", "steps by span", "RMS w = 1", "w = 5", "w = 9", "fewer steps at that span")
    yield Grid("digits-dit of 6 blocks, DDIM 50", columns, rows)
    yield Figure("RMS to 50 steps against warm-up", "warm-up", "RMS", curves)
    yield at_least("N = 2: steps by span", gains[0], 1.85)
    yield at_least("N = 3, stride 2: steps by span", gains[-1], 4.5)
    for method in (AsyncStages(1), AsyncStages(3, warmup=STEPS)):
        yield at_most(f"{label(method)}: distance", run(problem, method, against=reference).distance or 0.0, 1e-5)
    yield from _on_a_unet()
    small, rows = digits(rows=1), []
    for kind in kinds[:3]:
        worlds = [World(kind.ranks, machine=Rounds(cost)) for cost in (0.0, 0.02, 0.1)]
        rows.append([kind.stages, *(STEPS / run(small, kind, world).ledger.makespan for world in worlds)])
    yield Grid("times faster, a round of messages at a part of an evaluation", ("stages", "0", "0.02", "0.1"), rows)


def _on_a_unet() -> Iterator[Check | Grid]:
    problem = digits("digits-unet", rows=8)
    reference, rows = run(problem, problem.reference), []
    for kind in (AsyncStages(2), AsyncStages(3)):
        errors = [rms(run(problem, replace(kind, warmup=w)), reference) for w in (1, 9)]
        found = run(problem, kind)
        fewer = run(problem, FewerSteps(round(found.ledger.span)))
        rows.append([kind.stages, found.ledger.span, *errors, rms(fewer, reference), found.ledger.bytes / STEPS])
        yield exactly(f"digits-unet, N = {kind.stages}: RMS falls with warm-up", errors[1] < errors[0], True)
    columns = ("stages", "span", "RMS w = 1", "w = 9", "fewer steps at that span", "bytes a step")
    yield Grid("digits-unet, DDIM 50, skips as old as any output", columns, rows)


@claim("dualparal", real="trained")
def dualparal() -> Iterator[Check | Grid]:
    block, context, steps = 8, 4, 20
    problem, stages = head(frames=5 * block + context, steps=steps), 4
    found: dict[Any, Run] = {}
    for n in (1, stages):
        found[n] = run(problem, DualPipeline(n, block, context), World(n, machine=Ticks()))
        yield exactly(f"{n} ranks, 5 blocks: ticks", found[n].ledger.makespan, float(ticks(steps, 5, n)))
    yield exactly(f"{stages} ranks against one: same bits", torch.equal(found[1].value, found[stages].value), True)
    for blocks, limit in ((32, 7.69), (8, 6.3), (4, 3.38)):
        gain = 50 * blocks * 8 / ticks(50, blocks, 8)
        yield at_least(f"50 steps, {blocks} blocks, 8 ranks: times faster by ticks", gain, limit)
    short = head(frames=block + context, steps=steps)
    one = run(short, DualPipeline(stages, block, context), against=run(short, short.reference))
    yield at_most("one block: distance to the whole video", one.distance or 0.0, 1e-5)

    plan = DualPipeline(stages, block, context).plan(problem)
    kinds: list[Method] = [
        DualPipeline(stages, block, context),
        DualPipeline(stages, block, context, share_noise=False),
        DualPipeline(stages, block, 0),
        DualPipeline(stages, block, 0, share_noise=False),
    ]
    whole = run(problem, problem.reference)
    runs = [run(problem, kind) for kind in kinds]
    rows, seams = [], []
    for kind, r in zip(kinds, runs):
        edges = kind.plan(problem).edges  # type: ignore[attr-defined]
        seams.append(continuity(r.value, edges))
        rows.append(
            [label(kind), r.ledger.span, r.ledger.work, r.ledger.bytes, max(r.ledger.peak().values()), seams[-1]]
        )
    fewer = run(problem, FewerSteps(max(1, round(runs[0].ledger.span))))
    for name, r in (("whole video", whole), (label(fewer.method), fewer)):
        rows.append([name, r.ledger.span, r.ledger.work, 0.0, _whole_memory(problem), continuity(r.value, plan.edges)])
    columns = ("method", "span", "work", "bytes", "weights, keys and values of a rank", "change at edges by within")
    yield Grid("talking head, 44 frames, DDIM 20 (whole videos: a layer's keys and values)", columns, rows)
    yield at_most("change at edges, context against none", seams[0] / seams[3], 0.5)
    yield at_least("whole video's span by that of 4 ranks", whole.ledger.span / runs[0].ledger.span, 1.0)
    longer = run(head(frames=9 * block + context, steps=6), kinds[0])
    most = [max(r.ledger.peak().values()) for r in (longer, runs[0])]
    yield exactly("memory of a rank, a video 1.7 times as long", *most)
    carried = (block + context) / block
    yield Grid(
        "times faster, 50 steps on 8 ranks",
        ("blocks", "by ticks", f"by frames, {block} of {block + context} being new"),
        [[b, (gain := 50 * b * 8 / ticks(50, b, 8)), gain / carried] for b in (4, 8, 32)],
    )


class Ticks:
    """A machine on which every stage takes one second, and messages none."""

    def seconds(self, event: Any, kind: Any) -> float:
        return float(event.kind == "denoise")


def _whole_memory(problem: Sampling) -> float:
    """Bytes of the weights, and of a layer's keys and values over all frames."""
    module = problem.denoiser.module
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    tokens = problem.noise[0, 0].numel() // 16
    return float(weights + 2 * tokens * module.patch_embedding.out_channels * 4)


@claim("lightningcp", real="trained")
def lightningcp() -> Iterator[Check | Grid]:
    real = zoo.talking_head("held-out")
    mouth = moving(real[::8], 0.15)
    for name, problem in (
        ("talking head", head(rows=2)),
        ("digits-dit", digits()),
        ("digits-unet", digits("digits-unet", 8)),
    ):
        yield from _cached(name, problem, mouth if name == "talking head" else None)
    yield exactly("share 0.15, interval 4: span of 50 steps", round(LightningCP(4).span(50, 0.15), 6), 16.8)


def _cached(name: str, problem: Sampling, mouth: Tensor | None) -> Iterator[Check | Grid]:
    reference = run(problem, problem.reference)
    fast, slow = LightningCP(4), CachedSteps(4)
    methods: list[Method] = [fast, slow]
    if mouth is not None:
        methods += [LightningCP(4, foreground=0.3), LightningCP(4, foreground=Mask.of(mouth))]
    found = {m: run(problem, m, against=reference) for m in methods}
    spans = sorted({round(r.ledger.span) for r in found.values()})
    found |= {m: run(problem, m, against=reference) for m in map(FewerSteps, spans)}
    rows = []
    for m, r in found.items():
        seen = [psnr(a, b) for a, b in _regions(r.value, reference.value, mouth)]
        rows.append([label(m), r.ledger.span, r.ledger.work, rms(r, reference), *seen])
    where = ("PSNR",) if mouth is None else ("PSNR", "of what moves in the real clip")
    yield Grid(f"{name}, DDIM 50, interval 4", ("method", "span", "work", "RMS", *where), rows)
    share = min(e.span for e in found[fast].ledger.events if e.kind == "denoise")
    off = max(abs(found[m].ledger.span - m.span(STEPS, share)) for m in (fast, slow))
    yield at_most(f"{name}: span, off the closed form at share {share:.2f}", off, 1e-9)
    shallow = sum(e.span < 1 for e in found[fast].ledger.events)
    yield exactly(f"{name}: shallow calls", shallow, fast.cycles(STEPS)[1])
    yield at_least(f"{name}: span of the same cache one step at a time, by this", _ratio(found, slow, fast), 1.2)
    yield at_most(f"{name}: RMS by that of the cache one step at a time", rms(found[fast], reference) /
                  rms(found[slow], reference), 1.5)  # fmt: skip
    if mouth is not None:
        yield at_most(f"{name}, foreground 0.3: span by that without", _ratio(found, methods[2], fast), 1.0)
    whole = run(problem, LightningCP(1), against=reference)
    yield at_most(f"{name}, interval 1: distance", whole.distance or 0.0, 1e-5)


def _ratio(found: dict[Any, Run], one: Method, other: Method) -> float:
    return found[one].ledger.span / found[other].ledger.span


def _regions(value: Tensor, reference: Tensor, mouth: Tensor | None) -> Sequence[tuple[Tensor, Tensor]]:
    """The whole, and where there is a mask [H, W] what is under it."""
    whole = (value, reference)
    return [whole] if mouth is None else [whole, (value[..., mouth], reference[..., mouth])]
