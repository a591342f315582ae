"""The embedded diffusion models by name: digits, photographs and a talking head, small enough for one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abreast.core.errors import AbreastError, nearest
from abreast.zoo.models import weights

DENOISERS = {
    "digits-unet": "UNet2DModel",
    "digits-dit": "DiTTransformer2DModel",
    "carphone-dit": "WanTransformer3DModel",
    "photos-unet": "UNet2DModel",
}


def load_denoiser(name: str) -> tuple[Any, Any]:
    """An embedded diffusion model, float32 and in evaluation mode, and a fresh DDIM scheduler that it was made for.

    The model is diffusers' own class; what a call takes beside sample and timestep is in `zoo.conditions`. Raises
    AbreastError for an unknown name, or without diffusers.
    """
    if name not in DENOISERS:
        raise AbreastError(f"The zoo has no diffusion model {name!r}: {nearest(name, DENOISERS)}")
    folder = _folder(name)
    try:
        import diffusers
    except ImportError as error:
        raise AbreastError(
            f"Loading {name} needs diffusers, which does not import here: run 'pip install abreast[diffuse]'."
        ) from error
    import torch

    try:
        model = getattr(diffusers, DENOISERS[name]).from_pretrained(folder, torch_dtype=torch.float32)
        scheduler = diffusers.DDIMScheduler.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise AbreastError(f"The weights of {name} in {folder} are broken: reinstall abreast.") from error
    return model.eval(), scheduler


def load_pipeline(name: str) -> Any:
    """An embedded diffusion model as a diffusers pipeline, without a progress bar.

    `photos-unet` is an ordinary DDPMPipeline; the others, with classes or frames, are a `zoo.pixels.PixelPipeline`.
    """
    model, scheduler = load_denoiser(name)
    pipeline: Any
    if name == "photos-unet":
        from diffusers import DDPMPipeline

        pipeline = DDPMPipeline(model, scheduler)
        # The pipeline makes a DDPM scheduler of whatever it is given; ours is the one that the model card speaks of.
        pipeline.scheduler = scheduler
    else:
        from abreast.zoo.pixels import PixelPipeline

        unet = model if "unet" in name else None
        pipeline = PixelPipeline(transformer=None if unet else model, unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def conditions(model: Any, rows: int, class_labels: Any = None) -> dict[str, Any]:
    """What a call of an embedded diffusion model takes beside sample and timestep: class labels, or empty text."""
    from abreast.zoo.pixels import conditions as known

    return known(model, rows, class_labels)


def _folder(name: str) -> Path:
    folder = weights(name)
    if not (folder / "config.json").is_file():
        raise AbreastError(
            f"The weights of {name!r} are not in this installation ({folder} is missing): reinstall abreast, "
            "or train them with abreast.zoo.train."
        )
    return folder
