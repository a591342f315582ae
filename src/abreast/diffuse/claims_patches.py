"""What the papers of the Patches axis come to here: on models trained on digits, from noise that nothing was trained
on, and on pictures with a known number of things in them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from abreast import zoo
from abreast.core import AbreastError, Check, Figure, Grid, Method, Run, at_least, at_most, claim, exactly, run
from abreast.diffuse.patches.aquarius import Aquarius
from abreast.diffuse.patches.buckets import TokenBucketSampler
from abreast.diffuse.patches.decode import Decoding, StripDecode
from abreast.diffuse.patches.displaced import DisplacedPatch
from abreast.diffuse.patches.naive import NaivePatch
from abreast.diffuse.patches.partial import PartialPatch
from abreast.diffuse.patches.step_cache import StepCache, hit_rate
from abreast.diffuse.patches.strip import Norm
from abreast.diffuse.patches.structure import StructureGuided
from abreast.diffuse.patches.views import deinterleave
from abreast.diffuse.problem import Guidance, Sampling, psnr
from abreast.diffuse.sequential import FewerSteps, fewer_steps
from abreast.hpc.operators import DataPipeline, OperatorGraph, sizes
from abreast.machine import Machine
from abreast.workers import World

BLOCKS, TOKENS, WIDTH, SIDE = 6, 64, 128, 32  # of digits-dit


@cache
def _model(name: str) -> tuple[Any, Any]:
    return zoo.load_denoiser(name)


def noise(rows: int, seed: int = 1, side: int = SIDE) -> Tensor:
    return torch.randn(rows, 1, side, side, generator=torch.Generator().manual_seed(seed))


def digits(rows: int = 8, steps: int = 50, name: str = "digits-dit", scale: float | None = None) -> Sampling:
    """Handwritten digits of 32 x 32, each label in turn, from noise of their own; scale: of guidance."""
    model, scheduler = _model(name)
    cond = zoo.conditions(model, rows, torch.arange(rows) % 10)
    guidance = None if scale is None else Guidance(scale, zoo.conditions(model, rows))
    return Sampling(model, scheduler, noise(rows), steps, cond, guidance)


def rms(found: Run, other: Run) -> float:
    """Root mean square difference of two samples."""
    return float((found.value.double() - other.value.double()).square().mean().sqrt())


def seam(x: Tensor, n: int) -> float:
    """How much rows differ across the edges of n equal strips, by how much they differ elsewhere."""
    jumps = (x[:, :, 1:] - x[:, :, :-1]).abs().mean((0, 1, 3))
    edges = [k * x.shape[2] // n - 1 for k in range(1, n)]
    others = [k for k in range(len(jumps)) if k not in edges]
    return float(jumps[edges].mean() / jumps[others].mean())


Found = Mapping[Method, Run]


def beside(title: str, reference: Run, methods: Sequence[Method], n: int) -> tuple[Grid, Found]:
    """Methods with span, work, RMS to the reference and seams; and plain sampling at the first one's span."""
    problem: Any = reference.problem
    found = {method: run(problem, method) for method in methods}
    fewer = list(fewer_steps(found[methods[0]].ledger.span))
    found |= {method: run(problem, method) for method in fewer}
    rows = [[str(m), r.ledger.span, r.ledger.work, rms(r, reference), seam(r.value, n)] for m, r in found.items()]
    rows.append(["the reference", problem.length, problem.length, 0.0, seam(reference.value, n)])
    return Grid(title, ("method", "span", "work", "RMS", "seam"), rows), found


def received(found: Run, rank: int, n: int) -> float:
    """Bytes that a rank received, hidden behind computing."""
    events, total = found.ledger.events, 0.0
    for event, facts in found.ledger.notes.items():
        if "hidden" not in facts:
            continue
        lane = events[event].lane
        if ">" not in lane:  # a collective: all ranks receive alike
            total += events[event].bytes / n
        elif lane.endswith(f">{rank}"):
            total += events[event].bytes
    return total


@claim("distrifusion", real="trained")
def distrifusion() -> Iterator[Check | Grid]:
    dit = digits()
    reference = run(dit, dit.reference)
    exact = [DisplacedPatch(2, math.inf), DisplacedPatch(4, 50), DisplacedPatch(3, math.inf, split=(4, 12, 16))]
    kept = [run(dit, method, against=reference).kept for method in exact]
    yield exactly("never late, on 2, 4 and 3 uneven ranks: kept", kept, [True] * 3)
    yield from _bytes(dit)
    for name in ("digits-dit", "digits-unet"):
        problem = digits(name=name)
        reference = run(problem, problem.reference)
        for n in (2, 4):
            late, frozen, naive = DisplacedPatch(n), DisplacedPatch(n, norm="separate", refresh=False), NaivePatch(n)
            grid, found = beside(f"{name}, DDIM 50, {n} strips", reference, [late, frozen, naive], n)
            yield grid
            error = {m: rms(r, reference) for m, r in found.items()}
            share = found[late].ledger.span / problem.length
            yield at_most(f"{name}, {n} strips: share of a device", share, 1 / n + 0.02)
            yield at_most(f"{name}, {n} strips: displaced by frozen", error[late] / error[frozen], 0.5)
            yield at_most(f"{name}, {n} strips: displaced by naive", error[late] / error[naive], 0.5)
            yield at_most(f"{name}, {n} strips: frozen by naive", error[frozen] / error[naive], 1.0)
            if name == "digits-dit":  # on the UNet fewer steps win at either number: the tables say so
                controls = [e for m, e in error.items() if isinstance(m, FewerSteps)]
                yield at_most(f"{name}, {n} strips: displaced by the best control", error[late] / min(controls), 1.0)
                plain = error[FewerSteps(round(found[late].ledger.span))]
                yield at_most(f"{name}, {n} strips: displaced by fewer steps", error[late] / plain, 0.5)
    warm = [[w, rms(run(dit, DisplacedPatch(4, w)), run(dit, dit.reference))] for w in (1, 5, 10)]
    yield Grid("digits-dit, 4 strips: steps of warm-up", ("warm-up", "RMS"), warm)
    yield _norms()
    yield from _overlap()


def _norms() -> Grid:
    """Whether correcting late statistics by what the own strip's changed by helps: not on small pictures in many."""
    unet = digits(rows=4, name="digits-unet")
    reference = run(unet, unet.reference)
    modes: tuple[Norm, ...] = ("corrected", "stale", "separate", "sync")
    rows = [[mode, *(rms(run(unet, DisplacedPatch(n, norm=mode)), reference) for n in (2, 4))] for mode in modes]
    return Grid("digits-unet: statistics of group norms after the warm-up, RMS", ("norm", "2 strips", "4 strips"), rows)


def _bytes(problem: Sampling) -> Iterator[Check]:
    """Closed forms, on all links together: keys and values of 64 tokens a step, and the output's gather."""
    w, T, rows = 5, problem.length, len(problem.noise)
    for n in (2, 4):
        ledger = run(problem, DisplacedPatch(n, w)).ledger
        step = BLOCKS * 2 * rows * TOKENS * WIDTH * 4 * (n - 1)
        output = problem.noise.numel() * 4 * (n - 1)
        hidden, exposed = ledger.total("hidden"), ledger.total("exposed")
        yield exactly(f"{n} strips: hidden bytes by the closed form", hidden / ((T - w - 1) * step), 1.0)
        yield exactly(f"{n} strips: exposed bytes after the warm-up", exposed - w * (step + output), (T - w) * output)


def _overlap() -> Iterator[Check | Grid]:
    """Eight devices in virtual time, an evaluation on one of them a second; a synchronous step's transfers take as long
    as a strip's computing."""
    n, problem = 8, digits(rows=1, steps=20)
    step = BLOCKS * 2 * TOKENS * WIDTH * 4 * (n - 1)
    machine = Machine("eight devices, transfers as long as computing", flops=problem.flops, link=step, latency=0.0)
    seconds = {
        name: run(problem, DisplacedPatch(n, warmup), World(machine=machine)).ledger.makespan
        for name, warmup in {"overlapped": 1, "synchronous": math.inf}.items()
    }
    rows = [[name, s, problem.length / s] for name, s in seconds.items()]
    yield Grid("simulated: 8 strips, 20 steps", ("transfers", "seconds", "speed-up over one device"), rows)
    gain = seconds["synchronous"] / seconds["overlapped"]
    yield at_least("simulated: gain of overlap where transfers take as long as computing", gain, 1.6)
    yield at_least("simulated: speed-up on 8 devices", problem.length / seconds["overlapped"], 6.0)


@claim("pcpp", real="trained")
def pcpp() -> Iterator[Check | Grid]:
    problem = digits()
    reference = run(problem, problem.reference)
    kept = [run(problem, PartialPatch(n, warmup=math.inf), against=reference).kept for n in (2, 4)]
    yield exactly("never late, on 2 and 4 ranks: kept", kept, [True] * 2)
    few = digits(rows=2, steps=8)
    for n in (2, 4):
        both = [run(few, method).value for method in (PartialPatch(n, n - 1.0), DisplacedPatch(n))]
        yield exactly(f"{n} strips, all of the picture in reach: DisplacedPatch to the bit", torch.equal(*both), True)
    yield from _reach(few)
    for n in (2, 4):
        methods = [PartialPatch(n), DisplacedPatch(n), DisplacedPatch(n, norm="separate", refresh=False), NaivePatch(n)]
        grid, found = beside(f"digits-dit, DDIM 50, {n} strips", reference, methods, n)
        yield grid
        error = {m: rms(r, reference) for m, r in found.items()}
        partial, displaced, _, naive = methods
        yield at_most(f"{n} strips: DistriFusion by partial", error[displaced] / error[partial], 1.0)
        yield at_most(f"{n} strips: partial by naive", error[partial] / error[naive], 1.0)
    yield from _messages()


def _reach(problem: Sampling) -> Iterator[Check]:
    """Eight strips of eight tokens: what an inner and an outer rank receive, and how much an inner one attends to."""
    n, inner = 8, 3
    whole = run(problem, DisplacedPatch(n))
    for portion, limit in ((0.3, 0.1), (1.0, 2 / 7)):
        partial = run(problem, PartialPatch(n, portion))
        bytes_ = [received(partial, rank, n) / received(whole, rank, n) for rank in (inner, 0)]
        yield at_most(f"portion {portion}: bytes of an inner rank by DistriFusion's", bytes_[0], limit)
        yield at_most(f"portion {portion}: bytes of an outer rank by an inner one's", bytes_[1] / bytes_[0], 0.6)
    # Scores and their use cost 4 x own tokens x seen tokens x width operations in each block.
    w, T = 5, problem.length
    own = f"rank {inner}"
    partial = run(problem, PartialPatch(n, warmup=w))
    spared = sum(e.size for e in whole.ledger.events if e.lane == own and e.kind == "denoise")
    spared -= sum(e.size for e in partial.ledger.events if e.lane == own and e.kind == "denoise")
    scores = 4 * BLOCKS * len(problem.noise) * (TOKENS // n) * TOKENS * WIDTH / problem.flops * (T - w)
    yield at_most(
        "portion 0.3: attention of an inner rank by all tokens'", 1 - spared / scores, (1 + 2 * 0.3) / n + 0.01
    )


def _messages() -> Iterator[Check | Grid]:
    """Links so slow that an all-gather cannot hide: point to point still does."""
    n, problem = 8, digits(rows=1, steps=20)
    step = BLOCKS * 2 * TOKENS * WIDTH * 4 * (n - 1)
    machine = Machine("eight devices, slow links", flops=problem.flops, link=step / 3, latency=1e-4)
    methods = {"DistriFusion": DisplacedPatch(n, 1), "partial": PartialPatch(n, 0.3, 1)}
    seconds = {name: run(problem, m, World(machine=machine)).ledger.makespan for name, m in methods.items()}
    rows = [[name, s, problem.length / s] for name, s in seconds.items()]
    yield Grid("simulated: 8 strips on slow links", ("method", "seconds", "speed-up over one device"), rows)
    gain = seconds["DistriFusion"] / seconds["partial"]
    yield at_least("simulated, gathers three times as long as computing: gain over DistriFusion", gain, 1.5)


class Blobs:
    """The exact denoiser of pictures 16 x 16 that hold one blob of one of two sizes, centred anywhere on them or a
    little outside: a mixture with one component for each size and place."""

    def __init__(self, sizes: Sequence[float] = (1.5, 3.0), beyond: int = 6, side: int = 16, variance: float = 0.02):
        at = torch.arange(side).double()
        places = torch.arange(-beyond, side + beyond).double()
        near = {r: torch.exp(-((at[None] - places[:, None]) ** 2) / (2 * r * r)) for r in sizes}  # [place, pixel]
        pictures = [torch.einsum("ai,bj->abij", near[r], near[r]).flatten(0, 1) for r in sizes]
        self.means = (2 * torch.cat(pictures) - 1).flatten(1)
        self.variance, self.squares = variance, self.means.square().sum(1)
        self.levels = scheduler().alphas_cumprod.double()

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        flat = x.flatten(1).double()
        if flat.shape[1] != self.means.shape[1]:
            raise AbreastError(f"these pictures have {self.means.shape[1]} pixels, not {flat.shape[1]}.")
        bar = self.levels[t.long()][:, None]
        a, noise = bar.sqrt(), 1 - bar
        spread = bar * self.variance + noise
        likely = (a * (flat @ self.means.T) - bar * self.squares / 2) / spread
        mean = likely.softmax(1) @ self.means
        clean = mean + a * self.variance / spread * (flat - a * mean)
        return ((flat - a * clean) / noise.sqrt()).view_as(x).to(x.dtype)


def scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)


def blobs(x: Tensor) -> float:
    """How many connected bright regions a picture has, on average; pixels that touch at a corner are connected."""
    count = 0
    for picture in x[:, 0] > 0:
        left = {(int(i), int(j)) for i, j in picture.nonzero()}
        while left:
            count, edge = count + 1, [left.pop()]
            while edge:
                i, j = edge.pop()
                near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
                left -= near
                edge += near
    return count / len(x)


def fineness(x: Tensor) -> float:
    """Mean distance of pixels from their 2 x 2 block's mean: nothing in what was enlarged by repeating pixels."""
    mean = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return float((x - mean).abs().mean())


@claim("asgdiffusion", real="exact")
def asgdiffusion() -> Iterator[Check | Grid]:
    model, rows = Blobs(), 24
    small = Sampling(model, scheduler(), noise(rows, side=16), 50)
    large = Sampling(model, scheduler(), noise(rows, side=32), 50)
    natively = run(small, small.reference).value
    methods = {
        "tiles alone": StructureGuided(structure_steps=0.0, weight=0.0),
        "guided": StructureGuided(),
        "guided, synchronous": StructureGuided(asynchronous=False),
        "guided, cos², 40%": StructureGuided(structure_steps=0.4, weight="cos2"),
    }
    values = {name: run(large, method).value for name, method in methods.items()}
    repeated = deinterleave(noise(rows, side=16)[None].expand(4, -1, -1, -1, -1), 2)
    literal = Sampling(model, scheduler(), repeated, 50)
    values["literal, one start noise"] = run(literal, StructureGuided(space="eps")).value
    values["enlarged"] = natively.repeat_interleave(2, -1).repeat_interleave(2, -2)
    counts = {name: blobs(value) for name, value in values.items()}
    table = [["trained size", blobs(natively), ""]] + [[n, counts[n], fineness(v)] for n, v in values.items()]
    yield Grid("one blob at most in 16 x 16, sampled at 32 x 32", ("way", "blobs", "fine detail"), table)
    excess = counts["tiles alone"] - blobs(natively)
    yield at_least("tiles alone: blobs too many", excess, 0.5)
    for name in ("guided", "guided, synchronous"):
        yield at_most(f"{name}: excess by that of tiles", (counts[name] - blobs(natively)) / excess, 0.5)
        yield at_least(f"{name}: fine detail, 0 in what is enlarged", fineness(values[name]), 0.04)

    few = Sampling(model, scheduler(), noise(2, side=32), 10)
    one, many = run(few, StructureGuided()), run(few, StructureGuided(workers=10))
    waiting = run(few, StructureGuided(workers=10, asynchronous=False))
    yield exactly("ten workers paint what one does, to the bit", torch.equal(one.value, many.value), True)
    yield exactly("ten workers: evaluations in a row, a step", many.ledger.span / few.length, 1.0)
    yield exactly("the same, synchronous: first the view, then the rest", waiting.ledger.span / few.length, 2.0)
    same = run(small, StructureGuided(scale=1)).value
    yield exactly("trained size: the plain picture, to the bit", torch.equal(same, natively), True)


@claim("aquarius", real="trained")
def aquarius() -> Iterator[Check | Grid | Figure]:
    problem = digits()
    reference = run(problem, problem.reference)
    parallel = [Aquarius(2), Aquarius(4), Aquarius(3, split=(4, 12, 16)), Aquarius(4, attention="gather")]
    runs = [run(problem, method, against=reference) for method in parallel]
    yield exactly("2, 4 and 3 uneven ranks, and gathered keys: kept", [r.kept for r in runs], [True] * 4)
    activation, output = len(problem.noise) * TOKENS * WIDTH * 4, problem.noise.numel() * 4
    for n, found in ((2, runs[0]), (4, runs[1])):
        layer = (found.ledger.bytes / problem.length - (n - 1) * output) / BLOCKS / n
        yield exactly(f"{n} ranks: bytes per rank and layer, in activations", layer / activation, 4 * (n - 1) / n**2)
    yield from _cache(problem, reference)
    yield from _recipe()
    yield from _decoding()
    yield from _buckets()
    yield _throughput()


def _waiting(seconds: float) -> Callable[[Any], Any]:
    def operator(item: Any) -> Any:
        time.sleep(seconds)
        return item

    return operator


def _throughput() -> Check:
    """Operators that wait, as for a disk or a network: what comes out, by what the slowest of them lets through."""
    seconds = (0.016, 0.008, 0.048)
    operators = {f"operator {k}": _waiting(s) for k, s in enumerate(seconds)}
    items, sample, workers = 206, 6, 9
    found = run(DataPipeline(list(range(items)), operators), OperatorGraph(workers, sample=sample))
    took = max(event.end for event in found.ledger.events if "/" in event.lane)
    counts = sizes(seconds, workers)
    bound = (items - sample) * max(s / n for s, n in zip(seconds, counts))
    return at_least("operators sized by themselves: throughput by the slowest one's", bound / took, 0.9)


def _cache(problem: Sampling, reference: Run) -> Iterator[Check | Grid | Figure]:
    def quality(found: Run) -> float:
        return psnr(found.value, reference.value)

    yield exactly("tau 0: the plain sample", run(problem, StepCache(0.0), against=reference).kept, True)
    rows, curve = [], {"cache": [], "fewer steps": [], "fewer steps, DPM-Solver++": []}  # type: ignore[var-annotated]
    for tau in (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3):
        found = run(problem, StepCache(tau))
        span, rate = found.ledger.span, hit_rate(found)
        plain, _, solver = (run(problem, method) for method in fewer_steps(span))
        rows.append([tau, rate, span, quality(found), quality(plain), quality(solver)])
        for name, other in zip(curve, (found, plain, solver)):
            curve[name].append((rate, min(quality(other), 99.0)))
    names = ("tau", "hit rate", "evaluations", "PSNR", "PSNR of as many steps", "of DPM-Solver++")
    yield Grid("digits-dit, DDIM 50: a cache over steps", names, rows)
    yield Figure("quality by how often the blocks are skipped", "hit rate", "PSNR (dB)", curve)
    rates = [row[1] for row in rows]
    yield exactly("hit rate rises with tau", rates, sorted(rates))
    yield at_least("tau 0.05: hit rate", rates[1], 0.25)
    yield at_least("tau 0.05: PSNR", rows[1][3], 40.0)
    split = run(problem, Aquarius(4, cache=StepCache(0.1)))
    alone = run(problem, StepCache(0.1))
    yield exactly("4 ranks: hit rate by that of one", hit_rate(split) / hit_rate(alone), 1.0)
    yield at_most("4 ranks: RMS to one", rms(split, alone), 1e-4)


def _recipe() -> Iterator[Check | Grid]:
    """Everything together, with guidance. Branches on ranks of their own wait for each other wherever only one hits, so
    out of step they gain little."""
    problem = digits(rows=4, scale=2.0)
    reference = run(problem, problem.reference)
    methods = [Aquarius(1, 2), Aquarius(2, 2), Aquarius(2, 2, StepCache(0.05)), Aquarius(2, 2, StepCache(0.1))]
    found = [run(problem, method, against=reference) for method in methods]
    spans = [problem.length / r.ledger.span for r in found]
    quality = [psnr(r.value, reference.value) for r in found]
    rows = [[str(m), m.patches * m.branches, s, q] for m, s, q in zip(methods, spans, quality)]
    yield Grid("digits-dit with guidance 2", ("method", "ranks", "steps by span", "PSNR"), rows)
    yield exactly("branches and strips on ranks of their own: kept", [r.kept for r in found[:2]], [True] * 2)
    yield at_least("2 branches x 2 strips, tau 0.1: steps by span", spans[3], 5.0)


def _decoding() -> Iterator[Check | Grid]:
    """A decoder with random weights: strips are exact whatever they are."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 32), norm_num_groups=8, layers_per_block=1, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    problem = Decoding(vae, torch.randn(1, 4, 16, 16))
    reference = run(problem, problem.reference)
    methods = [StripDecode(4), StripDecode(4, "blended"), StripDecode(4, "blended", overlap=0.5)]
    found = [run(problem, method, against=reference) for method in methods]
    rows = [[str(m), r.ledger.span, r.ledger.work, r.ledger.bytes, psnr(r.value, reference.value)]
            for m, r in zip(methods, found)]  # fmt: skip
    yield Grid("a latent of 16 x 16 decoded by 4 ranks", ("method", "span", "work", "bytes", "PSNR"), rows)
    yield exactly("exact strips: kept", found[0].kept, True)
    yield at_most("exact strips: share of a device", found[0].ledger.span, 0.26)


def _buckets() -> Iterator[Check]:
    """Pictures and clips of any size between 256 and 768 pixels a side."""
    draw = random.Random(0)
    sizes = [(draw.choice((1, 17, 33)), draw.randint(16, 48), draw.randint(16, 48)) for _ in range(2000)]
    sampler = TokenBucketSampler(sizes, budget=60_000)
    order = list(range(len(sizes)))
    plain = [order[k : k + 8] for k in order[::8]]
    yield at_least("batches of eight as they come: padding", sampler.waste(plain), 0.3)
    yield at_most("buckets: padding", sampler.waste(), 0.05)
