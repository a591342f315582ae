"""Claims about triangular systems: sampling and back-propagation in rounds, the inverse of a convolution; on digits
that were held out, each beside what a sceptic would do instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abreast import nets
from abreast.core import (
    Check,
    Figure,
    Grid,
    Ledger,
    Method,
    Run,
    Table,
    at_least,
    at_most,
    claim,
    compare,
    exactly,
    label,
    run,
    uniform,
)  # fmt: skip
from abreast.solve.adjoint import AdjointChain
from abreast.solve.anderson import Anderson
from abreast.solve.gauss_seidel import GaussSeidel, GSJacobi, JacobiGS
from abreast.solve.gradient import adjoint
from abreast.solve.inverse_conv import AntiDiagonal, InverseConvolution, corner_conv2d, inverse_conv2d
from abreast.solve.jacobi import Jacobi
from abreast.solve.linearize import Dense
from abreast.solve.problem import CellSequence
from abreast.solve.triangular import TriangularSystem
from abreast.zoo.digits8 import digits8

Item = Check | Grid | Figure | Table
SAMPLES = 64


def uniforms(members: int, nodes: int, seed: int = 1) -> Tensor:
    """[members, nodes], keyed by member and node."""
    return torch.from_numpy(uniform(seed, "pixel", np.arange(members), n=nodes))


@cache
def made() -> Any:
    """A masked autoencoder of binarised digits."""
    data = digits8("train", binary=True).flatten(1)
    return nets.fit(nets.MADE(64, 500), data, 600, lr=5e-3).double()


@cache
def pixel_cnn() -> Any:
    """A small PixelCNN of digits with 17 grey levels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nets.PixelCNN()
    return nets.fit(net, digits8("train").flatten(1), 400, batch=64, lr=5e-3).double()


def mean_rounds(found: Run[Any]) -> float:
    """Of a member; finished ones take no part in the others' rounds."""
    return float(found.ledger.series("mean_rounds")[-1])


def updates(found: Run[Any]) -> float:
    """Node updates of a member."""
    return found.ledger.work / len(found.value)


@claim("feedforward-jacobi", real="trained")
def feedforward_jacobi() -> Iterator[Item]:
    net = made()
    problem = net.system(uniforms(SAMPLES, 64))
    with torch.no_grad():
        nll = float(net.loss(digits8("held-out", binary=True)))
    blocks = [GSJacobi(b) for b in (8, 16, 32)]
    loop = run(problem, problem.reference)
    found = {m: run(problem, m, against=loop) for m in (Jacobi(), *blocks, JacobiGS(8), GaussSeidel())}
    rows = [[label(m), 64 if m == GaussSeidel() else mean_rounds(r), r.ledger.span, updates(r)]
            for m, r in found.items()]  # fmt: skip
    yield Grid(
        f"MADE of 64 binary pixels, {nll:.1f} nats on held-out digits",
        ["method", "mean rounds", "dependent evaluations, slowest of 64", "node updates a sample"], rows,
    )  # fmt: skip
    ordered = [found[m] for m in (*blocks, Jacobi())]
    yield at_most("MADE, held-out digits, nats a picture", nll, 23.0)
    yield exactly("samples that one pixel at a time makes otherwise", _other(found.values(), loop), 0)
    yield at_most("mean rounds of Jacobi for 64 pixels", mean_rounds(found[Jacobi()]), 13)
    yield exactly("rounds fall with the block: 8, 16, 32, all", _falls([mean_rounds(r) for r in ordered]), True)
    yield exactly("node updates rise with the block", _falls([-updates(r) for r in ordered]), True)
    most = run(problem, Jacobi()).ledger.series("prefix")
    yield exactly("rounds after which fewer levels were final", sum(p < k for k, p in enumerate(most, 1)), 0)
    half = run(problem, Jacobi(max_sweeps=max(1, round(mean_rounds(found[Jacobi()]) / 2))))
    yield Grid("control: half as many rounds, taken as they are", ["share of samples that differ", "of pixels"],
               [[_other([half], loop) / SAMPLES, problem.distance(half.value, loop.value)]])  # fmt: skip
    yield from _other_systems()
    hard = parity(48)
    yield at_least("rounds by nodes where a node is the parity of all before", _rounds(hard) / 48, 0.9)


def _other(found: Any, loop: Run[Any]) -> int:
    """Samples that differ from the loop's."""
    return sum(int((r.value != loop.value).reshape(len(loop.value), -1).any(1).sum()) for r in found)


def _falls(values: Sequence[float]) -> bool:
    return all(a > b for a, b in pairwise(values))


def _rounds(problem: Any) -> float:
    return run(problem, Jacobi()).ledger.span


def parity(N: int) -> TriangularSystem:
    """x_j = u_j + x_0 + ... + x_{j-1} mod 2, on four rows of coins."""
    u = (uniforms(4, N, 2) < 0.5).long()
    return TriangularSystem(lambda x, u: (u + x.cumsum(1) - x) % 2, torch.zeros_like(u), given=(u,))


def _other_systems() -> Iterator[Item]:
    """PixelCNN, a dense tower, back-propagation through an RNN over held-out digits."""
    pixels = pixel_cnn().system(uniforms(16, 64))
    loop = run(pixels, pixels.reference)
    found = [run(pixels, m, against=loop) for m in (Jacobi(), GSJacobi(16))]
    yield exactly("PixelCNN, samples that one pixel at a time makes otherwise", _other(found, loop), 0)
    yield at_most("PixelCNN, mean rounds of Jacobi by pixels", mean_rounds(found[0]) / 64, 0.5)
    tower = nets.DenseNetTower().double().system(digits8("held-out").flatten(1)[:32].double() / 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = nn.RNNCell(1, 32).double()
    scanlines = digits8("held-out")[:16].flatten(1).T[..., None].double() / 16
    cells = CellSequence(cell, scanlines)
    chain = AdjointChain(cells)
    rows: list[list[Any]] = []
    wrong = 0
    for name, problem in (("PixelCNN", pixels), ("dense tower, 24 layers", tower), ("RNN adjoints, 64 steps", chain)):
        loop = run(problem, problem.reference)
        methods: list[Method] = [Jacobi()]
        methods += [] if problem.discrete else [Jacobi(tol=1e-6), Anderson(), Anderson(tol=1e-6)]
        for method in methods:
            one = run(problem, method, against=loop)
            wrong += one.kept is False
            rows.append([name, label(method), problem.L, one.ledger.span, one.distance])
    ledger = Ledger()
    states = run(cells, cells.reference).value.detach()
    before, grad = torch.cat((cells.x0[None], states[:-1])), torch.zeros_like(states)
    grad[-1] = 1.0
    scanned = adjoint(cells, Dense(), before, grad, ledger.lane("0"))
    error = float((scanned - chain.gradients(run(chain, chain.reference).value)).abs().max())
    rows.append(["RNN adjoints, 64 steps", "one reverse scan, Dense", 64, ledger.calls("f"), error])
    yield Grid("rounds by other systems", ["system", "method", "levels", "dependent evaluations", "distance"], rows)
    yield exactly("promises broken on these", wrong, 0)
    yield at_most("reverse scan: dependent evaluations and combinations", ledger.calls("f") + ledger.longest("scan"), 7)


@claim("inverse-convolution", real="trained")
def inverse_convolution() -> Iterator[Item]:
    g = torch.Generator().manual_seed(1)
    y = torch.randn(4, 2, 8, 8, generator=g, dtype=torch.float64)
    weight = 0.2 * torch.randn(2, 2, 3, 3, generator=g, dtype=torch.float64)
    # Pixel by pixel, row by row, the matrix is lower triangular as it stands.
    basis = torch.eye(128, dtype=torch.float64).view(128, 8, 8, 2).permute(0, 3, 1, 2)
    matrix = corner_conv2d(basis, weight).permute(0, 2, 3, 1).flatten(1).T
    given = y.permute(0, 2, 3, 1).flatten(1).T
    dense = torch.linalg.solve_triangular(matrix, given, upper=False).T.view(4, 8, 8, 2).permute(0, 3, 1, 2)
    yield at_most("n = 8: distance from the dense triangular solve",
                  float((inverse_conv2d(y, weight) - dense).abs().max()), 1e-13)  # fmt: skip
    yield at_most("weight's gradient, relative error to finite differences", _gradient_error(y, weight), 1e-7)
    problem = InverseConvolution(y, weight)
    table = compare(problem, [AntiDiagonal(), GaussSeidel(), Jacobi()])
    yield table
    yield exactly("answers other than one pixel at a time", sum(row.kept is False for row in table), 0)
    yield exactly("sweeps of Jacobi, 2 n - 1 anti-diagonals", table[Jacobi].sum(lambda r: r.ledger.span), 15)
    yield at_least("n = 8: dependent rounds, pixels by anti-diagonals", 1 / table.ratio(AntiDiagonal, _span), 4.26)
    lane = Ledger().lane("0")
    y, weight = y.requires_grad_(), weight.requires_grad_()
    inverse_conv2d(y, weight, lane=lane).sum().backward()
    yield exactly("rounds forward and backward", lane.ledger.span, 30)
    sizes = (8, 16, 32, 64, 128)
    tap = weight[:1, :1].detach()
    rounds = [(n, _span(run(InverseConvolution(tap.new_ones(1, 1, n, n), tap), AntiDiagonal()))) for n in sizes]
    yield Figure("dependent rounds against the side", "n", "rounds",
                 {"anti-diagonals": rounds, "pixels": [(n, float(n * n)) for n in sizes]})  # fmt: skip
    yield from _flows()


def _span(found: Run[Any]) -> float:
    return found.ledger.span


def _gradient_error(y: Tensor, weight: Tensor, step: float = 1e-6) -> float:
    """Central differences of a random functional, entry by entry; what is masked must have none."""
    into = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)

    def value(w: Tensor) -> Tensor:
        return (inverse_conv2d(y, w).sin() * into).sum()

    w = weight.clone().requires_grad_()
    (exact,) = torch.autograd.grad(value(w), w)
    basis = torch.eye(w.numel(), dtype=w.dtype).view(-1, *w.shape)
    near = torch.stack([(value(weight + step * e) - value(weight - step * e)) / (2 * step) for e in basis])
    return float((near.view_as(exact) - exact).abs().max() / exact.abs().max())


def _flows() -> Iterator[Item]:
    """The flow beside its layers turned round, on held-out digits."""
    train, held_out = digits8("train"), digits8("held-out")[:, None].double()
    noise = uniforms(len(held_out), 64, 3).view_as(held_out)
    bits, spans, errors, rows = {}, {}, [], []
    for turned in (False, True):
        flow = nets.InverseFlow(2, 2, turned=turned).standardise(train[:256])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nets.fit(flow, train, 300, batch=64, lr=3e-3).double()
        lane = Ledger().lane("0")
        with torch.no_grad():
            bits[turned] = float(flow.bits(held_out, noise).mean())
            data = (held_out + noise) / 17 - 0.5
            errors.append(float((flow.inverse(flow(data)[0], lane) - data).abs().max()))
        spans[turned] = lane.ledger.longest("diagonal")
        rows.append(["convolutions to the latent" if turned else "inverses to the latent", bits[turned], spans[turned]])
    yield Grid(
        "flows of 8 x 8 digits", ["layers", "bits per pixel, held-out", "dependent rounds of one sampling"], rows
    )
    yield at_most("bits per pixel beyond the layers turned round", bits[False] - bits[True], 0.1)
    yield exactly("rounds of sampling: ours, turned round", [spans[False], spans[True]], [16.0, 80.0])
    yield at_most("data after latent and back, largest error", max(errors), 1e-10)
