"""The own forward of Llama-shaped models (Llama, Mistral, Qwen2, Qwen3, SmolLM): the same weights, fewer operations.

Axes: m rows, H query heads, G key-value heads, D head width, S slots of the extent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from abreast.attention import SlotCache
from abreast.decode.fused import Plain, norm, ready, steps
from abreast.decode.kernels import MOST, Matrix, tune
from abreast.decode.model import Out

# Extents are rounded up to a block of slots within which attention's order of summation is fixed: bfloat16 products
# go by 32; those of float32 split a sum of more than 384 by its length, but attention never has more than 512 in one.
BLOCK, BLOCK_F32 = 32, 512
SHAPED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def fits(model: Any) -> bool:
    """Whether the model is of a shape that this forward computes."""
    c = model.config
    return (
        type(model).__name__ in SHAPED
        and c.hidden_act == "silu"
        and set(getattr(c, "layer_types", None) or ["full_attention"]) <= {"full_attention"}
        and not getattr(c, "quantization_config", None)
    )


class _Layer:
    def __init__(self, layer: Any):
        a, f = layer.self_attn, layer.mlp
        qkv = (a.q_proj, a.k_proj, a.v_proj)
        self.qkv = Matrix([p.weight for p in qkv], [p.bias for p in qkv])
        self.o = Matrix([a.o_proj.weight], [a.o_proj.bias])
        self.up = Matrix([f.gate_proj.weight, f.up_proj.weight], [f.gate_proj.bias, f.up_proj.bias])
        self.down = Matrix([f.down_proj.weight], [f.down_proj.bias])
        self.norms = layer.input_layernorm.weight.detach(), layer.post_attention_layernorm.weight.detach()
        self.scales = [ready(weight) for weight in self.norms]
        self.eps = layer.input_layernorm.variance_epsilon
        self.qk_norms: tuple[torch.Tensor, ...] = ()
        if hasattr(a, "q_norm"):
            self.qk_norms = a.q_norm.weight.detach(), a.k_norm.weight.detach()


class _Slots(SlotCache):
    """Keys and values [layers, 2, G, S, D]."""

    def __init__(self, capacity: int, rows: LlamaRows):
        self.block = rows.block
        super().__init__(-(-capacity // self.block) * self.block, rows.device)
        shape = (len(rows.layers), 2, rows.G, self.capacity, rows.D)
        self.storage.append(torch.zeros(shape, dtype=rows.dtype, device=rows.device))
        self._ready = [ready(kv) for kv in self.storage[0]]
        self._views: tuple[int, list[tuple[Any, torch.Tensor, torch.Tensor]]] = (0, [])

    @property
    def extent(self) -> int:
        return -(-self.length // self.block) * self.block

    def layers(self) -> list[tuple[Any, torch.Tensor, torch.Tensor]]:
        """Of every layer: all of it, the keys and the values [G, 1, S, D] up to the extent. Made once an extent."""
        extent = self.extent
        if self._views[0] != extent:
            keys, values = self.storage[0][:, :, :, None, :extent].unbind(1)
            self._views = extent, list(zip(self._ready, keys, values))
        return self._views[1]


class LlamaRows:
    """Same face as the generic adapter, one fused pass over a preallocated cache. pad: rows are rounded up to it."""

    def __init__(self, model: Any):
        c = self.config = model.config
        self.model = model
        self.D = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        self.H, self.G = c.num_attention_heads, c.num_key_value_heads
        self.layers = [_Layer(layer) for layer in model.model.layers]
        self.head = Matrix([model.lm_head.weight], [model.lm_head.bias])
        self.embedding = model.model.embed_tokens.weight.detach()
        self.norm = model.model.norm.weight.detach()
        self.scale = ready(self.norm)
        self.eps = model.model.norm.variance_epsilon
        self.window = c.sliding_window if type(model).__name__ == "MistralForCausalLM" else None
        self.vocab, self.width = self.head.weight.shape
        self.context = c.max_position_embeddings
        self.parameters = sum(p.numel() for p in model.parameters())
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.steady, self.trees, self.pad, self.block = False, True, 1, BLOCK
        self.steps: dict[int, Plain] = {}  # by row count
        self._rotary(min(self.context, 1024))

    @property
    def matrices(self) -> list[Matrix]:
        """In the order of a call."""
        return [*(m for layer in self.layers for m in (layer.qkv, layer.o, layer.up, layer.down)), self.head]

    def tune(self) -> None:
        """Pick the cheapest kernels for this machine, from its own weights."""
        with torch.inference_mode():
            packed = tune(self.matrices)
        # Longer extents cost time, so only where the products keep a row's bits too.
        self.block = BLOCK_F32 if packed and self.dtype == torch.float32 else BLOCK

    def _rotary(self, positions: int) -> None:
        """cos and signed sin [P, D] of the module's own rotary embedding, for positions below P."""
        ids = torch.arange(positions, device=self.device)[None]
        with torch.no_grad():
            cos, sin = self.model.model.rotary_emb(self.embedding[:1], ids)
        sign = torch.ones(self.D, dtype=sin.dtype, device=self.device)
        sign[: self.D // 2] = -1
        self.cos, self.sin = cos[0].contiguous(), sin[0] * sign
        self.tables = ready(self.cos), ready(self.sin)

    def cache(self, capacity: int) -> _Slots:
        return _Slots(capacity + 32, self)

    @torch.inference_mode()
    def forward(
        self, cache: SlotCache, tokens: torch.Tensor, positions: torch.Tensor, owners: torch.Tensor,
        see: torch.Tensor, want: slice | torch.Tensor,
    ) -> Out:  # fmt: skip
        assert isinstance(cache, _Slots)
        m, start = len(tokens), cache.length
        extra = -m % self.pad
        if extra:
            tokens, positions, owners = (pad(x, (0, extra)) for x in (tokens, positions, owners))
        cache.append(positions, owners)
        last = int(positions.max())
        if last >= len(self.cos):
            self._rotary(last + 512)
        rows = m + extra
        step = self.steps.get(rows) or steps(rows, self.G, self.H // self.G, self.D, self.width, self.embedding)
        if rows <= MOST:
            self.steps[rows] = step
        step.begin(self.tables, positions)
        bias = self._bias(step, cache, see, positions)
        y = self.embedding[tokens]
        for layer, (kv, k, v) in zip(self.layers, cache.layers()):
            y = self._layer(step, layer, y, kv, k, v, start, bias)
        cache.crop(start + m)
        hidden = step.norm(y, self.scale, self.eps)[:m][want].clone()
        return Out(self.unembed(hidden), hidden)

    def _bias(self, step: Plain, cache: SlotCache, see: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Additive mask [A, S]: the query heads that share keys are rows of one attention."""
        bias = torch.full((step.A, cache.extent), -torch.inf, dtype=self.dtype, device=self.device)
        heads = bias[: step.R * step.m].view(step.R, step.m, -1)
        heads[:, : len(see), : see.shape[1]].masked_fill_(see, 0.0)
        if self.window:
            far = cache.positions[None, : cache.extent] <= positions[:, None] - self.window
            heads.masked_fill_(far, -torch.inf)
        bias[step.R * step.m :, 0] = 0.0  # rows that only fill up see anything finite
        heads[:, len(see) :, 0] = 0.0
        return bias

    def _layer(
        self, step: Plain, layer: _Layer, y: torch.Tensor, kv: Any, k: torch.Tensor, v: torch.Tensor,
        start: int, bias: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        qkv = layer.qkv(step.norm(y, layer.scales[0], layer.eps))
        if layer.qk_norms:
            qkv = self._normed(qkv, layer)
        a = scaled_dot_product_attention(step.turn(qkv, kv, start), k, v, attn_mask=bias)
        h = step.norm(layer.o(step.unturn(a)), layer.scales[1], layer.eps)
        return layer.down(step.gate(layer.up(h)))

    def _normed(self, qkv: torch.Tensor, layer: _Layer) -> torch.Tensor:
        parts = qkv.view(len(qkv), -1, self.D).split((self.H, self.G, self.G), 1)
        normed = [norm(part, weight, layer.eps) for part, weight in zip(parts, layer.qk_norms)]
        return torch.cat([*normed, parts[2]], 1).view(len(qkv), -1)

    @torch.inference_mode()
    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)

    def output(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head.weight[tokens]

    @torch.inference_mode()
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding[tokens]
