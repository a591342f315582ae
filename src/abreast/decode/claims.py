"""What each paper's headline comes to on this machine, on text that nothing was trained on.

The embedded code model continues modules that were held out of its training; SmolLM2 answers prompts of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from abreast import zoo
from abreast.core import (
    Check,
    Figure,
    Grid,
    Method,
    Run,
    Table,
    at_least,
    at_most,
    claim,
    compare,
    exactly,
    run,
)  # fmt: skip
from abreast.decode.lineup import shipped_heads
from abreast.decode.paths import editor, hasher
from abreast.decode.problem import Generation, common
from abreast.decode.sampling import Sampling
from abreast.decode.speculative.aggressive import AggressiveInput
from abreast.decode.speculative.blockwise import Blockwise
from abreast.decode.speculative.jacobi import Jacobi
from abreast.decode.speculative.lookahead import Lookahead
from abreast.decode.speculative.medusa import Medusa
from abreast.decode.speculative.prompt_lookup import PromptLookup
from abreast.decode.verify import TopK, Typical

GREEDY, SAMPLED = Sampling(), Sampling(temperature=1.0)


@cache
def _code() -> tuple[Any, Any]:
    return zoo.load("code", "float32")


@cache
def _smollm2() -> tuple[Any, Any]:
    return zoo.load("smollm2", "float32")


def held_out_code(n: int, new: int, sampling: Sampling = GREEDY, seed: int = 0) -> list[Generation]:
    """Held-out source code to be continued by the embedded model."""
    model, tokenizer = _code()
    prompts = zoo.code_prompts(tokenizer, n, seed=seed)
    return [Generation(model, p, new, sampling, seed=i, tokenizer=tokenizer) for i, p in enumerate(prompts)]


def questions(new: int, kinds: Sequence[str] = ("code", "edit", "summary", "chat"), each: int = 1) -> list[Generation]:
    """Evaluation prompts for SmolLM2."""
    model, tokenizer = _smollm2()
    chosen = [p for kind in kinds for p in [q for q in zoo.evaluation() if q.kind == kind][:each]]
    return [Generation(model, zoo.chat_ids(tokenizer, p.text), new, tokenizer=tokenizer) for p in chosen]


def calls(found: Run) -> float:
    return found.ledger.calls("target") + found.ledger.calls("prefill")


def tokens(found: Run) -> float:
    return sum(map(len, found.value))


def tokens_per_call(table: Table, method: Any) -> float:
    """tau: committed tokens by target calls, the prompt's call included."""
    return table[method].sum(tokens) / table[method].sum(calls)


def broken(*tables: Table) -> int:
    """Rows of exact methods that gave another text, near ties forgiven; they must be none."""
    return sum(row.kept is False for table in tables for row in table)


@claim("blockwise-decoding", real="trained")
def blockwise() -> Iterator[Check | Grid | Table]:
    exact = Blockwise(shipped_heads("code", "blockwise"), k=4)
    top = replace(exact, verify=TopK(2))
    table = compare(held_out_code(16, 64), [exact, top])
    sampled = compare(held_out_code(8, 64, SAMPLED), [exact])
    yield table
    found = table[exact].runs
    yield exactly("prompts with another text than one token at a time", broken(table, sampled), 0)
    yield exactly("target calls", table[exact].sum(calls), sum(1 + len(r.ledger.series("drafted")) for r in found))
    committed = sum(sum(r.ledger.series("committed")) for r in found)
    yield exactly("tokens committed by those calls", committed, table[exact].sum(tokens))
    block = {m: _tau(table[m].runs) for m in (exact, top)}
    yield at_least("mean accepted block, exact", block[exact], 1.3)
    yield at_least("mean accepted block, top 2, by exact", block[top] / block[exact], 1.01)
    lost = table[top].sum(lambda r: (r.distance or 0) * tokens(r)) / table[top].sum(tokens)
    blind = next(row for row in table if row.control_of)
    yield Grid(
        "what the relaxed rule changes",
        ["rule", "mean block", "share of tokens after the first difference"],
        [["exact", block[exact], 0.0], ["top 2", block[top], lost],
         ["control: as long, unverified", blind.sum(tokens) / blind.sum(calls),
          blind.sum(lambda r: (r.distance or 0) * tokens(r)) / blind.sum(tokens)]],
    )  # fmt: skip
    yield at_least("tokens per call, sampled at T = 1", tokens_per_call(sampled, exact), 1.0)


@claim("jacobi-decoding", real="real")
def jacobi() -> Iterator[Check | Grid | Table]:
    real, code = questions(64), held_out_code(8, 64)
    methods = [Jacobi(window=7), Jacobi(window=7, mode="block")]
    tables = {"SmolLM2": compare(real, methods), "held-out code": compare(code, methods)}
    tables["held-out code, T = 1"] = compare(held_out_code(8, 64, SAMPLED), methods)
    rows = [[name, m.mode, tokens_per_call(t, m), t[m].sum(lambda r: r.ledger.rows("target")) / t[m].sum(tokens)]
            for name, t in tables.items() for m in methods]  # fmt: skip
    yield Grid("tokens per call, rows per token", ["text", "mode", "tokens per call", "rows per token"], rows)
    yield exactly("prompts with another text than one token at a time", broken(*tables.values()), 0)
    excess = max(calls(r) - tokens(r) for t in tables.values() for m in methods for r in t[m].runs)
    yield at_most("target calls beyond tokens, on any prompt", excess, 0)
    hard = compare([Generation(hasher(50, s), [1, 2, 3], 40, eos=()) for s in range(5)], [Jacobi(window=7)])
    yield at_most(
        "calls by tokens, next token a hash of all before", hard[Jacobi].sum(calls) / hard[Jacobi].sum(tokens), 1
    )
    yield at_least("tokens per call, held-out code", tokens_per_call(tables["held-out code"], methods[0]), 1.05)
    yield from _copying()


def _copying() -> Iterator[Check]:
    """A window that starts as a copy of a mistyped source, where the model writes the clean text."""
    tokenizer = _code()[1]
    pairs = zoo.Typos(density=0.02, lines=4, seed=1).pairs(12)
    starts = {"copy": 0.0, "pad": 0.0}
    wrong = 0
    for clean, typed in pairs:
        answer, source = tokenizer.encode(clean), tokenizer.encode(typed)
        problem = Generation(editor(answer, 1, 4096), [1], len(answer), eos=())
        for init in starts:
            found = run(problem, Jacobi(window=len(answer), init=init, source=tuple(source)))  # type: ignore[arg-type]
            starts[init] += calls(found)
            if init == "copy":
                # The prompt's call wrote the first token, and the last is always the model's own.
                wrong += found.ledger.series("accepted")[0] != common(answer[1:-1], source[1:])
    yield exactly("mistyped texts whose first window did not accept the common prefix", wrong, 0)
    yield at_most("calls from a copy of the source, by calls from padding", starts["copy"] / starts["pad"], 1.0)


@claim("aggressive-decoding", real="real")
def aggressive() -> Iterator[Check | Grid | Figure | Table]:
    table = compare(questions(96, ("edit",), each=4), [AggressiveInput(), PromptLookup(draft_tokens=15)])
    yield table
    yield exactly("prompts with another text than one token at a time", broken(table), 0)
    yield at_least("SmolLM2 editing, tokens per call", tokens_per_call(table, AggressiveInput), 2.0)
    points = [(edits, _one_edit_in(edits)) for edits in (10, 20, 40, 80)]
    yield Figure("tokens per call against tokens per edit", "tokens per edit", "tokens per call",
                 {"aggressive": [(e, t) for e, (t, _) in points]})  # fmt: skip
    taus = [tau for _, (tau, _) in points]
    yield exactly("texts that came out changed", sum(changed for _, (_, changed) in points), 0)
    yield at_least("one edit in 40 tokens, tokens per call", taus[2], 5.0)
    yield exactly("tokens per call rise as edits get rarer", sorted(taus) == taus, True)


def _one_edit_in(every: int) -> tuple[float, int]:
    """(tokens per call, wrong texts) where a model copies held-out source but changes one token in `every`."""
    tokenizer = _code()[1]
    made = spent = changed = 0
    for number, source in enumerate(zoo.code_prompts(tokenizer, 8, 240, seed=2)):
        answer = [t if (i + number) % every else 4000 + i % 90 for i, t in enumerate(source, 1)]
        problem = Generation(editor(answer, 1, 4096), [1], len(answer), eos=())
        found = run(problem, AggressiveInput(source=tuple(source), draft_tokens=64))
        made, spent = made + len(answer), spent + int(calls(found))
        changed += found.value[0] != answer
    return made / spent, changed


@claim("medusa", real="trained")
def medusa() -> Iterator[Check | Grid | Table]:
    heads = shipped_heads("code", "medusa")
    exact = Medusa(heads, nodes=16)
    typical = Medusa(heads, nodes=16, verify=Typical())
    table = compare(held_out_code(50, 48), [exact])
    sampled = compare(held_out_code(16, 48, SAMPLED), [exact, typical])
    yield table
    yield exactly("prompts with another text than one token at a time", broken(table, sampled), 0)
    steps = table[exact].sum(lambda r: r.ledger.calls("target"))
    accepted = table[exact].sum(lambda r: sum(r.ledger.series("committed")[1:])) - steps
    yield exactly("tokens = prompts + steps + accepted nodes", table[exact].sum(tokens), 50 + steps + accepted)
    # Each node's own accuracy where steps stop, counted on one half of the prompts, predicts the other half.
    first, second = (compare(held_out_code(50, 48, seed=s), [exact])[exact] for s in (3, 4))
    predicted, measured = 1 + _expected(first.runs, heads), _tau(second.runs)
    yield at_most("prediction from path products, relative error", abs(predicted / measured - 1), 0.15)
    yield at_least("tokens per step, greedy", _tau(table[exact].runs), 1.6)
    rate = {m: _tau(sampled[m].runs) for m in (exact, typical)}
    yield at_least("typical acceptance at T = 1, tokens per step by exact", rate[typical] / rate[exact], 1.0)
    changed = sum((r.distance or 0) > 0 for r in sampled[typical].runs)
    yield Grid("typical acceptance at T = 1", ["verifier", "tokens per step", "texts changed of 16"],
               [["match", rate[exact], 0], ["typical", rate[typical], changed]])  # fmt: skip


def _tau(runs: Sequence[Run]) -> float:
    """Tokens a step, uncut."""
    return 1 + sum(r.ledger.total("accepted") for r in runs) / sum(r.ledger.calls("target") for r in runs)


def _expected(runs: Sequence[Run], heads: Any, nodes: int = 16) -> float:
    """Sum over the tree's nodes of the product of its heads' accuracies, those counted where the runs' steps began."""
    from abreast.core import Ledger
    from abreast.decode.draft.heads import HeadsOn, greedy_tree

    paths = greedy_tree(heads.accuracy, nodes - 1)
    K, ranks = heads.heads, 1 + max(max(path) for path in paths)
    hits, seen = torch.zeros(K, ranks), torch.zeros(K)
    for found in runs:
        problem, text = found.problem, [*found.problem.prompts[0], *found.value[0]]  # type: ignore[attr-defined]
        on = HeadsOn(heads, problem.model, Ledger().lane("0"))  # type: ignore[attr-defined]
        states = hidden_states(problem.model, text)  # type: ignore[attr-defined]
        at = len(problem.prompts[0])  # type: ignore[attr-defined]
        for committed in [1, *found.ledger.series("committed")[1:-1]]:
            at += committed
            best = on.top(states[at - 2], text[at - 1], ranks)
            for k in range(min(K, len(text) - at)):
                seen[k] += 1
                hits[k] += torch.tensor([token == text[at + k] for token in best[k]])
    accuracy = hits / seen[:, None]
    return sum(math.prod(float(accuracy[d, r]) for d, r in enumerate(path)) for path in paths)


def hidden_states(model: Any, text: Sequence[int]) -> torch.Tensor:
    """[n, d], after the final norm, of a text computed in one call."""
    n = len(text)
    at = torch.arange(n)
    see = torch.ones(n, n, dtype=torch.bool).tril_()
    return model.forward(model.cache(n), torch.tensor(text), at, torch.zeros_like(at), see, slice(None)).hidden


@claim("lookahead", real="real")
def lookahead() -> Iterator[Check | Grid | Figure | Table]:
    real = compare(questions(64), [Lookahead(window=4, ngram=4, guesses=4)])
    yield real
    curves: dict[str, list[tuple[float, float]]] = {}
    tables = []
    for name, sampling in (("greedy", GREEDY), ("T = 1", SAMPLED)):
        methods: list[Method] = [Lookahead(window=w, ngram=4, guesses=w, from_text=False) for w in (2, 4, 8, 16)]
        both = Lookahead(window=8, ngram=4, guesses=8)
        table = compare(held_out_code(10, 64, sampling), [*methods, both])
        tables.append(table)
        curves[name] = [(math.log2(w), tokens_per_call(table, m)) for w, m in zip((2, 4, 8, 16), methods)]
        control = next(row for row in table if row.control_of)
        yield Grid(
            f"held-out code, {name}",
            ["n-grams from", "tokens per call"],
            [["window alone, W = 8", curves[name][2][1]],
             ["text alone (control)", control.sum(tokens) / control.sum(calls)],
             ["both", tokens_per_call(table, both)]],
        )  # fmt: skip
        yield exactly(f"rows beyond (N - 1)(W + G), {name}", _excess_rows(table[both].runs, 4, 8, 8), 0)
    yield Figure("tokens per call against log2 of the window", "log2 W", "tokens per call", curves)
    yield exactly("prompts with another text than one token at a time", broken(real, *tables), 0)
    for name, points in curves.items():
        yield at_least(f"slope of tokens per call against log2 W, {name}", _slope(points), 1e-9)
    yield at_least("tokens per call at W = 8, greedy", curves["greedy"][2][1], 1.3)


def _excess_rows(runs: Sequence[Run], ngram: int, window: int, guesses: int) -> int:
    """Calls, the window being full, that had more rows than the formula or another number of window rows."""
    wrong = 0
    for found in runs:
        sizes = [event.size for event in found.ledger.events if event.kind == "target"]
        for size, drafted in list(zip(sizes, found.ledger.series("drafted")))[ngram - 2 :]:
            wrong += size > (ngram - 1) * (window + guesses) or size - drafted != (ngram - 1) * window
    return wrong


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares."""
    x, y = (sum(values) / len(points) for values in zip(*points))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
