"""Heads by self-distillation: the model's own answers, its hidden states, and what came further ahead in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from abreast.decode.draft.heads import Heads
from abreast.decode.fused import gate, norm
from abreast.decode.llama import LlamaRows
from abreast.zoo.train.fit import fit

BATCH = 512  # positions a step


def own_answers(
    model: Any, prompts: Sequence[Sequence[int]], new: int, batch: int = 32, seed: int = 0
) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) ids: the model continues each prompt by up to `new` tokens, every other batch greedily, the
    rest sampled at temperature 0.8."""
    end = model.generation_config.eos_token_id
    rows = LlamaRows(model)
    rows.tune()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    pairs = []
    generator = torch.Generator().manual_seed(seed)
    for number, at in enumerate(track(range(0, len(order), batch), description="own answers")):
        group = [list(prompts[i]) for i in order[at : at + batch]]
        for prompt, row in zip(group, _continue(rows, group, new, 0.8 * (number % 2), end, generator)):
            pairs.append((prompt, row[: row.index(end) + 1] if end in row else row))
        print(f"own answers: {len(pairs)} of {len(order)}", flush=True)
    return pairs


@torch.inference_mode()
def _continue(
    rows: LlamaRows, group: list[list[int]], new: int, temperature: float, end: int, generator: torch.Generator
) -> list[list[int]]:
    """A plain batched decoding loop: row b of the batch has its own slots, kv is [layers, 2, B, G, S, D]."""
    B, G, D, longest = len(group), rows.G, rows.D, max(map(len, group))
    kv = torch.zeros(len(rows.layers), 2, B, G, longest + new, D, dtype=rows.dtype)
    at = torch.tensor([len(prompt) for prompt in group])
    last = []
    for b, prompt in enumerate(group):
        n = len(prompt)
        cache, ids, places = rows.cache(n), torch.tensor(prompt), torch.arange(n)
        see = torch.ones(n, n, dtype=torch.bool).tril_()
        last.append(rows.forward(cache, ids, places, torch.zeros_like(places), see, slice(n - 1, n)).logits[0])
        kv[:, :, b, :, :n] = cache.storage[0][:, :, :, :n]
    logits, out = torch.stack(last), []
    slots, lane = torch.arange(longest + new), torch.arange(B)
    for _ in range(new):
        if temperature:
            token = torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            token = logits.argmax(-1)
        out.append(token)
        if bool((torch.stack(out) == end).any(0).all()):
            break
        x, extent = rows.embedding[token], int(at.max()) + 1
        see = torch.where(slots[None, None, None, :extent] <= at[:, None, None, None], 0.0, -torch.inf).to(rows.dtype)
        cos, sin = rows.cos[at][:, None], rows.sin[at][:, None]
        for layer, (k, v) in zip(rows.layers, kv):
            qkv = layer.qkv(norm(x, layer.norms[0], layer.eps)).view(B, -1, D)
            qk = qkv[:, :-G]
            qk = qk * cos + torch.cat((qk[..., D // 2 :], qk[..., : D // 2]), -1) * sin
            k[lane, :, at], v[lane, :, at] = qk[:, -G:], qkv[:, -G:]
            q = qk[:, :-G].view(B, G, -1, D)
            a = scaled_dot_product_attention(q, k[:, :, :extent], v[:, :, :extent], attn_mask=see)
            x = x + layer.o(a.reshape(B, -1))
            x = x + layer.down(gate(layer.up(norm(x, layer.norms[1], layer.eps))))
        logits = rows.unembed(norm(x, rows.norm, rows.eps))
        at = at + 1
    return torch.stack(out, 1).tolist()


@torch.no_grad()
def features(model: Any, pairs: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Hidden states [N, d] after the final norm, tokens [N] and text numbers [N]: for every position from the
    prompt's last on."""
    hidden, tokens, texts = [], [], []
    for number, (prompt, answer) in enumerate(track(pairs, description="hidden states")):
        ids = torch.tensor([[*prompt, *answer]])
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        first = len(prompt) - 1
        hidden.append(states[first:].to(torch.bfloat16))
        tokens.append(ids[0, first:])
        texts.append(torch.full((len(answer) + 1,), number))
    return {"hidden": torch.cat(hidden), "tokens": torch.cat(tokens), "texts": torch.cat(texts)}


def usable(data: dict[str, torch.Tensor], ahead: int, held: bool) -> torch.Tensor:
    """Positions with `ahead` further tokens of the same text; every tenth text is held out."""
    texts = data["texts"]
    n = len(texts) - ahead
    inside = texts[:n] == texts[ahead:]
    return (inside & ((texts[:n] % 10 == 9) == held)).nonzero()[:, 0]


def train_heads(
    heads: Heads, model: Any, data: dict[str, torch.Tensor], folder: Path, steps: int, rate: float = 1e-3,
    frequent: int = 8192, discount: float = 0.8, seed: int = 0,
) -> None:  # fmt: skip
    """Minimise the sum of discount^k cross-entropies of head k; write the heads with their held-out accuracy by rank.

    The heads choose from the `frequent` commonest tokens of the answers: targets outside are left out of the loss, and
    count as missed in the accuracy. Where the model has no more tokens than that, all of them.
    """
    K = heads.heads
    positions = usable(data, K + 1, held=False)
    counts = torch.bincount(data["tokens"], minlength=model.config.vocab_size)
    common = counts.topk(min(frequent, len(counts))).indices
    place = torch.full((len(counts),), -100)
    place[common] = torch.arange(len(common))
    heads.vocabulary = common.to(torch.int32) if len(common) < len(counts) else heads.vocabulary
    output = model.get_output_embeddings().weight.detach()[common].to(torch.bfloat16)
    embedding = model.get_input_embeddings().weight.detach()
    weight = torch.tensor([discount**k for k in range(K)])

    def loss(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        at = positions[torch.randint(len(positions), (BATCH,), generator=generator)]
        with torch.autocast("cpu", torch.bfloat16):
            guess = heads(data["hidden"][at].float(), embedding[data["tokens"][at + 1]].float())
            logits = torch.nn.functional.linear(guess.to(torch.bfloat16), output).float()
        wanted = torch.stack([place[data["tokens"][at + 2 + k]] for k in range(K)], 1)
        losses = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(-1, K)
        return (losses.mean(0) * weight).sum()

    fit(heads, loss, steps=steps, rate=rate, decay=0.01, checkpoint=folder / "checkpoint.safetensors", title="heads")
    heads.accuracy = accuracy(heads, model, data)
    heads.save(folder)


@torch.no_grad()
def accuracy(heads: Heads, model: Any, data: dict[str, torch.Tensor], most: int = 4000) -> torch.Tensor:
    """[K, 10]: how often the token of rank r of head k was right, on held-out texts."""
    K = heads.heads
    at = usable(data, K + 1, held=True)
    at = at[:: max(len(at) // most, 1)]
    output = model.get_output_embeddings().weight.detach()
    vocabulary = heads.vocabulary.long() if len(heads.vocabulary) else torch.arange(len(output))
    output = output[vocabulary]
    embedding = model.get_input_embeddings().weight.detach()
    hits = torch.zeros(K, 10)
    for part in at.split(256):
        guess = heads(data["hidden"][part].float(), embedding[data["tokens"][part + 1]].float())
        best = vocabulary[(guess.to(output.dtype) @ output.T).topk(10).indices]
        wanted = torch.stack([data["tokens"][part + 2 + k] for k in range(K)], 1)
        hits += (best == wanted[..., None]).float().sum(0)
    return hits / len(at)


def gather(model: Any, prompts: Sequence[Sequence[int]], new: int, path: Path) -> dict[str, torch.Tensor]:
    """Own answers and their features, computed once and kept at `path`."""
    answers = path.with_suffix(".json")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not answers.exists():
            answers.write_text(json.dumps(own_answers(model, prompts, new)))
        save_file(features(model, json.loads(answers.read_text())), path)
    return load_file(path)
