"""Solvers beside what one would use instead, in one process: ratios of medians of interleaved repeats.

Scans against torch's own associative scan; DEER against torch.nn.GRU and against the loop, forward and backward, at
17,000 steps; the parallel Runge-Kutta chain against torchdiffeq. The span column says what a wider machine gains.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import abreast
from abreast import solve
from abreast.solve.operators import DENSE, DIAGONAL


def timed(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in seconds.items()}


def scans(repeats: int) -> list[dict[str, Any]]:
    """The affine chain of 4,096 steps: diagonal over 512 entries, dense of size 8."""
    from torch._higher_order_ops.associative_scan import associative_scan as torchs

    found = []
    for family, A, b in (
        (DIAGONAL, torch.rand(4096, 1, 512), torch.randn(4096, 1, 512)),
        (DENSE, torch.randn(4096, 4, 8, 8) / 4, torch.randn(4096, 4, 8)),
    ):

        def then(p: Any, q: Any, family: Any = family) -> Any:
            return family.product(q[0], p[0]), family.apply(q[0], p[1]) + q[1]

        def plain(A: Any = A, b: Any = b, family: Any = family) -> Any:
            d = torch.zeros_like(b[0])
            return [d := family.apply(a, d) + c for a, c in zip(A, b)]

        ways: dict[str, Callable[[], Any]] = {
            "fused pass": lambda A=A, b=b, family=family: solve.affine_scan(family, A, b),
            "our scan": lambda A=A, b=b, family=family: solve.affine_scan(family, A, b, parallel=True),
            "torch's scan": lambda A=A, b=b, then=then: torchs(then, (A, b), dim=0, combine_mode="generic"),
            "loop": plain,
        }
        found.append({"what": f"affine chain, {family.name}, 4,096 steps", "seconds": timed(ways, repeats)})
    return found


def recurrence(repeats: int) -> dict[str, Any]:
    """A GRU over 17,000 steps, forward and backward."""
    torch.manual_seed(0)
    T, width = 17_000, 8
    cell, inputs = torch.nn.GRUCell(4, width), torch.randn(T, 1, 4)
    fused = torch.nn.GRU(4, width)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(fused, f"{name}_l0").data.copy_(getattr(cell, name).data)
    problem = solve.CellSequence(cell, inputs)
    spans: dict[str, float] = {}

    def ours(method: Any) -> Callable[[], None]:
        def step() -> None:
            run = abreast.run(problem, method)
            run.value.square().sum().backward()
            spans[type(method).__name__] = run.ledger.span

        return step

    ways = {
        "torch.nn.GRU": lambda: fused(inputs)[0].square().sum().backward(),
        "loop": ours(problem.reference),
        "DEER": ours(solve.DEER(atol=1e-4, rtol=1e-3)),
    }
    return {"what": "GRU, 17,000 steps, forward and backward", "seconds": timed(ways, repeats), "span": spans}


def differential(repeats: int) -> dict[str, Any] | None:
    """A pendulum with friction over 2,000 Runge-Kutta steps."""
    try:
        from torchdiffeq import odeint
    except ImportError:
        return None
    ts = torch.linspace(0, 20, 2001, dtype=torch.float64)
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)

    def f(t: Any, y: torch.Tensor) -> torch.Tensor:
        angle, speed = y[..., :1], y[..., 1:]
        return torch.cat((speed, -torch.sin(angle) - 0.3 * speed), -1)

    problem = solve.ODE(f, ts, y0, step="rk4")
    spans: dict[str, float] = {}

    def ours() -> torch.Tensor:
        run = abreast.run(problem, solve.DEER(atol=1e-10, rtol=0.0))
        spans["DEER"] = run.ledger.span
        return run.value

    ways = {"torchdiffeq rk4": lambda: odeint(f, y0, ts, method="rk4"), "DEER": ours}
    apart = float((ours()[-1] - odeint(f, y0, ts, method="rk4")[-1]).abs().max())
    found = timed(ways, repeats)
    return {"what": "pendulum, 2,000 rk4 steps", "seconds": found, "span": spans, "difference": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results = [*scans(asked.repeats), recurrence(asked.repeats), differential(asked.repeats)]
    table = Table("what", "way", "ms", "by the first", "span", title=f"{torch.get_num_threads()} threads")
    for result in filter(None, results):
        first = next(iter(result["seconds"].values()))
        for name, seconds in result["seconds"].items():
            span = result.get("span", {}).get("Loop" if name == "loop" else name)
            shown = "" if span is None else f"{span:g}"
            table.add_row(result["what"], name, f"{1e3 * seconds:.2f}", f"{seconds / first:.2f}", shown)
    Console().print(table)
    if asked.out:
        asked.out.write_text(json.dumps([r for r in results if r], indent=1))


if __name__ == "__main__":
    main()
