"""Random tiny models in float64, whose text is not trivial: weights wide enough that logits differ."""

from __future__ import annotations

from functools import lru_cache

import torch

VOCAB = 61


def shrink(config_class, **changes):
    base = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
        "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 0, "attention_dropout": 0.0,
    }  # fmt: skip
    return config_class(**(base | changes))


def randomised(model, seed: int, scale: float = 0.3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
            elif "norm" in name:
                p.copy_(1 + 0.1 * torch.randn(p.shape, generator=generator))
    model.generation_config.eos_token_id = 0
    return model.to(dtype).eval()


@lru_cache(maxsize=32)
def llama(seed: int = 0, layers: int = 2, kv: int = 2, dtype=torch.float64):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = shrink(LlamaConfig, num_hidden_layers=layers, num_key_value_heads=kv)
    return randomised(LlamaForCausalLM(config), seed, dtype=dtype)


def heads(kind: str, seed: int = 0, count: int = 3, width: int = 32):
    """Random heads, noisy copies of the hidden state: right now and then."""
    from abreast.decode.draft.heads import BlockwiseHeads, MedusaHeads

    generator = torch.Generator().manual_seed(seed)
    made = BlockwiseHeads(count, width, 16) if kind == "blockwise" else MedusaHeads(count, width, pending=seed % 2 == 1)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
        made.accuracy.copy_(torch.rand(made.accuracy.shape, generator=generator).sort(1, descending=True).values)
    return made
