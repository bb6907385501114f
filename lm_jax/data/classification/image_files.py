"""New images from files, in the size that a trained model reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_jax.data.arrays import read_npz
from lm_jax.data.files import find_files
from lm_jax.errors import UserError

_ARRAYS = ("images", "x_test", "x")  # of npz files, the first that is there
# Others of Pillow start programs (Ghostscript for EPS) or are read by rarely tested code.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")


def read_images(
    patterns: Sequence[str], shape: tuple[int, int, int]
) -> tuple[list[str], np.ndarray]:
    """Returns the names and the pixels [N, H, W, C] of PNG and npz files, floats from 0 to 1.

    Pictures become grey or coloured as the shape has channels; nothing is resized.

    Args:
      shape: height, width and channels.

    Raises:
      UserError: there is no such file, it holds no images, or they have another size.
    """
    names: list[str] = []
    images: list[np.ndarray] = []
    for path in (path for pattern in patterns for path in find_files(pattern, "--image")):
        several = path.suffix == ".npz"
        found = _npz(path) if several else _picture(path, shape)[None]
        if found.ndim == 3:
            found = found[..., None]
        _check_shape(path, found.shape[1:], shape)
        names += [f"{path}:{index}" if several else str(path) for index in range(len(found))]
        images.append(found)
    return names, np.concatenate(images)


def _npz(path: Path) -> np.ndarray:
    arrays = read_npz(path)
    keys = [key for key in _ARRAYS if key in arrays] or list(arrays)
    found = arrays[keys[0]] if keys else np.zeros(0)
    held = ", ".join(arrays) or "nothing"
    if len(keys) > 1 and keys[0] not in _ARRAYS:
        raise UserError(f"{path} holds {held}; expected one array, or one called images or x_test")
    return _pixels(found, path)


def _check_shape(path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        size, wanted = (" x ".join(map(str, each)) for each in (shape, expected))
        raise UserError(
            f"{path} is {size}, and the run was trained on images of {wanted} (height x width x "
            "channels); resize it"
        )


def _picture(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise UserError(f"{path} needs Pillow: pip install -e '.[images]'") from None
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            mode = "L" if shape[2] == 1 else "RGB"
            # Before its pixels are unpacked: a small file may name very many.
            _check_shape(path, (picture.height, picture.width, len(mode)), shape)
            return _pixels(np.asarray(picture.convert(mode)), path)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise UserError(f"{path} is no picture ({error}); expected PNG or npz") from None


def _pixels(array: np.ndarray, path: Path) -> np.ndarray:
    """Returns pixels as float32 from 0 to 1."""
    if array.ndim not in (2, 3, 4) or array.dtype not in (np.uint8, np.float32, np.float64):
        raise UserError(
            f"{path} holds {array.dtype} of shape {array.shape}; expected uint8, or floats from 0 "
            "to 1, of shape [images, height, width] or [..., channels]"
        )
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise UserError(
            f"{path}: pixels run from {array.min():g} to {array.max():g}; expected floats from 0 "
            "to 1, or uint8"
        )
    return array.astype(np.float32)
