"""The own forward of Llama-shaped models (Llama, Mistral, Qwen2, Qwen3, SmolLM): the module's weights, fewer operations.

Axes: m rows, H query heads, G key-value heads, D head width, S slots of the extent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad, rms_norm, scaled_dot_product_attention, silu

from abreast.attention import SlotCache
from abreast.decode.kernels import Matrix, tune
from abreast.decode.model import Out

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
        self.eps = layer.input_layernorm.variance_epsilon
        norms = getattr(a, "q_norm", None), getattr(a, "k_norm", None)
        self.qk_norms = tuple(n.weight.detach() for n in norms) if norms[0] is not None else None


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
        self.eps = model.model.norm.variance_epsilon
        self.window = c.sliding_window if type(model).__name__ == "MistralForCausalLM" else None
        self.vocab, self.width = self.head.weight.shape
        self.context = c.max_position_embeddings
        self.parameters = sum(p.numel() for p in model.parameters())
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.steady, self.trees, self.pad = False, True, 1
        self._rotary(min(self.context, 1024))

    @property
    def groups(self) -> list[list[Matrix]]:
        """Matrices by shape."""
        names = ("qkv", "o", "up", "down")
        return [*([getattr(layer, name) for layer in self.layers] for name in names), [self.head]]

    def tune(self) -> None:
        """Pick the cheapest kernels for this machine, from its own weights."""
        with torch.inference_mode():
            tune(self.groups)

    def _rotary(self, positions: int) -> None:
        """cos and signed sin [P, 1, D] of the module's own rotary embedding, for positions below P."""
        ids = torch.arange(positions, device=self.device)[None]
        with torch.no_grad():
            cos, sin = self.model.model.rotary_emb(self.embedding[:1], ids)
        sign = torch.ones(self.D, dtype=sin.dtype, device=self.device)
        sign[: self.D // 2] = -1
        self.cos, self.sin = cos[0, :, None], (sin[0] * sign)[:, None]

    def cache(self, capacity: int) -> SlotCache:
        cache = SlotCache(capacity + 32, self.device)
        shape = (len(self.layers), 2, self.G, cache.capacity, self.D)
        cache.storage.append(torch.zeros(shape, dtype=self.dtype, device=self.device))
        return cache

    @torch.inference_mode()
    def forward(
        self, cache: SlotCache, tokens: torch.Tensor, positions: torch.Tensor, owners: torch.Tensor,
        see: torch.Tensor, want: slice | torch.Tensor,
    ) -> Out:  # fmt: skip
        m, start = len(tokens), cache.length
        extra = -m % self.pad
        if extra:
            tokens, positions, owners = (pad(x, (0, extra)) for x in (tokens, positions, owners))
        taken = cache.append(positions, owners)
        last = int(positions.max())
        if last >= len(self.cos):
            self._rotary(last + 512)
        cos, sin = self.cos[positions], self.sin[positions]
        bias = self._bias(cache, see, positions, m)
        storage = cache.storage[0]
        extent = cache.extent
        x = self.embedding[tokens]
        for layer, kv in zip(self.layers, storage):
            x = self._layer(layer, x, cos, sin, kv, taken, extent, bias)
        cache.crop(start + m)
        hidden = rms_norm(x[:m][want], (self.width,), self.norm, self.eps)
        return Out(self.unembed(hidden), hidden)

    def _bias(self, cache: SlotCache, see: torch.Tensor, positions: torch.Tensor, m: int) -> torch.Tensor:
        """Additive mask [H/G * rows, S], the group of query heads that share keys folded into the rows."""
        bias = torch.full((len(positions), cache.extent), -torch.inf, dtype=self.dtype, device=self.device)
        bias[:m, : see.shape[1]].masked_fill_(see, 0.0)
        bias[m:, 0] = 0.0
        if self.window:
            far = cache.positions[None, : cache.extent] <= positions[:, None] - self.window
            bias.masked_fill_(far, -torch.inf)
        return bias.repeat(self.H // self.G, 1)

    def _layer(
        self, layer: _Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kv: torch.Tensor, taken: slice,
        extent: int, bias: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        m, H, G, D = len(x), self.H, self.G, self.D
        qkv = layer.qkv(rms_norm(x, (self.width,), layer.norms[0], layer.eps)).view(m, H + 2 * G, D)
        qk = qkv[:, : H + G]
        if layer.qk_norms:
            qk = torch.cat([rms_norm(part, (D,), weight, layer.eps)
                            for part, weight in zip((qk[:, :H], qk[:, H:]), layer.qk_norms)], 1)  # fmt: skip
        half = D // 2
        qk = torch.addcmul(qk * cos, torch.cat((qk[..., half:], qk[..., :half]), -1), sin)
        kv[0, :, taken] = qk[:, H:].transpose(0, 1)
        kv[1, :, taken] = qkv[:, H + G :].transpose(0, 1)
        q = qk[:, :H].view(m, G, H // G, D).permute(1, 2, 0, 3).reshape(1, G, -1, D)
        a = scaled_dot_product_attention(q, kv[0, None, :, :extent], kv[1, None, :, :extent], attn_mask=bias)
        x = x + layer.o(a.view(G, H // G, m, D).permute(2, 0, 1, 3).reshape(m, H * D))
        gate, up = layer.up(rms_norm(x, (self.width,), layer.norms[1], layer.eps)).chunk(2, -1)
        return x + layer.down(silu(gate).mul_(up))

    @torch.inference_mode()
    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)

    @torch.inference_mode()
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding[tokens]
