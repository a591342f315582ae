"""Small tasks that need one dependent step after the other, small tasks that do not, and the nets that try them.

Axes: B batch, K length of the word, V symbols, D width, S token positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, permutations
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, scaled_dot_product_attention

from abreast.core import AbreastError


@dataclass(frozen=True)
class Words:
    """Words over V symbols, and at every position what is asked of the word so far: tokens and answers [B, K].

    name: "Z2", "S3", "S5" (the product so far in that group, V its order, of generators for S5); "majority" (of bits)
    and "max" (of V = 6 symbols), which need no order.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in ("Z2", "S3", "S5", "majority", "max"):
            raise AbreastError(f"a task is Z2, S3, S5, majority or max, not {self.name!r}.")

    @property
    def classes(self) -> int:
        return {"Z2": 2, "S3": 6, "S5": 120, "majority": 2, "max": 6}[self.name]

    @property
    def symbols(self) -> int:
        return 2 if self.name == "S5" else self.classes

    def draw(self, B: int, K: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(self.symbols, (B, K), generator=generator)
        if self.name == "majority":
            return tokens, (2 * tokens.cumsum(1) > torch.arange(1, K + 1)).long()
        if self.name == "max":
            # Large symbols rare, or every word's maximum would be the largest of all.
            rare = torch.rand(B, K, generator=generator).pow(1 / 6)
            tokens = (rare * self.symbols).long().sub(self.symbols - 1).abs().clamp_max(self.symbols - 1)
            return tokens, tokens.cummax(1).values
        table, state, states = _table(self.name), torch.zeros(B, dtype=torch.long), []
        if self.name == "S5":
            table = table[:, [_CYCLE, _SWAP]]
        for k in range(K):
            state = table[state, tokens[:, k]]
            states.append(state)
        return tokens, torch.stack(states, 1)


_CYCLE, _SWAP = 33, 24  # (0 1 2 3 4) and (0 1) among the permutations of five in lexical order: they generate S5


@cache
def _table(name: str) -> Tensor:
    """The group's multiplication table, element 0 the identity."""
    if name == "Z2":
        return torch.tensor([[0, 1], [1, 0]])
    elements = list(permutations(range(int(name[1:]))))
    index = {element: i for i, element in enumerate(elements)}
    return torch.tensor([[index[tuple(a[i] for i in b)] for b in elements] for a in elements])


class Block(nn.Module):
    """Causal attention that sees how far back a token is by one slope a head (ALiBi), and a perceptron."""

    def __init__(self, D: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(D), nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))
        self.slope = nn.Parameter(torch.tensor([2.0, 0.5, 0.1, 0.0][:heads]))

    def forward(self, x_BSD: Tensor) -> Tensor:
        B, S, D = x_BSD.shape
        q, k, v = self.qkv(self.norm(x_BSD)).view(B, S, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        back = (torch.arange(S)[None] - torch.arange(S)[:, None]).float()
        bias = (self.slope[:, None, None] * back).masked_fill(back > 0, -torch.inf)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(B, -1, -1, -1))
        x_BSD = x_BSD + self.out(seen.transpose(1, 2).reshape(B, S, D))
        return x_BSD + self.mlp(x_BSD)


class Deep(nn.Module):
    """A Transformer of fixed depth: all positions at once, `depth` dependent layers whatever the length. A first token
    of its own lets it tell one symbol from several of the same."""

    def __init__(self, symbols: int, classes: int, depth: int, width: int):
        super().__init__()
        self.embed = nn.Embedding(symbols + 1, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, tokens_BK: Tensor) -> Tensor:
        first = torch.full_like(tokens_BK[:, :1], self.embed.num_embeddings - 1)
        return self.head(self.blocks(self.embed(torch.cat((first, tokens_BK), 1))))[:, 1:]


class Recurrent(nn.Module):
    """A GRU: one dependent step a token."""

    def __init__(self, symbols: int, classes: int, width: int):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(symbols, width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens_BK: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens_BK))[0])


class Written(nn.Module):
    """A shallow Transformer that writes every intermediate answer down and reads it again: token, answer, token, ..."""

    def __init__(self, symbols: int, classes: int, depth: int, width: int):
        super().__init__()
        self.symbols, self.classes = symbols, classes
        self.deep = Deep(symbols + classes, classes, depth, width)

    def train_logits(self, tokens_BK: Tensor, answers_BK: Tensor) -> Tensor:
        """Logits of each answer, the answers before it given."""
        both = torch.stack((tokens_BK, answers_BK + self.symbols), -1).flatten(1)
        return self.deep(both[:, :-1])[:, ::2]

    def forward(self, tokens_BK: Tensor) -> Tensor:
        """Answers written one after the other, as scores [B, K, classes]."""
        text = tokens_BK[:, :1]
        answers = []
        for k in range(tokens_BK.shape[1]):
            answers.append(self.deep(text)[:, -1].argmax(-1))
            text = torch.cat((text, answers[-1][:, None] + self.symbols, tokens_BK[:, k + 1 : k + 2]), 1)
        return one_hot(torch.stack(answers, 1), self.classes).float()


class Denoiser(nn.Module):
    """Gaussian diffusion of the one-hot final answer, given the word: a fixed-depth net that sees word, noisy answer
    and noise level, and says what the answer is."""

    def __init__(self, symbols: int, classes: int, depth: int, width: int):
        super().__init__()
        self.classes = classes
        self.embed, self.noisy = nn.Embedding(symbols + 1, width), nn.Linear(classes + 1, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, tokens_BK: Tensor, y_BC: Tensor, level_B: Tensor) -> Tensor:
        last = self.noisy(torch.cat((y_BC, level_B[:, None]), -1))[:, None]
        first = torch.full_like(tokens_BK[:, :1], self.embed.num_embeddings - 1)
        word = self.embed(torch.cat((first, tokens_BK), 1))
        return self.head(self.blocks(torch.cat((word, last), 1)))[:, -1]

    def loss(self, tokens_BK: Tensor, answers_B: Tensor, generator: torch.Generator) -> Tensor:
        # Half of them are pure noise, where sampling starts: else the net learns to read the answer, not the word.
        level = (2 * torch.rand(len(answers_B), generator=generator)).clamp_max(1.0)
        noise = torch.randn(len(answers_B), self.classes, generator=generator)
        y = (1 - level[:, None]).sqrt() * one_hot(answers_B, self.classes) + level[:, None].sqrt() * noise
        return cross_entropy(self(tokens_BK, y, level), answers_B)

    @torch.no_grad()
    def sample(self, tokens_BK: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Answers [B] after that many ancestral steps from pure noise, variance from 1 to 0 evenly."""
        y = torch.randn(len(tokens_BK), self.classes, generator=generator)
        levels = torch.linspace(1, 0, steps + 1)
        for now, then in pairwise(levels):
            clean = self(tokens_BK, y, now.expand(len(y))).softmax(-1)
            noise = torch.randn(y.shape, generator=generator)
            y = sqrt(1 - then) * clean + sqrt(then) * noise
        return clean.argmax(-1)


Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def fit(
    net: nn.Module, loss: Loss, task: Words, K: int, updates: int, batch: int, seed: int, final: bool = False
) -> None:
    """Adam on fresh words of up to K symbols; `final`: only a word's last answer is given, of words of every length."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=updates)
    for _ in range(updates):
        length = int(torch.randint(1, K + 1, (), generator=generator)) if final else K
        tokens, answers = task.draw(batch, length, generator)
        optimizer.zero_grad()
        loss(tokens, answers[:, -1] if final else answers, generator).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def prefix_loss(net: nn.Module) -> Loss:
    """Cross-entropy of all prefixes' answers."""

    def loss(tokens: Tensor, answers: Tensor, generator: torch.Generator) -> Tensor:
        logits = net.train_logits(tokens, answers) if isinstance(net, Written) else net(tokens)
        return cross_entropy(logits.flatten(0, 1), answers.flatten())

    return loss


@torch.no_grad()
def accuracy(net: nn.Module, task: Words, K: int, batch: int = 256, seed: int = 10**6) -> list[float]:
    """Share of right answers after 1 .. K symbols, on words that were not drawn in training."""
    tokens, answers = task.draw(batch, K, torch.Generator().manual_seed(seed))
    return (net(tokens).argmax(-1) == answers).float().mean(0).tolist()


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def nets(task: Words, width: int = 64) -> Iterator[tuple[str, nn.Module]]:
    """Equal parameters within some ten percent: depth 1, 2, 4, 8 of falling width, a GRU, and written-out steps."""
    for depth in (1, 2, 4, 8):
        D = max(8, int(width / sqrt(depth) / 4 + 0.5) * 4)
        yield f"Transformer, {depth} layer{'s' * (depth > 1)}", Deep(task.symbols, task.classes, depth, D)
    yield "recurrent", Recurrent(task.symbols, task.classes, int(width * sqrt(2)))
    yield "1 layer, steps written out", Written(task.symbols, task.classes, 1, width)
