"""How the embedded diffusion models were made: diffusers' own classes, trained in minutes on one core.

All predict v (Salimans and Ho, 2022) under 1000 linear betas from 1e-4 to 0.02, which every scheduler of diffusers
can sample. Axes: B examples, C channels, F frames, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

from abreast.zoo import images
from abreast.zoo.pixels import PixelPipeline, conditions, null_label
from abreast.zoo.train.fit import fit

Batch = tuple[torch.Tensor, torch.Tensor | None]
DROPPED = 0.1
"""How often a label is replaced by the null label, so that guidance has something to guide away from."""


@dataclass(frozen=True)
class Recipe:
    """`draw(split, generator, rows, step)` gives clean examples and their labels; `bfloat16` pays for convolutions.

    Timesteps are 1000 u^skew for uniform u: above 1 the late ones, nearly pure noise, are seen less often.
    """

    build: Callable[[], Any]
    draw: Callable[[str, torch.Generator, int, int], Batch]
    steps: int
    rows: int
    rate: float
    bfloat16: bool = False
    skew: float = 1.0


def scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="leading",
    )


def digits_unet() -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=11,
    )


def digits_dit() -> Any:
    from diffusers import DiTTransformer2DModel

    model: Any = DiTTransformer2DModel(
        sample_size=32,
        patch_size=4,
        in_channels=1,
        out_channels=1,
        num_layers=6,
        num_attention_heads=4,
        attention_head_dim=32,
        num_embeds_ada_norm=10,
    )
    for block in model.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0  # labels are dropped by `loss`, from its own generator
    return model


def photos_unet() -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=64,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 48, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=32,
    )


def carphone_dit() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 4, 4),
        in_channels=1,
        out_channels=1,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=32,
        ffn_dim=384,
        freq_dim=64,
        text_dim=16,
    )


def draw_digits(split: str, generator: torch.Generator, rows: int, step: int) -> Batch:
    pictures, labels = images.digits32(split)
    chosen = torch.randint(len(labels), (rows,), generator=generator)
    return pictures[chosen], labels[chosen]


def draw_photos(split: str, generator: torch.Generator, rows: int, step: int) -> Batch:
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return images.photos(split, n=rows, seed=seed), None


def draw_heads(split: str, generator: torch.Generator, rows: int, step: int) -> Batch:
    """Eight frames, or half as many clips of sixteen: methods for long videos hand the model more than one block."""
    runs = images.talking_head(split, frames=8 if step % 2 == 0 else 16)
    chosen = torch.randint(len(runs), (rows if step % 2 == 0 else rows // 2,), generator=generator)
    return runs[chosen], None


RECIPES = {
    "digits-unet": Recipe(digits_unet, draw_digits, steps=2400, rows=32, rate=1e-3, bfloat16=True),
    "digits-dit": Recipe(digits_dit, draw_digits, steps=3000, rows=64, rate=2e-3, skew=1.5),
    "carphone-dit": Recipe(carphone_dit, draw_heads, steps=2200, rows=8, rate=2e-3, skew=1.5),
    "photos-unet": Recipe(photos_unet, draw_photos, steps=800, rows=16, rate=1e-3, bfloat16=True, skew=1.5),
}


def loss(model: Any, recipe: Recipe, alphas: torch.Tensor, split: str, step: int, rows: int) -> torch.Tensor:
    """The mean squared error of v at random timesteps; it depends on the step number and the parameters only."""
    generator = torch.Generator().manual_seed(step)
    clean, labels = recipe.draw(split, generator, rows, step)
    B = len(clean)
    skew = recipe.skew if split == "train" else 1.0
    t = (len(alphas) * torch.rand(B, generator=generator) ** skew).long()
    noise = torch.randn(clean.shape, generator=generator)
    dropped = torch.rand(B, generator=generator) < DROPPED
    if labels is not None:
        labels = labels.masked_fill(dropped, null_label(model) or 0)
    a = alphas[t].view(-1, *[1] * (clean.ndim - 1))
    v = a.sqrt() * noise - (1 - a).sqrt() * clean
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16 and split == "train"):
        guess = model(a.sqrt() * clean + (1 - a).sqrt() * noise, timestep=t, **conditions(model, B, labels)).sample
    return mse_loss(guess.float(), v)


@torch.no_grad()
def held_out_loss(model: Any, name: str, batches: int = 8) -> float:
    """The loss on what was held out, at fixed timesteps and noise; of a zero prediction it is about 1."""
    training = model.training
    model.eval()
    alphas, recipe = scheduler().alphas_cumprod, RECIPES[name]
    losses = [loss(model, recipe, alphas, "held-out", 2 * i, 32).item() for i in range(batches)]
    model.train(training)
    return sum(losses) / batches


def train(name: str, folder: Path) -> None:
    """Trains, then writes the folder of a diffusers model in float16, its scheduler, samples and scores."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    model = recipe.build().train()
    alphas = scheduler().alphas_cumprod
    fit(
        model,
        lambda step: loss(model, recipe, alphas, "train", step, recipe.rows),
        steps=recipe.steps,
        rate=recipe.rate,
        decay=0.01,
        checkpoint=folder / "checkpoint.safetensors",
        title=name,
        evaluate=lambda: held_out_loss(model, name, 2),
        average=0.995,
        save_every_s=15.0,
    )
    model.eval()
    model.half().save_pretrained(folder)
    scheduler().save_pretrained(folder)
    scores = report(model.float(), name, folder)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
    print(name, json.dumps(scores, indent=1))


def report(model: Any, name: str, folder: Path) -> dict[str, float]:
    """The model's scores; a grid of its samples goes to `samples.png`."""
    scores = {"held-out loss": held_out_loss(model, name)}
    pipe: Any = PixelPipeline(model.eval(), None, scheduler())
    pipe.set_progress_bar_config(disable=True)

    def samples(rows: int, labels: list[int] | None = None, **call: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return pipe(labels, rows, generator=generator, output_type="latent", **call).images

    if name.startswith("digits"):
        labels = [i % 10 for i in range(200)]
        for steps in (4, 10, 50):
            found = samples(200, labels, num_inference_steps=steps)
            right, distance = images.digit_scores(found, torch.tensor(labels))
            scores |= {f"right, {steps} steps": right, f"Fréchet, {steps} steps": distance}
        grid(found[:60], 10, folder / "samples.png")
    elif name.startswith("photos"):
        grid(samples(24), 8, folder / "samples.png")
    else:
        grid(samples(4).transpose(1, 2).flatten(0, 1), 8, folder / "samples.png")
    return scores


def grid(pictures: torch.Tensor, across: int, path: Path) -> None:
    """Writes pictures `[N, 1, H, W]` in [-1, 1] as one PNG of 32 greys, `across` in a row."""
    from PIL import Image

    N, _, H, W = pictures.shape
    down = N // across
    sheet = pictures[: down * across, 0].view(down, across, H, W).transpose(1, 2).reshape(down * H, across * W)
    grey = ((sheet.clamp(-1, 1) + 1) * 127.5).byte().numpy()
    Image.fromarray(grey).quantize(32).save(path, optimize=True)
