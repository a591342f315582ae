"""Handwritten digits of 8 x 8 pixels, as scikit-learn ships them (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

import torch

from abreast.core.errors import AbreastError

TRAIN = 1437


def digits8(split: str = "train", binary: bool = False) -> torch.Tensor:
    """Pixels [N, 8, 8], long, 0 to 16; binary: 0 and 1, ink where a pixel is 8 or more.

    split: "train", the first 1437, or "held-out", the last 360, of other writers. Raises AbreastError for another
    split, and without scikit-learn.
    """
    if split not in ("train", "held-out"):
        raise AbreastError(f"digits8 has the splits train and held-out, not {split!r}.")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise AbreastError("digits8 needs scikit-learn: run 'pip install abreast[solve]'.") from error
    images = torch.from_numpy(load_digits().images).long()
    images = images[:TRAIN] if split == "train" else images[TRAIN:]
    return (images >= 8).long() if binary else images
