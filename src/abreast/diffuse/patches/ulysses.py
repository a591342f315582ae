"""Ulysses attention: from own tokens and all heads to all tokens and own heads, and back (Jacobs et al., 2023).

Axes: N rows, L tokens of the picture, l of this strip, H heads, h of this rank, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from abreast.core import AbreastError

if TYPE_CHECKING:
    from abreast.diffuse.patches.strip import Strip


def attend(strip: Strip, attn: Any, here: int, args: Any, kwargs: Any) -> Tensor:
    """What a self-attention module of diffusers returns for a strip's tokens [N, l, H D]. Heads and tokens may be
    dealt unevenly. Raises AbreastError for attention with masks, norms over positions, or heads shared by queries."""
    x = args[0] if args else kwargs["hidden_states"]
    mask = kwargs.get("attention_mask", args[2] if len(args) > 2 else None)
    odd = [n for n in ("spatial_norm", "group_norm", "add_k_proj") if getattr(attn, n, None) is not None]
    if x.ndim != 3 or mask is not None or odd:
        raise AbreastError(f"Ulysses attention takes tokens without {odd[0] if odd else 'a mask'}.")
    q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
    if k.shape != q.shape:
        raise AbreastError("Ulysses attention needs as many heads of keys as of queries.")
    team, me, heads = strip.team, strip.rank, attn.heads
    whole = strip.strips.whole(me, x.shape[1])
    tokens = [strip.strips.bounds(rank, whole) for rank in range(team.size)]
    dealt = [(rank * heads // team.size, (rank + 1) * heads // team.size) for rank in range(team.size)]
    own = dealt[me][1] - dealt[me][0]

    qkv_3NlHD = torch.stack([q, k, v]).unflatten(-1, (heads, -1))
    width = qkv_3NlHD.shape[-1]
    parts = [qkv_3NlHD[..., a:b, :] for a, b in dealt]
    shapes: list[tuple[int, ...]] = [(3, len(x), b - a, own, width) for a, b in tokens]
    all_3NLhD = torch.cat(_swap(strip, here, parts, shapes), 2)
    query, key, value = all_3NLhD.transpose(2, 3)
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    out_NhLD = F.scaled_dot_product_attention(query, key, value) if own else query
    out_NLhD = out_NhLD.transpose(1, 2)

    shapes = [(len(x), x.shape[1], b - a, width) for a, b in dealt]
    back = _swap(strip, strip.mark(), [out_NLhD[:, a:b] for a, b in tokens], shapes)
    out = attn.to_out[1](attn.to_out[0](torch.cat(back, 2).flatten(2)))
    out = out + x if attn.residual_connection else out
    return out / attn.rescale_output_factor


def _swap(strip: Strip, here: int, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Every rank's part for this one, of these shapes."""
    if strip.counter is not None:
        return [parts[0].new_zeros(shape) for shape in shapes]
    strip.record(strip.profile.at_sites[here])
    return strip.team.all_to_all(parts)
