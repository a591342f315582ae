"""Heads on a frozen model: each guesses one token further ahead from the last hidden state.

Axes: K heads, d width, R ranks, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from abreast.core import AbreastError, Kind, Lane
from abreast.decode.kernels import ROWS, Matrix, packable
from abreast.decode.model import TokenModel


class Heads(nn.Module):
    """hidden [..., d], pending token's embedding [..., d] -> hidden of K guesses [..., K, d], for the model's own
    output matrix. `accuracy` [K, R]: how often the token of rank r of head k was right, on text it was not trained on.
    `vocabulary` [F]: the tokens that the heads choose from, empty for all; reading a few thousand rows of the output
    matrix instead of all is what makes guessing cheap beside a small model (Zhao et al., "FR-Spec", 2025).
    """

    kind = ""
    accuracy: torch.Tensor
    vocabulary: torch.Tensor

    def __init__(self, heads: int, width: int):
        super().__init__()
        self.heads, self.width = heads, width
        self.register_buffer("accuracy", torch.zeros(heads, 10))
        self.register_buffer("vocabulary", torch.zeros(0, dtype=torch.int32))

    def save(self, folder: Path, **about: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.to(torch.bfloat16 if v.is_floating_point() else v.dtype) for k, v in self.state_dict().items()}
        save_file(tensors, folder / "heads.safetensors", metadata={"settings": json.dumps(self.settings() | about)})

    def settings(self) -> dict[str, Any]:
        return {"kind": self.kind, "heads": self.heads, "width": self.width}


class MedusaHeads(Heads):
    """h + SiLU(V_k h) (Cai et al., 2024), with the model's own output matrix in place of a trained copy of it.

    pending: the heads also see the embedding of the token that is known but not computed yet, SiLU(V_k h + U_k e)
    (as in Hydra, Ankner et al., 2024).
    """

    kind = "medusa"

    def __init__(self, heads: int, width: int, pending: bool = False):
        super().__init__(heads, width)
        self.pending = pending
        self.v = nn.Parameter(torch.zeros(heads, width, width))
        self.b = nn.Parameter(torch.zeros(heads, width))
        if pending:
            self.u = nn.Parameter(torch.zeros(heads, width, width))

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"pending": self.pending}

    def forward(self, hidden: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        inside = torch.einsum("...d,kde->...ke", hidden, self.v) + self.b
        if self.pending:
            inside = inside + torch.einsum("...d,kde->...ke", embedding, self.u)
        return hidden[..., None, :] + nn.functional.silu(inside)


class BlockwiseHeads(Heads):
    """h + (W_2 relu(W_1 h))_k (Stern et al., 2018): one wide hidden layer, its output split among the heads."""

    kind = "blockwise"

    def __init__(self, heads: int, width: int, inner: int = 256):
        super().__init__(heads, width)
        self.inner = inner
        self.first = nn.Linear(width, heads * inner)
        self.second = nn.Linear(heads * inner, heads * width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"inner": self.inner}

    def forward(self, hidden: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        steps = self.second(torch.relu(self.first(hidden)))
        return hidden[..., None, :] + steps.unflatten(-1, (self.heads, self.width))


KINDS: dict[str, type[Heads]] = {kind.kind: kind for kind in (MedusaHeads, BlockwiseHeads)}


def load_heads(folder: str | Path) -> Heads:
    """Heads that `Heads.save` wrote; in float32."""
    path = Path(folder) / "heads.safetensors"
    if not path.exists():
        raise AbreastError(f"there are no heads at {folder}: heads.safetensors is missing.")
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["settings"])
    names = {"medusa": ("heads", "width", "pending"), "blockwise": ("heads", "width", "inner")}[settings["kind"]]
    heads = KINDS[settings["kind"]](**{name: settings[name] for name in names})
    tensors = load_file(path)
    heads.vocabulary = tensors.setdefault("vocabulary", heads.vocabulary)
    heads.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    return heads.eval()


class HeadsOn:
    """Heads beside the model whose hidden states they read: one guess is one event of K rows on the lane."""

    def __init__(self, heads: Heads, model: TokenModel, lane: Lane, most: int | None = None):
        if heads.width != model.width:
            raise AbreastError(
                f"the heads are made for a model of width {heads.width}, and this one has {model.width}."
            )
        self.heads = heads.to(model.device, model.dtype)
        self.model, self.lane = model, lane
        self.most = min(most or heads.heads, heads.heads)
        self.tokens: list[int] = heads.vocabulary.tolist()
        if self.tokens:
            output = Matrix([model.output(heads.vocabulary.long().to(model.device))], [None])
            output.settle(["packed" if packable(output.weight) else "linear"] * len(ROWS))
            self.read: Callable[[torch.Tensor], torch.Tensor] = output
        else:
            self.read = model.unembed
        choices = len(self.tokens) or model.vocab
        size = sum(p.numel() for p in heads.parameters()) / heads.heads + choices * model.width
        unit = size / model.parameters
        lane.ledger.kinds.setdefault("heads", Kind(unit=unit, flops=2.0 * size, reads=size * model.dtype.itemsize))

    @torch.inference_mode()
    def top(self, hidden: torch.Tensor, pending: int, ranks: int) -> list[list[int]]:
        """The `ranks` best tokens of each head, after hidden [d] and the token that follows it."""
        with self.lane.measure("heads", self.most, span=1.0):
            embedding = self.model.embed(torch.tensor([pending], device=self.model.device))[0]
            logits = self.read(self.heads(hidden.clone(), embedding)[: self.most])
            best = (logits.topk(ranks).indices if ranks > 1 else logits.argmax(-1, keepdim=True)).tolist()
            return [[self.tokens[i] for i in row] for row in best] if self.tokens else best


def greedy_tree(accuracy: torch.Tensor, nodes: int) -> list[tuple[int, ...]]:
    """The paths of ranks (one per depth) of the `nodes` likeliest nodes, parents first: each step adds the node whose
    product of accuracies is largest (Cai et al., 2024, section 2.3.3)."""
    heads, ranks = accuracy.shape
    chosen: list[tuple[int, ...]] = []
    frontier: dict[tuple[int, ...], float] = {(0,): float(accuracy[0, 0])}
    while frontier and len(chosen) < nodes:
        path = max(frontier, key=lambda p: (frontier[p], -len(p)))
        value = frontier.pop(path)
        chosen.append(path)
        depth, rank = len(path), path[-1]
        if rank + 1 < ranks and float(accuracy[depth - 1, rank]) > 0:
            sibling = value / float(accuracy[depth - 1, rank]) * float(accuracy[depth - 1, rank + 1])
            frontier[(*path[:-1], rank + 1)] = sibling
        if depth < heads:
            frontier[(*path, 0)] = value * float(accuracy[depth, 0])
    return chosen


def parents_of(paths: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The parent's index of each path; -1 for depth one."""
    index = {path: i for i, path in enumerate(paths)}
    return tuple(index[path[:-1]] if len(path) > 1 else -1 for path in index)
