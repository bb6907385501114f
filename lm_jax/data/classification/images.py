"""Images with labels: scikit-learn's digits, idx and npz files, tensorflow-datasets.

A reader is a function of a configuration that returns `Images`. A reader of your own needs no
change here: `--config.data.source=my_reader.py:read` calls the function `read` of that file.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lm_jax.choices import choose
from lm_jax.data import tfds
from lm_jax.data.arrays import MOST_UNPACKED, read_npz, refuse_huge_arrays
from lm_jax.data.classification.batches import Examples, LabelledSet
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import OWN_SPLIT
from lm_jax.errors import UserError
from lm_jax.plurals import counted

if TYPE_CHECKING:
    from lm_jax.data.classification.config import ImageConfig

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_MOST_CLASSES = 1_000_000  # the largest label says how many there are, where they have no names
_NPZ_ARRAYS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}


Pixels = tuple[np.ndarray, np.ndarray]  # images and their labels


class Images(NamedTuple):
    """What a reader returns: images [N, H, W] or [N, H, W, C], and their labels [N]."""

    train: Pixels
    test: Pixels | None = None
    labels: list[str] | None = None  # names of the classes; None: their numbers
    validation: Pixels | None = None  # None: `test` serves, or some of `train` are held out


Reader = Callable[["ImageConfig"], Images]


def prepare_images(config: ImageConfig) -> LabelledSet:
    """Returns the images of a configuration; some are held out where there is no test split.

    A test split serves as validation, unless there is another, or `config.test_path` names the test
    split: then some images are held out.

    Raises:
      UserError: the files cannot be had, or hold no images with labels.
    """
    config.validate()
    origin = f"{config.source} {config.path}".strip()
    source = choose(READERS, config.source, "data.source")(config)
    read = {"train": source.train, "validation": source.validation, "test": source.test}
    checked = {
        name: _check(pixels[0], pixels[1], f"{origin} ({name})")
        for name, pixels in read.items()
        if pixels is not None
    }
    train, validation, test = (checked.get(name) for name in read)
    assert train is not None
    for name, split in (("validate", validation), ("test", test)):
        if split and split.inputs.shape[1:] != train.inputs.shape[1:]:
            raise UserError(
                f"{origin}: images to {name} are {_size(split.inputs)}, "
                f"those to train on {_size(train.inputs)}"
            )
    if config.test_path and test is None:
        raise UserError(f"data.test_path {config.test_path!r}: {config.source} read no test images")
    if validation is None and not config.test_path:
        validation, test = test, None
    if validation is not None:
        how = OWN_SPLIT
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
                f"data.label_names gives {counted(len(set(given)), 'name')}, "
                f"but {origin} has {counted(len(names), 'class', 'classes')}"
            )
        names = given
    found: LabelledSet = Dataset(train, validation, {}, None, test)
    for name, split in found.splits.items():
        _check_labels(split.targets, len(names), f"{origin} ({name})")
    return found._replace(description=_describe(config, found.splits, names, how))


def _describe(
    config: ImageConfig, splits: Mapping[str, Examples], labels: list[str], how: str
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for split in splits.values():
        digest.update(np.ascontiguousarray(split.inputs).tobytes() + split.targets.tobytes())
    height, width, channels = splits["train"].inputs.shape[1:]
    counts = {name: {"images": len(split.targets)} for name, split in splits.items()}
    to_test = f", {counts['test']['images']:,} to test" if "test" in counts else ""
    sizes = {"image_height": height, "image_width": width, "image_channels": channels}
    return {
        "source": config.source,
        "path": config.path,
        "sha256": digest.hexdigest(),
        "fingerprint": digest.hexdigest()[:32],
        "split": how,
        "labels": labels,
        "sizes": sizes | {"num_classes": len(labels)},
        **counts,
        "summary": (
            f"{counted(counts['train']['images'], 'image')} of {height} x {width} x {channels} to "
            f"train on, {counts['validation']['images']:,} to validate{to_test} (split: {how}); "
            f"{counted(len(labels), 'class', 'classes')}; "
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
    _check_labels(labels, _MOST_CLASSES, origin)  # as they were read: int32 wraps around
    return Examples(images, labels.astype(np.int32))


def _check_labels(targets: np.ndarray, num_classes: int, origin: str) -> None:
    wrong = np.flatnonzero((targets < 0) | (targets >= num_classes))
    if wrong.size:
        raise UserError(
            f"{origin}: the label of image {wrong[0]} is {targets[wrong[0]]}; "
            f"expected 0 to {num_classes - 1:,}"
        )


def _size(images: np.ndarray) -> str:
    return " x ".join(map(str, images.shape[1:]))


def _held_out(count: int, fraction: float) -> np.ndarray:
    """Returns which examples are held out, bool [N]; it depends on their number alone."""
    held = np.random.default_rng(0).permutation(count) < round(count * fraction)
    if held.all() or not held.any():
        raise UserError(
            f"of {counted(count, 'image')} data.validation_fraction {fraction} leaves none to "
            "train on or none to validate; choose another fraction"
        )
    return held


def _digits(config: ImageConfig) -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "data.source=digits needs scikit-learn: pip install -e '.[digits]'"
        ) from None
    digits = load_digits()
    return Images(((digits.images / 16).astype(np.float32), digits.target))


def _and_gate(config: ImageConfig) -> Images:
    points = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    return Images((points[:, None, :, None], np.array([0, 0, 0, 1])), None, ["false", "true"])


def _idx(config: ImageConfig) -> Images:
    def split(name: str, path: str) -> Pixels:
        images, labels = (_read_idx(Path(path), file) for file in _IDX_FILES[name])
        return images, labels

    return Images(split("train", config.path), split("test", config.test_path or config.path))


def _read_idx(directory: Path, name: str) -> np.ndarray:
    """Returns the array of an idx file, gzipped or not: MNIST's format of magic, sizes, bytes."""
    path = next((p for p in (directory / f"{name}.gz", directory / name) if p.is_file()), None)
    if path is None:
        raise UserError(f"{str(directory)!r} holds no {name} and no {name}.gz")
    is_packed = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            count = math.prod(shape)
            if zeros or kind != 8:
                raise ValueError("its first bytes name no array of bytes")
            if count > path.stat().st_size * (MOST_UNPACKED if is_packed else 1):
                raise ValueError(f"it declares {shape} bytes, more than it can hold")
            refuse_huge_arrays(count, "it")
            array = np.frombuffer(
                file.read(count + 1), np.uint8
            )  # one more shows that it is longer
        if array.size != count:
            held = array.size if array.size < count else "more"
            raise ValueError(f"it declares {shape} bytes and holds {held}")
    except (OSError, EOFError, struct.error, ValueError, zlib.error) as error:
        raise UserError(f"{path} is no idx file of bytes ({error})") from None
    return array.reshape(shape)


def _npz(config: ImageConfig) -> Images:
    found = read_npz(config.path)
    has_test = not config.test_path and any(name in found for name in _NPZ_ARRAYS["test"])
    wanted = _NPZ_ARRAYS["train"] + (_NPZ_ARRAYS["test"] if has_test else ())
    if any(name not in found for name in wanted):
        raise UserError(
            f"{config.path} holds {', '.join(found) or 'nothing'}; expected x_train and y_train, "
            "and x_test and y_test where there is a test split"
        )
    train, test = (found["x_train"], found["y_train"]), None
    if config.test_path:
        found = read_npz(config.test_path)
        if any(name not in found for name in _NPZ_ARRAYS["test"]):
            raise UserError(
                f"data.test_path {config.test_path!r} holds {', '.join(found) or 'nothing'}; "
                "expected x_test and y_test"
            )
    if has_test or config.test_path:
        test = (found["x_test"], found["y_test"])
    return Images(train, test)


def _tfds(config: ImageConfig) -> Images:
    builder = tfds.builder_of(config.path, config.cache_directory)
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(f"{config.path} has {', '.join(features)}; expected image and label")

    def pixels(source: Iterable[Mapping[str, Any]]) -> Pixels:
        images = [np.asarray(example["image"]) for example in source]
        shapes = {image.shape for image in images}
        if len(shapes) != 1:
            raise UserError(
                f"{config.path} has images of {len(shapes)} sizes, such as {min(shapes)} and "
                f"{max(shapes)}; expected one size: resize them and give them as npz"
            )
        return np.stack(images), np.array([int(example["label"]) for example in source])

    splits = tfds.splits(builder, config, test_validates=True)
    found = {name: pixels(source) for name, source in splits.items()}
    return Images(**found, labels=list(features["label"].names))


READERS_WITHOUT_PATH: dict[str, Reader] = {"digits": _digits, "and_gate": _and_gate}
READERS_OF_PATHS: dict[str, Reader] = {"idx": _idx, "npz": _npz, "tfds": _tfds}
READERS = READERS_WITHOUT_PATH | READERS_OF_PATHS
