"""Tiny random pipelines: components from configurations, no downloads."""

from __future__ import annotations

from typing import Any

import torch

E1, P1 = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(5)), torch.ones(1, 16) / 3


def vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, latent_channels=4, sample_size=8,
        shift_factor=0.0,
    ).eval()  # fmt: skip


def unet_cond(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    config = {
        "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1,
        "attention_head_dim": 2, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "sample_size": 8,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 16,
    }  # fmt: skip
    return UNet2DConditionModel(**{**config, **more}).eval()


def clip() -> tuple[Any, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        words[letter] = len(words)
        words[letter + "</w>"] = len(words)
    config = CLIPTextConfig(
        vocab_size=100, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config).eval(), CLIPTokenizer(vocab=words, merges=[], model_max_length=16)


def ddpm(scheduler: Any = None) -> Any:
    from diffusers import DDPMPipeline, DDPMScheduler

    from . import tiny

    return DDPMPipeline(tiny.unet().float(), scheduler or DDPMScheduler())


def ddim() -> Any:
    from diffusers import DDIMPipeline, DDIMScheduler

    from . import tiny

    return DDIMPipeline(tiny.unet().float(), DDIMScheduler())


def dit() -> Any:
    from diffusers import DDIMScheduler, DiTPipeline

    from . import tiny

    return DiTPipeline(tiny.dit().float().eval(), vae(), DDIMScheduler())


def sd(scheduler: Any = None, text: bool = True) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    encoder, tokenizer = clip() if text else (None, None)
    scheduler = scheduler or DDIMScheduler(steps_offset=1, clip_sample=False)
    return StableDiffusionPipeline(
        vae(), encoder, tokenizer, unet_cond(), scheduler, None, None, requires_safety_checker=False
    )


def sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    net = unet_cond(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=16 + 6 * 4
    )
    return StableDiffusionXLPipeline(vae(), None, None, None, None, net, EulerDiscreteScheduler())


def lcm() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    net = unet_cond(time_cond_proj_dim=16)
    return LatentConsistencyModelPipeline(
        vae(), None, None, net, LCMScheduler(), None, None, requires_safety_checker=False
    )


def flux(scheduler: Any = None) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    net = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4), guidance_embeds=True,
    ).eval()  # fmt: skip
    return FluxPipeline(scheduler or FlowMatchEulerDiscreteScheduler(), vae(), None, None, None, None, net)


def sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    return StableDiffusion3Pipeline(net, FlowMatchEulerDiscreteScheduler(), vae(), *[None] * 6)


def pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    net = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, cross_attention_dim=16, caption_channels=16,
    ).eval()  # fmt: skip
    return PixArtAlphaPipeline(None, None, vae(), net, DPMSolverMultistepScheduler())


def wan() -> Any:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    net = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    ).eval()  # fmt: skip
    coder = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(tokenizer=None, text_encoder=None, scheduler=scheduler, vae=coder, transformer=net)


TWO = {"prompt_embeds": E1, "negative_prompt_embeds": -E1}
POOLED = {"pooled_prompt_embeds": P1, "negative_pooled_prompt_embeds": -P1}
MASKS = {"prompt_attention_mask": torch.ones(1, 6), "negative_prompt_attention_mask": torch.ones(1, 6)}
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (ddim, {"batch_size": 2}),
    "dit": (dit, {"class_labels": [3, 7]}),
    "dit without guidance": (dit, {"class_labels": [3, 7], "guidance_scale": 1.0}),
    "sd": (sd, {"prompt": "a cat", "guidance_scale": 5.0, "num_images_per_prompt": 2}),
    "sd without guidance": (sd, {"prompt": "a cat", "guidance_scale": 1.0}),
    "sdxl": (sdxl, dict(height=8, width=8, **TWO, **POOLED)),
    "lcm": (lcm, {"prompt_embeds": E1, "height": 8, "width": 8}),
    "flux": (flux, {"prompt_embeds": E1, "pooled_prompt_embeds": P1, "height": 8, "width": 8}),
    "flux with true guidance": (
        flux, dict(height=8, width=8, true_cfg_scale=3.0, **TWO, **POOLED)
    ),
    "sd3": (sd3, dict(height=8, width=8, **TWO, **POOLED)),
    "pixart": (pixart, dict(height=8, width=8, use_resolution_binning=False, negative_prompt=None, **TWO, **MASKS)),
    "wan": (wan, dict(height=64, width=64, num_frames=9, **TWO)),
}  # fmt: skip
