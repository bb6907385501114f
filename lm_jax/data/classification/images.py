"""Images with labels: scikit-learn's digits, idx and npz files, tensorflow-datasets.

A reader is a function of a configuration that returns `Images`. A reader of your own needs no
change here: `--config.data.source=my_reader.py:read` calls the function `read` of that file.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lm_jax.choices import choose
from lm_jax.data import tfds
from lm_jax.data.classification.batches import Examples, LabelledSet
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import OWN_SPLIT
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.data.config import ImageConfig

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_NPZ_ARRAYS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}


class Images(NamedTuple):
    """What a reader returns: images [N, H, W] or [N, H, W, C], and their labels [N]."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray] | None = None  # None: some of `train` are held out
    labels: list[str] | None = None  # names of the classes; None: their numbers


Reader = Callable[["ImageConfig"], Images]


def prepare_images(config: ImageConfig) -> LabelledSet:
    """Returns the images of a configuration; some are held out where there is no test split.

    Raises:
      UserError: the files cannot be had, or hold no images with labels.
    """
    config.validate()
    origin = f"{config.source} {config.path}".strip()
    source = choose(READERS, config.source, "data.source")(config)
    splits = {"train": source.train}
    if source.test is not None:
        splits["test"] = source.test
    checked = {
        name: _check(images, labels, f"{origin} ({name})")
        for name, (images, labels) in splits.items()
    }
    train = checked["train"]
    if "test" in checked:
        validation, how = checked["test"], OWN_SPLIT
        if validation.inputs.shape[1:] != train.inputs.shape[1:]:
            raise UserError(
                f"{origin}: images to test are {_size(validation.inputs)}, "
                f"those to train on {_size(train.inputs)}"
            )
    elif config.source == "and_gate":  # there are only four points
        validation, how = train, "none: measured on what it was trained on"
    else:
        held = _held_out(len(train.targets), config.validation_fraction)
        train, validation = (
            Examples(train.inputs[part], train.targets[part]) for part in (~held, held)
        )
        how = f"{config.validation_fraction:g} of the images, the same every time"
    names = source.labels or [str(label) for label in range(int(train.targets.max()) + 1)]
    if config.label_names:
        given = [name.strip() for name in config.label_names.split(",")]
        if len(set(given)) != len(names):
            raise UserError(
                f"data.label_names gives {len(set(given))} names, "
                f"but {origin} has {len(names)} classes"
            )
        names = given
    for name, split in (("train", train), ("validation", validation)):
        _check_labels(split.targets, len(names), f"{origin} ({name})")
    return Dataset(train, validation, _describe(config, train, validation, names, how), None)


def _describe(
    config: ImageConfig, train: Examples, validation: Examples, labels: list[str], how: str
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for split in (train, validation):
        digest.update(np.ascontiguousarray(split.inputs).tobytes() + split.targets.tobytes())
    height, width, channels = train.inputs.shape[1:]
    sizes = {"image_height": height, "image_width": width, "image_channels": channels}
    return {
        "source": config.source,
        "path": config.path,
        "sha256": digest.hexdigest(),
        "fingerprint": digest.hexdigest()[:32],
        "split": how,
        "labels": labels,
        "sizes": sizes | {"num_classes": len(labels)},
        "train": {"images": len(train.targets)},
        "validation": {"images": len(validation.targets)},
        "summary": (
            f"{len(train.targets):,} images of {height} x {width} x {channels} to train on, "
            f"{len(validation.targets):,} to validate (split: {how}); {len(labels)} classes; "
            f"SHA-256 {digest.hexdigest()[:12]}"
        ),
    }


def _check(images: np.ndarray, labels: np.ndarray, origin: str) -> Examples:
    """Returns images [N, H, W, C] and labels [N] int32.

    Raises:
      UserError: they have other types, shapes or values.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32, np.float64):
        raise UserError(
            f"{origin}: images are {images.dtype} of shape {images.shape}; expected uint8, or "
            "floats from 0 to 1, of shape [images, height, width] or [..., channels]"
        )
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
        if images.size and not (images.min() >= 0 and images.max() <= 1):
            raise UserError(
                f"{origin}: pixels run from {images.min():g} to {images.max():g}; "
                "expected floats from 0 to 1, or uint8"
            )
    if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{origin}: labels are {labels.dtype} of shape {labels.shape} for {len(images)} "
            "images; expected one integer per image"
        )
    if not len(images):
        raise UserError(f"{origin}: no images")
    return Examples(images, labels.astype(np.int32))


def _check_labels(targets: np.ndarray, num_classes: int, origin: str) -> None:
    wrong = np.flatnonzero((targets < 0) | (targets >= num_classes))
    if wrong.size:
        raise UserError(
            f"{origin}: the label of image {wrong[0]} is {targets[wrong[0]]}; "
            f"expected 0 to {num_classes - 1}"
        )


def _size(images: np.ndarray) -> str:
    return " x ".join(map(str, images.shape[1:]))


def _held_out(count: int, fraction: float) -> np.ndarray:
    """Returns which examples are held out, bool [N]; it depends on their number alone."""
    held = np.random.default_rng(0).permutation(count) < round(count * fraction)
    if held.all() or not held.any():
        raise UserError(
            f"{count} images with data.validation_fraction {fraction} leave nothing to train on "
            "or nothing to validate; choose another fraction"
        )
    return held


def _digits(config: ImageConfig) -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "data.source=digits needs scikit-learn: pip install 'lm_jax[digits]'"
        ) from None
    digits = load_digits()
    return Images(((digits.images / 16).astype(np.float32), digits.target))


def _and_gate(config: ImageConfig) -> Images:
    points = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    return Images((points[:, None, :, None], np.array([0, 0, 0, 1])), None, ["false", "true"])


def _idx(config: ImageConfig) -> Images:
    def split(name: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = (_read_idx(Path(config.path), file) for file in _IDX_FILES[name])
        return images, labels

    return Images(split("train"), split("test"))


def _read_idx(directory: Path, name: str) -> np.ndarray:
    """Returns the array of an idx file, gzipped or not: MNIST's format of magic, sizes, bytes."""
    path = next((p for p in (directory / f"{name}.gz", directory / name) if p.is_file()), None)
    if path is None:
        raise UserError(f"data.path {str(directory)!r} holds no {name} and no {name}.gz")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dimensions = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dimensions}I", raw, 4)
        array = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
        if zeros or kind != 8 or array.size != np.prod(shape):
            raise UserError(f"it declares {shape} bytes and holds {array.size}")
    except (OSError, EOFError, struct.error, ValueError, zlib.error) as error:
        raise UserError(f"{path} is no idx file of bytes ({error})") from None
    return array.reshape(shape)


def _npz(config: ImageConfig) -> Images:
    try:
        with np.load(config.path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{config.path} is no npz file of arrays ({error})") from None
    has_test = any(name in found for name in _NPZ_ARRAYS["test"])
    wanted = _NPZ_ARRAYS["train"] + (_NPZ_ARRAYS["test"] if has_test else ())
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{config.path} holds {', '.join(found) or 'nothing'}; expected x_train and y_train, "
            "and x_test and y_test where there is a test split"
        )
    images, labels = (found[name] for name in _NPZ_ARRAYS["train"])
    test = None
    if has_test:
        test = (found["x_test"], found["y_test"])
    return Images((images, labels), test)


def _tfds(config: ImageConfig) -> Images:
    builder = tfds.builder_of(config.path, config.cache_directory)
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(f"{config.path} has {', '.join(features)}; expected image and label")

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        source = builder.as_data_source(split=split)
        images = [np.asarray(example["image"]) for example in source]
        shapes = {image.shape for image in images}
        if len(shapes) != 1:
            raise UserError(
                f"{config.path} has images of {len(shapes)} sizes, such as {min(shapes)} and "
                f"{max(shapes)}; expected one size: resize them and give them as npz"
            )
        return np.stack(images), np.array([int(example["label"]) for example in source])

    names = list(features["label"].names)
    test = read("test") if "test" in builder.info.splits else None
    return Images(read("train"), test, names)


READERS_WITHOUT_PATH: dict[str, Reader] = {"digits": _digits, "and_gate": _and_gate}
READERS_OF_PATHS: dict[str, Reader] = {"idx": _idx, "npz": _npz, "tfds": _tfds}
READERS = READERS_WITHOUT_PATH | READERS_OF_PATHS
