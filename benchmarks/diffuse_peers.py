"""Samplers beside diffusers' own pipelines, in one process: seconds as ratios, spans, and distance from the pipeline.

The same embedded model, scheduler, labels and noise. On one device a batched step costs about as many single ones, so
the seconds show the price of parallel sampling here, and the span what several devices gain.
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
from abreast import diffuse, zoo

STEPS = 50


def contest(name: str, repeats: int) -> dict[str, Any]:
    """One embedded model, eight digits."""
    labels = list(range(8))
    pipe = zoo.load_pipeline(name)
    noise = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    call = {"class_labels": labels, "batch_size": 8, "num_inference_steps": STEPS, "latents": noise}
    problem = diffuse.Sampling.from_diffusers(pipe, output_type="latent", **call)
    reference = abreast.run(problem, problem.reference)
    methods = [problem.reference, diffuse.ParaDiGMS(16), diffuse.ParaStep(4), diffuse.FewerSteps(17)]
    facts: dict[str, dict[str, float]] = {}

    def ours(method: Any) -> Callable[[], None]:
        def sample() -> None:
            run = abreast.run(problem, method, against=reference)
            facts[abreast.core.label(method)] = {"span": run.ledger.span, "distance": run.distance or 0.0}

        return sample

    ways: dict[str, Callable[[], Any]] = {"diffusers pipeline": lambda: pipe(output_type="latent", **call)}
    ways |= {abreast.core.label(method): ours(method) for method in methods}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, sample in ways.items():
            start = time.perf_counter()
            sample()
            if turn:
                seconds[way].append(time.perf_counter() - start)
    theirs = pipe(output_type="latent", return_dict=False, **call)[0]
    return {
        "model": name,
        "difference": float((reference.value - theirs).abs().max()),
        "seconds": {way: median(times) for way, times in seconds.items()},
        "facts": facts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", default="digits-dit,digits-unet")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results = [contest(name, asked.repeats) for name in asked.models.split(",")]
    table = Table("model", "way", "s", "by the pipeline", "span", "distance", title=f"DDIM {STEPS}, 8 pictures")
    for result in results:
        first = result["seconds"]["diffusers pipeline"]
        for way, seconds in result["seconds"].items():
            facts = result["facts"].get(way, {})
            shown = [f"{facts[k]:.3g}" if k in facts else "" for k in ("span", "distance")]
            table.add_row(result["model"], way, f"{seconds:.3f}", f"{seconds / first:.2f}", *shown)
    Console().print(table)
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
