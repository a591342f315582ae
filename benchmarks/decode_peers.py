"""Ours against Hugging Face `generate`, in one process, on the same model and prompts: medians of interleaved repeats.

    python benchmarks/decode_peers.py [--model smollm2|code] [--dtype float32,bfloat16] [--repeats 3] [--new 128]

Rows: Hugging Face greedy, prompt lookup and assisted generation (where a draft is shipped); our reference and our
methods. Each row: tokens a second by kind of prompt and over all, target calls, and whether the text is the greedy one.
The limit of a one-row step is printed beside: the weights' bytes over the memory bandwidth measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import abreast
from abreast import decode, zoo
from abreast.decode.lineup import available, method, shipped_draft
from abreast.machine.calibrate import measure_bandwidth

OURS = (
    "autoregressive", "prompt-lookup", "aggressive-decoding", "jacobi-decoding", "lookahead", "blockwise-decoding",
    "medusa", "stacked", "speculative-sampling",
)  # fmt: skip
Answer = tuple[list[int], float, int]  # new tokens, seconds, target calls


def library(model: Any, **options: Any) -> Callable[[decode.Generation], Answer]:
    """A mode of Hugging Face generate."""

    def call(problem: decode.Generation) -> Answer:
        ids = torch.tensor([problem.prompts[0]])
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        hook = model.register_forward_pre_hook(count)
        sampled = problem.sampling.temperature > 0
        torch.manual_seed(problem.seed)
        start = time.perf_counter()
        extra = {"do_sample": True, "temperature": problem.sampling.temperature} if sampled else {"do_sample": False}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=problem.max_new_tokens,
                             **extra, **options)  # fmt: skip
        seconds = time.perf_counter() - start
        hook.remove()
        return out[0, ids.shape[1] :].tolist(), seconds, calls

    return call


def ours(chosen: abreast.Method) -> Callable[[decode.Generation], Answer]:
    def call(problem: decode.Generation) -> Answer:
        found = abreast.run(problem, chosen)
        return found.value[0], found.seconds, found.ledger.calls("target") + found.ledger.calls("prefill")

    return call


def problems(name: str, model: Any, tokenizer: Any, new: int, temperature: float) -> list[tuple[str, Any]]:
    """(kind, problem): the evaluation prompts of SmolLM2, or held-out code."""
    sampling = decode.Sampling(temperature=temperature)
    if name == "smollm2":
        chosen = [
            p
            for kind in ("code", "edit", "summary", "chat")
            for p in [q for q in zoo.evaluation() if q.kind == kind][:3]
        ]
        asked = [(p.kind, zoo.chat_ids(tokenizer, p.text)) for p in chosen]
    else:
        asked = [("held-out code", ids) for ids in zoo.code_prompts(tokenizer, 12)]
    return [(kind, decode.Generation(model, ids, new, sampling, seed=i, tokenizer=tokenizer))
            for i, (kind, ids) in enumerate(asked)]  # fmt: skip


def measure(name: str, dtype: str, new: int, repeats: int, temperature: float) -> dict[str, Any]:
    model, tokenizer = zoo.load(name, dtype)
    asked = problems(name, model, tokenizer, new, temperature)
    runners = {"HF generate": library(model), "HF prompt lookup": library(model, prompt_lookup_num_tokens=8)}
    if available("speculative-sampling", name):
        runners["HF assistant"] = library(model, assistant_model=shipped_draft(name, model.dtype))
    for kind in OURS:
        if available(kind, name):
            runners[f"ours: {kind}"] = ours(method(kind, name, decode.adapt(model)))
    seconds: dict[tuple[str, int], list[float]] = {}
    answers: dict[tuple[str, int], Answer] = {}
    for _ in range(repeats):
        for number, (_, problem) in enumerate(asked):
            for row, runner in runners.items():
                answers[row, number] = runner(problem)
                seconds.setdefault((row, number), []).append(answers[row, number][1])
    kinds = list(dict.fromkeys(kind for kind, _ in asked))
    reference = next(row for row in runners if row.startswith("ours"))
    rows = []
    for row in runners:
        rates = {}
        for kind in [*kinds, "all"]:
            mine = [i for i, (k, _) in enumerate(asked) if kind in (k, "all")]
            spent = sum(statistics.median(seconds[row, i]) for i in mine)
            rates[kind] = sum(len(answers[row, i][0]) for i in mine) / spent
        same = sum(answers[row, i][0] == answers[reference, i][0] for i in range(len(asked)))
        count = sum(answers[row, i][2] for i in range(len(asked)))
        rows.append({"row": row, "tokens_per_second": rates, "calls": count, "same_text": same, "of": len(asked)})
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "model": name, "dtype": dtype, "temperature": temperature, "new": new, "repeats": repeats,
        "threads": torch.get_num_threads(), "steady": decode.adapt(model).steady,
        "limit_tokens_per_second": measure_bandwidth() / size, "rows": rows,
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    kinds = list(result["rows"][0]["tokens_per_second"])
    title = "{model}, {dtype}, T = {temperature:g}: tokens a second (medians of {repeats})".format(**result)
    table = Table(*["", *kinds, "calls", "same text"], title=title)
    for row in result["rows"]:
        rates = (f"{row['tokens_per_second'][kind]:.1f}" for kind in kinds)
        table.add_row(row["row"], *rates, str(row["calls"]), f"{row['same_text']} of {row['of']}")
    console = Console(width=140)
    console.print(table)
    console.print(
        f"limit of a one-row step, weights over memory bandwidth: {result['limit_tokens_per_second']:.0f} tokens/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", choices=["smollm2", "code"])
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results = []
    for dtype in asked.dtype.split(","):
        results.append(measure(asked.model, dtype, asked.new, asked.repeats, asked.temperature))
        show(results[-1])
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
