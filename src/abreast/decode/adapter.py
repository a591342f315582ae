"""From what users have to the engine's face: picks the own forward or the generic adapter, and checks it.

The check is a computation, not a list of names: a prefix, three nodes of which two are siblings, each held against its
own one-by-one run by the library's own causal path.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from abreast.core import AbreastError
from abreast.decode.model import TokenModel

FEW = ((12,), (5, 7), (1, 3, 8), (2, 10), (9, 1, 2))
STEADY = ((0, FEW), (100, FEW), (378, FEW), (505, FEW), (60, ((32,), (11, 21), (22, 10))))

_known: weakref.WeakKeyDictionary[Any, TokenModel] = weakref.WeakKeyDictionary()


def adapt(model: Any) -> TokenModel:
    """The engine's face of a Hugging Face causal LM, checked once; an object that already has the face as it is.

    Raises AbreastError for a model that ignores masks or positions, keeps state that cannot be rolled back, or is no
    causal language model.
    """
    if hasattr(model, "forward") and hasattr(model, "unembed") and hasattr(model, "cache"):
        return model
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise AbreastError(f"a Hugging Face causal language model is wanted, not {type(model).__name__}.")
    if model not in _known:
        _known[model] = _checked(model)
    return _known[model]


def _checked(model: Any) -> TokenModel:
    from abreast.decode.hf import HFRows
    from abreast.decode.llama import LlamaRows, fits

    model.eval()
    if fits(model):
        own = LlamaRows(model)
        own.tune()
        if all(_error(own, model, spare) <= tolerance(own.dtype) for spare in (0, 1, 5, 13, 29)):
            for own.pad in (1, 2, 4):
                own.steady = steady(own)
                if own.steady:
                    return own
            own.pad = 1
            return own
    rows = HFRows(model)
    try:
        error = _error(rows, model)
    except AbreastError:
        raise
    except Exception as failure:
        reason = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
        raise AbreastError(f"{type(model).__name__} refuses a mask of rows ({reason}): guesses cannot be verified "
                           "in one call of it.") from failure  # fmt: skip
    if not error <= tolerance(rows.dtype):
        raise AbreastError(
            f"{type(model).__name__} ignores the attention mask or the positions (a tree of three nodes is off by "
            f"{error:.2g} in its logits): guesses cannot be verified in one call of it."
        )
    rows.trees = True
    rows.steady = steady(rows)
    return rows


def tolerance(dtype: torch.dtype) -> float:
    """How far logits may be from the library's, relative to their spread."""
    return {torch.float64: 1e-5, torch.float32: 2e-3}.get(dtype, 0.4)


@torch.no_grad()
def _error(rows: TokenModel, model: Any, spare: int = 0) -> float:
    """Largest logit difference between a tree in one call and each node's own plain run, by the logits' spread.

    spare: further rows in the call, roots that nobody sees, since kernels differ by the number of rows."""
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None) or 0
    n = min(window + 6 if 0 < window <= 64 else 12, rows.context - 4)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(rows.vocab, (n + 3,), generator=generator).to(rows.device)
    prefix, nodes = ids[:n], ids[n:]
    cache = rows.cache(n + 16 + spare)
    at, zero = torch.arange(n, device=rows.device), torch.zeros(n, dtype=torch.long, device=rows.device)
    see = torch.ones(n, n, dtype=torch.bool, device=rows.device).tril_()
    rows.forward(cache, prefix, at, zero, see, slice(n - 1, n))
    # Two siblings, then a child of the first: position n, n, n + 1, with a stranger between the child and its parent.
    tree = torch.eye(3 + spare, dtype=torch.bool, device=rows.device)
    tree[2, 0] = True
    see = torch.cat([torch.ones(3 + spare, n, dtype=torch.bool, device=rows.device), tree], 1)
    places = torch.tensor([n, n, n + 1, *[n] * spare], device=rows.device)
    more = nodes[torch.arange(3 + spare) % 3]
    got = rows.forward(cache, more, places, torch.zeros_like(places), see, slice(0, 3)).logits
    paths = ([0], [1], [0, 2])
    worst, spread = 0.0, 0.0
    for path, row in zip(paths, got):
        plain = model(input_ids=torch.cat([prefix, nodes[path]])[None]).logits[0, -1]
        worst = max(worst, float((row.double() - plain.double()).abs().max()))
        spread = max(spread, float(plain.double().std()))
    return worst / max(spread, 1e-9)


@torch.no_grad()
def steady(rows: TokenModel) -> bool:
    """Whether a row's bits are the same however many rows share the call: chains of tokens cut in several ways, after
    prefixes of several lengths, some of which cross what kernels take for a block of keys (384, 512)."""
    tried = [(n, cuts) for n, cuts in STEADY if n + sum(cuts[0]) <= rows.context]
    longest = max(n + sum(cuts[0]) for n, cuts in tried)
    ids = torch.randint(rows.vocab, (longest,), generator=torch.Generator().manual_seed(1)).to(rows.device)
    cache = rows.cache(len(ids) + 16)

    def call(start: int, stop: int) -> torch.Tensor:
        part = torch.arange(start, stop, device=rows.device)
        see = torch.arange(stop, device=rows.device)[None] <= part[:, None]
        return rows.forward(cache, ids[part], part, torch.zeros_like(part), see, slice(None)).logits

    def run(n: int, cuts: tuple[int, ...]) -> torch.Tensor:
        cache.crop(n)
        stops = [n + sum(cuts[: i + 1]) for i in range(len(cuts))]
        return torch.cat([call(stop - cut, stop) for cut, stop in zip(cuts, stops)])

    for n, ways in tried:
        cache.crop(0)
        if n:
            call(0, n)
        singly = run(n, (1,) * sum(ways[0]))
        if not all(bool((run(n, cuts) == singly).all()) for cuts in ways):
            return False
    return True
