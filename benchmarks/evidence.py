"""What README's and the catalog's figures are written from: `make evidence`.

    claims    every claim of the catalog, `evidence/claims/SLUG.json`; the catalog's rows are rewritten
    peers     `decode_peers.py` on SmolLM2 and on the embedded model, `evidence/peers.json`
    bits      texts of 200 tokens, sequential against parallel, `evidence/bits_DTYPE.json`
    rows      the cost of a call against its rows, and replay against measured seconds, `evidence/rows.json`

One step after another, each written as it ends. `--only NAME,...` picks steps; `--quick` shortens them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import abreast
from abreast import decode, zoo
from abreast.core import Ledger, claims
from abreast.core.catalog import papers, record
from abreast.core.errors import AbreastError
from abreast.decode.lineup import method

ROOT = Path(__file__).parents[1]
OUT = ROOT / "evidence"


def write(name: str, value: Any) -> None:
    path = OUT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")


def run_claims(quick: bool) -> None:
    """A row of the catalog says `holds` because this ran."""
    for paper in papers():
        try:
            claims.claim_of(paper.slug)
        except AbreastError:
            continue
        result = claims.try_claim(paper.slug)
        record(paper.slug, "holds" if result.holds else "short", result.measured)
        write(f"claims/{paper.slug}.json", json.loads(result.to_json()))
        print(f"{paper.slug}: {'holds' if result.holds else 'SHORT'} in {result.seconds:.0f} s; {result.measured}")


def run_peers(quick: bool) -> None:
    """Ratios to Hugging Face's own modes."""
    from decode_peers import measure, show

    results = []
    for name, dtype in (("code", "float32"), ("smollm2", "bfloat16"), ("smollm2", "float32")):
        results.append(measure(name, dtype, new=32 if quick else 64, repeats=1 if quick else 3, temperature=0.0))
        show(results[-1])
        write("peers.json", results)


def run_bits(quick: bool) -> None:
    """SmolLM2, texts of 200 tokens: is every text the same, and where not, is it a near tie?"""
    for dtype, prompts in (("float32", 20), ("bfloat16", 50)):
        write(f"bits_{dtype}.json", texts(dtype, 10 if quick else prompts))


def texts(dtype: str, prompts: int) -> dict[str, Any]:
    """Each method's texts against one token at a time."""
    model, tokenizer = zoo.load("smollm2", dtype)
    names = ("prompt-lookup", "jacobi-decoding", "medusa", "lookahead")
    asked = [zoo.chat_ids(tokenizer, text) for text in zoo.training_prompts(7, prompts)]
    facts: dict[str, Any] = {"steady": decode.adapt(model).steady, "prompts": len(asked), "methods": {}}
    for number, ids in enumerate(asked):
        problem = decode.Generation(model, ids, 200, tokenizer=tokenizer)
        reference = abreast.run(problem, problem.reference)
        for name in names:
            found = abreast.run(problem, method(name, "smollm2", problem.model), against=reference)
            row = facts["methods"].setdefault(name, {"same": 0, "near_ties": 0, "broken": 0, "tokens": 0})
            row["same"] += found.distance == 0
            row["near_ties"] += problem.columns(found)["near_ties"]
            row["broken"] += found.kept is False
            row["tokens"] += sum(map(len, found.value))
        print(number + 1, facts["methods"])
    return facts


def run_rows(quick: bool) -> None:
    """Calibrate, decode, and replay what was recorded on the machine as calibrated."""
    from abreast.cli.calibrate import measured
    from abreast.machine import replay

    found = []
    for name, dtype in (("smollm2", "bfloat16"), ("smollm2", "float32"), ("code", "float32")):
        model, tokenizer = zoo.load(name, dtype)
        calibration = measured(model, (1, 2, 4, 8, 16, 32), 192, 5)
        machine = calibration.machine()
        ids = zoo.code_prompts(tokenizer, 1)[0] if name == "code" else zoo.chat_ids(tokenizer, zoo.few(1)[0].text)
        problem = decode.Generation(model, ids, 128, tokenizer=tokenizer)
        ratios = {}
        for kind in ("autoregressive", "prompt-lookup", "jacobi-decoding", "lookahead"):
            run = abreast.run(problem, method(kind, name, problem.model))
            timed = replay(calls_only(run.ledger), machine).makespan
            ratios[kind] = timed / sum(e.end - e.start for e in run.ledger.events if e.kind == "target")
        found.append({"model": name, "dtype": dtype, "curve": calibration.curves["target"], "replayed": ratios})
        print(name, dtype, ratios)
    write("rows.json", found)


def calls_only(ledger: Ledger) -> Ledger:
    """The target's calls of a ledger, without their times: a prompt's call has more rows than the curve covers."""
    calls = Ledger()
    calls.kinds.update(ledger.kinds)
    lane = calls.lane("0")
    for event in ledger.events:
        if event.kind == "target":
            lane.add(event.kind, event.size)
    return calls


def render() -> None:
    """Put the measured table into README, between its markers."""
    readme = ROOT / "README.md"
    start, end = "<!-- evidence:start -->", "<!-- evidence:end -->"
    text = readme.read_text()
    if start not in text or not (OUT / "peers.json").exists():
        return
    before, rest = text.split(start)
    readme.write_text(before + start + "\n" + table() + "\n" + end + rest.split(end)[1])


def table() -> str:
    """Tokens a second and calls of every row, as Markdown."""
    parts = []
    for result in json.loads((OUT / "peers.json").read_text()):
        kinds = list(result["rows"][0]["tokens_per_second"])
        parts.append(f"**{result['model']}, {result['dtype']}**, {result['threads']} CPU threads, greedy, "
                     f"{result['new']} tokens, tokens a second:\n")  # fmt: skip
        parts.append(f"| | {' | '.join(kinds)} | target calls | same text |")
        parts.append("|---|" + "---:|" * (len(kinds) + 2))
        for row in result["rows"]:
            rates = " | ".join(f"{row['tokens_per_second'][kind]:.0f}" for kind in kinds)
            parts.append(f"| {row['row']} | {rates} | {row['calls']} | {row['same_text']} of {row['of']} |")
        parts.append("")
    return "\n".join(parts)


def run_others(quick: bool) -> None:
    """Solvers and samplers beside what one would use instead."""
    for script in ("solve_peers", "diffuse_peers"):
        command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--out", str(OUT / f"{script}.json")]
        subprocess.run([*command, "--repeats", "1" if quick else "3"], check=True)


STEPS: dict[str, Callable[[bool], None]] = {
    "claims": run_claims, "rows": run_rows, "peers": run_peers, "others": run_others, "bits": run_bits,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STEPS))
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    for name in filter(None, asked.only.split(",")):
        STEPS[name](asked.quick)
    render()


if __name__ == "__main__":
    main()
