"""The embedded diffusion models as a diffusers pipeline: they paint pixels, so there is neither text nor decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

from abreast.core.errors import AbreastError


def conditions(model: Any, rows: int, class_labels: Sequence[int] | torch.Tensor | None = None) -> dict[str, Any]:
    """What a call of an embedded model takes beside sample and timestep: `class_labels` `[rows]`, where it has classes
    (without any: the null label), or the text embeddings of a video transformer, which are all zero.
    """
    if "text_dim" in model.config:
        return {"encoder_hidden_states": torch.zeros(rows, 1, model.config.text_dim, dtype=model.dtype)}
    null = null_label(model)
    if null is None:
        return {}
    labels = torch.full((rows,), null) if class_labels is None else torch.as_tensor(class_labels)
    if labels.shape != (rows,) or (labels < 0).any() or (labels > null).any():
        raise AbreastError(f"{rows} rows have {rows} class labels from 0 to {null}, {null} for no class.")
    return {"class_labels": labels}


def null_label(model: Any) -> int | None:
    """The label that means no class, or None where a model has no classes."""
    if model.config.get("num_embeds_ada_norm"):
        return int(model.config.num_embeds_ada_norm)
    if model.config.get("num_class_embeds"):
        return int(model.config.num_class_embeds) - 1
    return None


class PixelPipeline(DiffusionPipeline):
    """Sampling in pixels: `pipe(class_labels=[3, 7])`, `pipe(batch_size=2, num_frames=16)`.

    The model is its `unet` or its `transformer`, the other is None. Guidance runs null and asked-for classes in one
    call, in this order.
    """

    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    _optional_components = ["transformer", "unet"]  # noqa: RUF012
    transformer: Any
    unet: Any
    scheduler: Any

    # No defaults: `from_pretrained` takes an argument that has one for a setting.
    def __init__(self, transformer: Any, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | None = None,
        batch_size: int = 1,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        num_frames: int = 8,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Images `[B, H, W, C]`, or `[B, F, H, W, C]` of a video model, from 0 to 1.

        `output_type` "pt" gives them channels first, "latent" the unscaled state `[B, C, (F,) H, W]`.
        """
        if output_type not in ("np", "pt", "latent"):
            raise AbreastError(f"output_type is np, pt or latent, not {output_type!r}.")
        model = self.transformer if self.transformer is not None else self.unet
        rows = batch_size if class_labels is None else len(class_labels)
        known = conditions(model, rows, class_labels)
        if latents is None:
            tall, wide = sides(model)
            extent = (num_frames,) if "text_dim" in model.config else ()
            shape = (rows, model.config.in_channels, *extent, height or tall, width or wide)
            latents = randn_tensor(shape, generator, self._execution_device, model.dtype)
        twice = guidance_scale != 1.0 and null_label(model) is not None
        if twice:
            none = conditions(model, rows)
            known = {name: torch.cat((none[name], value)) for name, value in known.items()}
        known = {name: value.to(latents.device) for name, value in known.items()}
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        latents = latents * self.scheduler.init_noise_sigma
        extra = {"generator": generator} if "generator" in _parameters(self.scheduler.step) else {}
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            x = self.scheduler.scale_model_input(latents, t)
            x = torch.cat((x, x)) if twice else x
            guess = model(x, timestep=t.expand(len(x)), **known).sample
            if twice:
                none, asked = guess.chunk(2)
                guess = none + guidance_scale * (asked - none)
            latents = self.scheduler.step(guess, t, latents, **extra).prev_sample
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, i, t, {"latents": latents}).get("latents", latents)
        images: Any = latents if output_type == "latent" else (latents / 2 + 0.5).clamp(0, 1)
        if images.ndim == 5 and output_type != "latent":
            images = images.transpose(1, 2)
        if output_type == "np":
            images = images.movedim(-3, -1).cpu().float().numpy()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def sides(model: Any) -> tuple[int, int]:
    """Height and width that a model was trained at; the video transformer's configuration does not say."""
    if "text_dim" in model.config:
        return 40, 32
    size = model.config.sample_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _parameters(function: Callable[..., Any]) -> Any:
    import inspect

    return inspect.signature(function).parameters
