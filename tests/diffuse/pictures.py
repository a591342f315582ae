"""Small random networks of every kind that strips are cut for, as problems in float64."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from abreast.diffuse import Guidance, Sampling

from . import tiny

KINDS = ("unet", "unet-padded", "unet-text", "dit", "pixart", "sd3")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@cache
def network(kind: str) -> Any:
    import diffusers

    torch.manual_seed(0)
    if kind == "unet":
        return deepcopy(tiny.unet()).double()  # tests elsewhere turn the shared one to float32
    if kind == "unet-padded":
        return diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"),
            norm_num_groups=4, attention_head_dim=8, downsample_padding=0, center_input_sample=True,
        ).double()  # fmt: skip
    if kind == "unet-text":
        return diffusers.UNet2DConditionModel(
            in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=16, layers_per_block=1,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), sample_size=8,
        ).double()  # fmt: skip
    if kind == "dit":
        return deepcopy(tiny.dit()).double()
    if kind == "sd3":
        return diffusers.SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
            pos_embed_max_size=8,
        ).double()  # fmt: skip
    return diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        out_channels=8, cross_attention_dim=24, caption_channels=16,
    ).double()  # fmt: skip


def problem(kind: str, steps: int = 4, batch: int = 2, guided: bool = False, together: bool = True) -> Sampling:
    """A problem of 8 x 8 pixels; `guided` where the network takes a condition."""
    channels = 1 if kind in ("unet", "unet-padded") else 4
    conds: list[Any] = [None, None]
    if kind == "dit":
        conds = [{"class_labels": torch.tensor([k] * batch)} for k in (3, 1000)]
    elif kind == "pixart":
        added = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
        conds = [{"encoder_hidden_states": draw(batch, 5, 16, seed=k), **added} for k in (1, 2)]
    elif kind != "unet" and kind != "unet-padded":
        conds = [{"encoder_hidden_states": draw(batch, 5, 16, seed=k)} for k in (1, 2)]
    if kind == "sd3":
        conds = [{**cond, "pooled_projections": draw(batch, 16, seed=9)} for cond in conds]
    guidance = Guidance(3.0, conds[1], together=together) if guided else None
    net, noise = network(kind), draw(batch, channels, 8, 8, seed=5)
    return Sampling(net, tiny.scheduler("DDIMScheduler"), noise, steps, conds[0], guidance)
