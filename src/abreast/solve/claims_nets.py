"""The claim about nets that recur entry by entry: on gates whose counts are known, and on source code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from abreast import nets
from abreast.core import Check, Figure, Grid, Method, at_least, at_most, claim, exactly, run
from abreast.solve.loop import Loop
from abreast.solve.newton import Newton
from abreast.solve.problem import CellSequence
from abreast.zoo.train.corpus import held_out_modules, training_files

Item = Check | Grid | Figure


@claim("pararnn", real="trained")
def pararnn() -> Iterator[Item]:
    yield from _three_sweeps()
    yield from _same_gradients()
    yield from _language_models()


def given_gates(bound: float, T: int, seed: int, d: int = 64) -> CellSequence:
    """A ParaGRU whose recurrent weights and gate inputs are N(0, 1), the former clipped; float64."""
    torch.manual_seed(seed)
    net = nets.ParaGRU(3 * d, d, 1, bound).double().requires_grad_(False)
    net.recurrent.normal_()
    net.weight.copy_(torch.eye(3 * d).view(3, 1, d, 3 * d))
    return CellSequence(net, torch.randn(T, 1, 3 * d, dtype=torch.float64))


def _three_sweeps() -> Iterator[Item]:
    """What three sweeps leave, against the size of the recurrent weights, and their residual that tells."""
    rows, worst = [], {}
    for T in (256, 4096):
        for bound in (0.5, 1.0, 2.0):
            errors: dict[int, list[float]] = {k: [] for k in (1, 2, 3, 6)}
            residuals = []
            for seed in range(5):
                problem = given_gates(bound, T, seed)
                with torch.no_grad():
                    loop = run(problem, Loop())
                    runs = {k: run(problem, Newton(sweeps=k), against=loop) for k in errors}
                for k, found in runs.items():
                    errors[k].append(found.distance or 0.0)
                    if k == 3:
                        residuals.append(problem.columns(found)["residual"])
                        calls, rounds = found.ledger.longest("f"), found.ledger.longest("scan")
            for k, seen in errors.items():
                worst[T, bound, k] = max(seen)
            rows.append([T, bound, *(f"{min(seen):.1e} to {max(seen):.1e}" for seen in errors.values()),
                         f"{min(residuals):.1e} to {max(residuals):.1e}"])  # fmt: skip
            if bound == 2.0:
                told = min(residuals)
    yield Grid("ParaGRU, d = 64, recurrent weights N(0, 1) within a bound: largest error, 5 seeds",
               ["T", "bound", *(f"{k} sweeps" for k in (1, 2, 3, 6)), "residual after 3"], rows)  # fmt: skip
    yield at_most("error of 3 sweeps, weights within 0.5, largest of 5 seeds", worst[4096, 0.5, 3], 2e-6)
    yield at_most("error of 3 sweeps, weights within 1, largest of 5 seeds", worst[4096, 1.0, 3], 7e-4)
    yield at_most(
        "error of 6 sweeps, weights within 1", max(worst[T, b, 6] for T in (256, 4096) for b in (0.5, 1.0)), 1e-14
    )
    yield at_least(
        "weights within 2: residual after 3 sweeps, the smallest, which tells that they are no solution", told, 1e-3
    )
    yield exactly("batched calls at T = 4096: guess and 3 sweeps", calls, 4.0)
    yield exactly("scan rounds at T = 4096", rounds, 36.0)
    yield at_least("steps by dependent rounds, calls and scans, T = 4096 (limit 105)", 4096 / (calls + rounds), 100)


def _same_gradients() -> Iterator[Item]:
    """Forward and backward against the loop, and the pull of a tolerance."""
    forward = backward = 0.0
    for kind in (nets.ParaGRU, nets.ParaLSTM):
        torch.manual_seed(0)
        net = kind(16, 24, 2, 1.0).double()
        found = []
        for method in (None, Newton(tol=1e-12)):
            x = torch.randn(
                300, 2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
            ).requires_grad_()
            h = net(x, parallel=method)
            found.append([h.detach(), *torch.autograd.grad(h.sin().sum(), [x, *net.parameters()])])
        forward = max(forward, float((found[0][0] - found[1][0]).abs().max()))
        backward = max(backward, *(float((a - b).abs().max()) for a, b in zip(found[0][1:], found[1][1:])))
    yield at_most("tol 1e-12: states against the loop's, ParaGRU and ParaLSTM", forward, 1e-10)
    yield at_most("tol 1e-12: gradients against the loop's", backward, 1e-8)


def _language_models() -> Iterator[Item]:
    """Small models of source code by characters, trained by the loop and in parallel, and read on held-out code."""
    train, held = _code("train"), _code("held")
    unigram = torch.bincount(train.flatten(), minlength=96).clamp_min(1).float()
    base = float(cross_entropy((unigram / unigram.sum()).log().expand(held.numel(), -1), held.flatten()))
    rows, apart, best = [], 0.0, 0.0
    curves: dict[str, list[tuple[float, float]]] = {}
    residual: dict[str, float] = {}
    for kind in (nets.ParaGRU, nets.ParaLSTM):
        seen = {}
        for name, method in (("loop", None), ("3 sweeps", Newton())):
            losses, residuals, after, seconds = _model(kind, method, train, held)
            curves[f"{kind.__name__}, {name}"] = list(enumerate(losses))
            seen[name] = after
            residual[kind.__name__] = max(residuals)
            rows.append([kind.__name__, name, losses[-1], after, max(residuals), seconds])
        apart = max(apart, abs(seen["loop"] - seen["3 sweeps"]))
        best = max(best, seen["3 sweeps"])
    yield Grid(f"characters of source code: loss in nats (letters' frequencies alone: {base:.3g})",
               ["net", "states by", "last loss", "held-out loss", "largest residual", "seconds"], rows)  # fmt: skip
    yield Figure("training loss, states by the loop and by three sweeps", "update", "loss", curves)
    yield at_most("held-out loss, three sweeps against the loop", apart, 0.01)
    yield at_most("held-out loss of the parallel nets, by that of letters' frequencies", best / base, 0.85)
    yield at_most("largest residual of three sweeps while a ParaGRU is trained", residual["ParaGRU"], 1e-3)


@cache
def _code(part: str, T: int = 129, rows: int = 16 * 120) -> Tensor:
    """Characters 0 .. 95 of the standard library's sources, [rows, T]; "held" is of modules that "train" has not."""
    texts: Sequence[str] = list(held_out_modules().values()) if part == "held" else training_files()[:200]
    wanted = (512 if part == "held" else rows) * T
    text = "".join(texts)[:wanted].encode("ascii", "replace")
    ids = torch.tensor([min(95, max(0, c - 31)) for c in text])
    return ids[: len(ids) // T * T].view(-1, T)


def _model(
    kind: Callable[..., Any], method: Method | None, train: Tensor, held: Tensor
) -> tuple[list[float], list[float], float, float]:
    """Losses and residuals of 120 updates, the held-out loss by the loop, and seconds."""
    torch.manual_seed(0)
    embed, net, head = nn.Embedding(96, 48), kind(48, 96, 4), nn.Linear(96, 96)
    optimizer = torch.optim.Adam([*embed.parameters(), *net.parameters(), *head.parameters()], 1e-2)

    def loss_of(ids: Tensor, by: Method | None) -> Tensor:
        h_TBH = net(embed(ids[:, :-1].T), parallel=by)
        return cross_entropy(head(h_TBH).flatten(0, 1), ids[:, 1:].T.flatten())

    start, losses, residuals = time.perf_counter(), [], []
    for ids in train.split(16)[:120]:
        optimizer.zero_grad()
        loss = loss_of(ids, method)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        residuals.append(float(net.residual_))
    seconds = time.perf_counter() - start
    with torch.no_grad():
        after = sum(float(loss_of(ids, None)) for ids in held.split(128)) / len(held.split(128))
    return losses, residuals, after, seconds
