"""Schedulers of the library, a denoiser without a network, and tiny random models."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from abreast import diffuse

FREE = {
    "DDPMScheduler": {}, "DDPMParallelScheduler": {}, "DDIMScheduler": {}, "DDIMParallelScheduler": {},
    "CogVideoXDDIMScheduler": {}, "EulerDiscreteScheduler": {}, "EulerAncestralDiscreteScheduler": {},
    "EDMEulerScheduler": {}, "FlowMatchEulerDiscreteScheduler": {}, "FlowMatchLCMScheduler": {}, "LCMScheduler": {},
    "TCDScheduler": {}, "CMStochasticIterativeScheduler": {"num_train_timesteps": 40},
}  # fmt: skip
STATEFUL = {
    "DPMSolverMultistepScheduler": {}, "DPMSolverSinglestepScheduler": {}, "EDMDPMSolverMultistepScheduler": {},
    "DEISMultistepScheduler": {}, "UniPCMultistepScheduler": {}, "SASolverScheduler": {}, "LMSDiscreteScheduler": {},
    "IPNDMScheduler": {}, "PNDMScheduler": {}, "HeunDiscreteScheduler": {}, "FlowMatchHeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {}, "KDPM2AncestralDiscreteScheduler": {},
}  # fmt: skip
TREES = {"DPMSolverSDEScheduler": {}, "CosineDPMSolverMultistepScheduler": {}}
VARIANTS = [
    ("DDPMScheduler", {"variance_type": "fixed_large", "prediction_type": "v_prediction"}, {}),
    ("DDPMScheduler", {"thresholding": True}, {}),
    ("DDPMScheduler", {"timestep_spacing": "trailing", "prediction_type": "sample", "clip_sample": False}, {}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "prediction_type": "v_prediction"}, {}),
    ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "linspace", "prediction_type": "sample"}, {}),
    ("DDIMScheduler", {}, {"eta": 0.7}),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "use_karras_sigmas": True}, {}),
    ("EulerDiscreteScheduler", {}, {"s_churn": 4.0}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, {}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}, {}),
    ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True}, {}),
]  # fmt: skip


def scheduler(name: str, config: dict[str, Any] | None = None) -> Any:
    import diffusers

    return getattr(diffusers, name)(**(config or {}))


def curve(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    """A denoiser without a network: smooth in state and time, row by row."""
    t = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.sin(2 * x + 0.003 * t) * 0.8 + 0.1 * x


def mixture(scheduler: Any) -> Any:
    """The exact denoiser of data whose entries are each near -1 or 0.5, evenly likely, with variance 0.04."""

    def denoise(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        t = t.reshape(-1, *[1] * (x.ndim - 1)).double()
        if type(scheduler).__name__.startswith("FlowMatch"):
            a, s = 1 - t / 1000, t / 1000
        else:
            bar = scheduler.alphas_cumprod.double()[t.round().long()]
            a, s = bar**0.5, (1 - bar) ** 0.5
        variance = a**2 * 0.04 + s**2
        centres = torch.tensor([-1.0, 0.5]).double()
        gap = x.double()[..., None] - a[..., None] * centres
        share = (-(gap**2) / (2 * variance[..., None])).softmax(-1)
        clean = (share * (centres + 0.04 * (a / variance)[..., None] * gap)).sum(-1)
        out = (x - a * clean) / s.clamp(min=1e-9)
        return (out - clean if type(scheduler).__name__.startswith("FlowMatch") else out).to(x.dtype)

    return denoise


def problem(name: str, config: dict[str, Any] | None = None, batch: int = 2, steps: int = 7, **more: Any) -> Any:
    noise = torch.randn(4, 1, 5, 4, generator=torch.Generator().manual_seed(1), dtype=more.pop("dtype", None))
    return diffuse.Sampling(curve, scheduler(name, config), noise[:batch], steps=steps, **more)


@cache
def unet() -> Any:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8, attention_head_dim=8,
    )  # fmt: skip


@cache
def dit() -> Any:
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    return DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=1000,
    )  # fmt: skip


@cache
def wan(layers: int = 4) -> Any:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
        freq_dim=32, ffn_dim=32, num_layers=layers, rope_max_seq_len=64,
    ).eval()  # fmt: skip


@cache
def deep_dit() -> Any:
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    return DiTTransformer2DModel(
        sample_size=8, num_layers=4, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
