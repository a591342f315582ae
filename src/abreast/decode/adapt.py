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
        if _error(own, model) <= tolerance(own.dtype):
            own.tune()
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
    return {torch.float64: 1e-5, torch.float32: 2e-3}.get(dtype, 0.2)


@torch.no_grad()
def _error(rows: TokenModel, model: Any) -> float:
    """Largest logit difference between a tree in one call and each node's own plain run, by the logits' spread."""
    window = getattr(model.config.get_text_config(decoder=True), "sliding_window", None) or 0
    n = min(window + 6 if 0 < window <= 64 else 12, rows.context - 4)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(rows.vocab, (n + 3,), generator=generator).to(rows.device)
    prefix, nodes = ids[:n], ids[n:]
    cache = rows.cache(n + 16)
    at, zero = torch.arange(n, device=rows.device), torch.zeros(n, dtype=torch.long, device=rows.device)
    see = torch.ones(n, n, dtype=torch.bool, device=rows.device).tril_()
    rows.forward(cache, prefix, at, zero, see, slice(n - 1, n))
    # Two siblings, then a child of the first: position n, n, n + 1, with a stranger between the child and its parent.
    tree = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1]], dtype=torch.bool, device=rows.device)
    see = torch.cat([torch.ones(3, n, dtype=torch.bool, device=rows.device), tree], 1)
    got = rows.forward(cache, nodes, torch.tensor([n, n, n + 1], device=rows.device), zero[:3], see, slice(None)).logits
    paths = ([0], [1], [0, 2])
    worst, spread = 0.0, 0.0
    for path, row in zip(paths, got):
        plain = model(input_ids=torch.cat([prefix, nodes[path]])[None]).logits[0, -1]
        worst = max(worst, float((row.double() - plain.double()).abs().max()))
        spread = max(spread, float(plain.double().std()))
    return worst / max(spread, 1e-9)


@torch.no_grad()
def steady(rows: TokenModel) -> bool:
    """Whether a row's bits are the same however many rows share the call, on a chain of 40 tokens cut in many ways."""
    n = min(40, rows.context)
    ids = torch.randint(rows.vocab, (n,), generator=torch.Generator().manual_seed(1)).to(rows.device)

    def run(*cuts: int) -> torch.Tensor:
        cache, parts, at = rows.cache(n + 16), [], 0
        for cut in (*cuts, n - sum(cuts)):
            part = torch.arange(at, at + cut, device=rows.device)
            see = torch.arange(at + cut, device=rows.device)[None] <= part[:, None]
            parts.append(rows.forward(cache, ids[part], part, torch.zeros_like(part), see, slice(None)).logits)
            at += cut
        return torch.cat(parts)

    singly = run(*[1] * (n - 1))
    return all(bool((run(*cuts) == singly).all()) for cuts in ((2, 3, 5, 7, 11), (1, 16, 1, 4), (9, 1, 1, 13)))
