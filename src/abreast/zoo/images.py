"""Pictures and a clip that packages ship, as tensors in [-1, 1]: digits, photographs, a talking head.

Axes: N pictures or clips, C channels, F frames, H and W pixels. Each has parts that no shipped model was trained on.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from abreast.core.errors import AbreastError
from abreast.zoo.manifest import fetch

SPLITS = ("train", "held-out")

# Whole photographs are held out. All are in the public domain or CC0, as scikit-image's documentation says of each.
PHOTOGRAPHS = {
    "train": ("astronaut", "brick", "camera", "coffee", "coins", "gravel", "rocket"),
    "held-out": ("chelsea", "grass"),
}
CLIPS = {"carphone": 90}
"""Each clip with its number of frames to train on; those after them are held out."""
_FACE = slice(6, 126), slice(24, 120)
"""Rows and columns of `carphone` in which the head stays."""


def digits32(split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten digits of MNIST, `[N, 1, 32, 32]` (28 x 28 with a border), and their labels `[N]`.

    400 of each of the ten digits to train on, 100 held out, in a mixed order. Raises AbreastError where they cannot
    be had.
    """
    images, labels = _digits()
    place = torch.arange(len(labels)) % 500
    chosen = (place >= 400) if _split(split) == "held-out" else (place < 400)
    order = torch.randperm(int(chosen.sum()), generator=torch.Generator().manual_seed(0))
    return images[chosen][order], labels[chosen][order]


def photographs(split: str = "train", colour: bool = False) -> dict[str, torch.Tensor]:
    """Whole photographs by name, each `[C, H, W]` with C = 1, or 3 if `colour`."""
    return {name: image.clone() for name, image in _photographs(_split(split), colour).items()}


def photos(
    split: str = "train", n: int = 1000, size: int = 64, zoom: float = 4.0, colour: bool = False, seed: int = 0
) -> torch.Tensor:
    """`n` square patches `[n, C, size, size]` of photographs, some of them mirrored.

    A patch shows a square of `size` to `zoom * size` pixels (the photograph's shorter side at most), averaged down
    to `size`; the photographs take turns. Equal arguments give equal patches.
    """
    if n < 1 or size < 1 or zoom < 1:
        raise AbreastError(f"Patches are at least one, of at least one pixel, with zoom >= 1, not {n}, {size}, {zoom}.")
    whole = list(_photographs(_split(split), colour).values())
    generator = torch.Generator().manual_seed(seed)
    patches = []
    for i in range(n):
        photo = whole[i % len(whole)]
        scale, top, left, mirror = torch.rand(4, generator=generator).tolist()
        side = min(round(size * zoom**scale), *photo.shape[1:])
        if side < size:
            raise AbreastError(f"A photograph of {list(photo.shape[1:])} pixels has no patch of {size} x {size}.")
        y, x = (int(u * (extent - side + 1)) for u, extent in zip((top, left), photo.shape[1:]))
        patch = photo[None, :, y : y + side, x : x + side]
        patch = interpolate(patch, (size, size), mode="area")[0]
        patches.append(patch.flip(-1) if mirror < 0.5 else patch)
    return torch.stack(patches)


def clip(name: str = "carphone", colour: bool = False) -> torch.Tensor:
    """A whole clip, `[F, C, H, W]`; `carphone`, a man talking in a car, has 120 frames of 144 x 176."""
    if name not in CLIPS:
        raise AbreastError(f"There is no clip named {name!r}: {', '.join(CLIPS)} is what there is.")
    return _clip(name, colour).clone()


def talking_head(split: str = "train", frames: int = 8, size: tuple[int, int] = (40, 32)) -> torch.Tensor:
    """Every run of `frames` frames around the head in `carphone`, in grey, `[N, 1, F, H, W]`, H x W being `size`.

    Runs to train on lie within the first 90 frames, held-out ones within the last 30.
    """
    whole = clip("carphone")
    cut = CLIPS["carphone"]
    part = whole[cut:] if _split(split) == "held-out" else whole[:cut]
    if not 1 <= frames <= len(part):
        raise AbreastError(f"The {split} part has runs of 1 to {len(part)} frames, not {frames}.")
    small = interpolate(part[:, :, _FACE[0], _FACE[1]], size, mode="area")
    return small.unfold(0, frames, 1).permute(0, 1, 4, 2, 3).contiguous()


def digit_scores(pictures: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """How good painted digits `[N, 1, 32, 32]` are: the share that a classifier takes for their labels, and the
    Fréchet distance of their 16 principal components from real digits.

    Held-out real digits score about 0.96 and 0.5. Read both: averages of a class are recognised and yet far from real.
    """
    classify, basis, mean, spread = _judge()
    flat = _halved(pictures)
    right = (classify(flat) == labels.to(flat.device)).float().mean().item()
    found = flat.double() @ basis
    own = torch.cov(found.T)
    values, vectors = torch.linalg.eigh(spread)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ own @ root).clamp(min=0).sqrt().sum()
    distance = (found.mean(0) - mean).square().sum() + spread.trace() + own.trace() - 2 * cross
    return right, distance.item()


@lru_cache(maxsize=1)
def _judge() -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kernel ridge regression on 4,000 digits, and the mean and covariance of their principal components."""
    pictures, labels = digits32("train")
    known = _halved(pictures)
    gamma = 1 / 60  # squared distances between different digits are around 120
    kernel = torch.exp(-gamma * torch.cdist(known, known).square())
    targets = torch.nn.functional.one_hot(labels).float() - 0.1
    weights = torch.linalg.solve(kernel + 0.01 * torch.eye(len(known)), targets)

    def classify(flat: torch.Tensor) -> torch.Tensor:
        return (torch.exp(-gamma * torch.cdist(flat, known).square()) @ weights).argmax(1)

    wide = known.double()
    basis = torch.linalg.eigh(torch.cov(wide.T))[1][:, -16:]
    found = wide @ basis
    return classify, basis, found.mean(0), torch.cov(found.T)


def _halved(pictures: torch.Tensor) -> torch.Tensor:
    return interpolate(pictures.float(), (16, 16), mode="area").flatten(1)


@lru_cache(maxsize=1)
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    with gzip.open(_fetched("digits")) as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.float32))
    images = pad(table[:, :-1].reshape(-1, 1, 28, 28), (2, 2, 2, 2))
    return images / 127.5 - 1, table[:, -1].long()


@lru_cache(maxsize=4)
def _photographs(split: str, colour: bool) -> dict[str, torch.Tensor]:
    folder = _fetched("photographs", "PIL", "pillow").parent
    from PIL import Image

    found = {}
    for name in PHOTOGRAPHS[split]:
        path = next(folder.glob(f"{name}.*"))
        pixels = np.asarray(Image.open(path).convert("RGB" if colour else "L"))
        image = torch.from_numpy(pixels.copy()).float() / 127.5 - 1
        found[name] = image.permute(2, 0, 1) if colour else image[None]
    return found


@lru_cache(maxsize=2)
def _clip(name: str, colour: bool) -> torch.Tensor:
    path = _fetched(name, "av", "av")
    import av

    container: Any
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24" if colour else "gray") for frame in container.decode(video=0)]
    pixels = torch.from_numpy(np.stack(frames)).float() / 127.5 - 1
    return pixels.permute(0, 3, 1, 2).contiguous() if colour else pixels[:, None]


def _fetched(source: str, module: str = "", package: str = "") -> Path:
    if module and find_spec(module) is None:
        raise AbreastError(
            f"Reading {source} needs {package}, which this environment lacks: run 'pip install abreast[diffuse]'."
        )
    return fetch(source)


def _split(split: str) -> str:
    if split not in SPLITS:
        raise AbreastError(f"Data are split into {' and '.join(SPLITS)}; there is no {split!r}.")
    return split
