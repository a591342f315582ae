"""Small pictures as PNG data URIs, without a library for pictures."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np


def data_uri(pixels: np.ndarray) -> str:
    """Grey [H, W] or colour [H, W, 3] bytes as a data URI."""
    tall, wide = pixels.shape[:2]
    kind = 0 if pixels.ndim == 2 else 2
    rows = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(tall, -1)
    raw = np.concatenate((np.zeros((tall, 1), np.uint8), rows), axis=1).tobytes()
    header = struct.pack(">IIBBBBB", wide, tall, 8, kind, 0, 0, 0)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(raw, 9)), _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def sheet(pictures: np.ndarray, low: float, high: float, most: int = 8) -> np.ndarray:
    """Bytes of one picture made of up to `most` samples [B, C, H, W], side by side, or of frames [B, F, C, H, W], one
    sample a row. low, high: the values that are black and white."""
    if pictures.ndim == 5:
        frames = pictures[:4, np.linspace(0, pictures.shape[1] - 1, min(most, pictures.shape[1])).astype(int)]
        tiles = [np.concatenate(list(row), axis=-1) for row in frames]
        whole = np.concatenate(tiles, axis=-2)
    else:
        whole = np.concatenate(list(pictures[:most]), axis=-1)
    span = max(high - low, 1e-9)
    levels = np.clip(np.nan_to_num((whole - low) / span), 0, 1)
    pixels = np.round(255 * levels).astype(np.uint8)
    return pixels[0] if len(pixels) != 3 else pixels.transpose(1, 2, 0)
