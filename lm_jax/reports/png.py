"""Arrays as PNG pictures inside a page, written with the standard library alone."""

import base64
import math
import struct
import zlib

import numpy as np


def png(pixels: np.ndarray, scale: int = 1) -> str:
    """Returns a picture as a `data:` address.

    Args:
      pixels: [H, W] or [H, W, channels]. One channel is grey, three are red, green and blue; any
        other number is averaged to grey. Floats are scaled from their minimum (black) to their
        maximum (white); uint8 is not scaled.
      scale: number of repetitions of each pixel in both directions.
    """
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3):
        pixels = pixels.mean(axis=2).astype(pixels.dtype)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = np.round((pixels - low) / ((high - low) or 1) * 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width, channels = pixels.shape
    colour = {1: 0, 3: 2}[channels]  # greyscale, truecolour (PNG specification, section 11.2.2)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    raw = b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def tiles(pictures: np.ndarray) -> np.ndarray:
    """Returns pictures [N, H, W, ...] side by side in one picture, one pixel apart.

    Each is scaled to its own range, so that pictures of low contrast are visible too.
    """
    count, height, width = pictures.shape[:3]
    axes = tuple(range(1, pictures.ndim))
    low = pictures.min(axis=axes, keepdims=True)
    high = pictures.max(axis=axes, keepdims=True)
    pictures = (pictures - low) / np.maximum(high - low, 1e-12)
    columns = math.ceil(math.sqrt(2 * count))
    rows = math.ceil(count / columns)
    shape = (rows * (height + 1) - 1, columns * (width + 1) - 1, *pictures.shape[3:])
    sheet = np.ones(shape, np.float32)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = picture
    return sheet
