import gzip
import struct

import numpy as np
import pytest

from lm_jax.data import ImageConfig, prepare
from lm_jax.data.classification.batches import Draws, image_reader
from lm_jax.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 5), np.uint8)
LABELS = (np.arange(20) % 3).astype(np.uint8)


def write_idx(directory, images=IMAGES, labels=LABELS, zipped=True):
    for part in ("train", "t10k"):
        for name, array in ((f"{part}-images-idx3", images), (f"{part}-labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            raw = header + array.tobytes()
            path = directory / f"{name}-ubyte"
            path.with_suffix(".gz" if zipped else "").write_bytes(
                gzip.compress(raw) if zipped else raw
            )


def npz(directory, **changes):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:6], "y_test": LABELS[:6]}
    path = directory / "images.npz"
    np.savez(path, **{n: a for n, a in (arrays | changes).items() if a is not None})
    return ImageConfig(source="npz", path=str(path))


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_read_as_they_were_written(tmp_path, zipped):
    write_idx(tmp_path, zipped=zipped)
    found = prepare(ImageConfig(source="idx", path=str(tmp_path)))
    np.testing.assert_array_equal(found.train.inputs[..., 0], IMAGES)
    np.testing.assert_array_equal(found.validation.targets, LABELS)
    assert found.labels == ["0", "1", "2"]
    assert found.description["sizes"] == {
        "image_height": 6,
        "image_width": 5,
        "image_channels": 1,
        "num_classes": 3,
    }


def test_without_a_test_split_the_same_images_are_held_out_every_time(tmp_path):
    config = npz(tmp_path, x_test=None, y_test=None)
    first, second = prepare(config), prepare(config)
    assert len(first.validation.targets) == 2 and len(first.train.targets) == 18
    np.testing.assert_array_equal(first.validation.inputs, second.validation.inputs)
    held = {image.tobytes() for image in first.validation.inputs}
    assert not held & {image.tobytes() for image in first.train.inputs}


def test_the_embedded_digits_are_scikit_learns():
    digits = prepare(ImageConfig())
    assert digits.train.inputs.shape == (1617, 8, 8, 1) and len(digits.validation.targets) == 180
    assert digits.train.inputs.max() == 1.0 and digits.labels == list("0123456789")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": np.array([0, 1, 2, 3, 0, 1])}, "label of image 3 is 3; expected 0 to 2"),
        ({"y_train": LABELS.astype(np.int64) - 1}, "label of image 0 is -1"),
        ({"y_train": LABELS.astype(np.int64) + 2**32}, "is 4294967296; expected 0 to 999,999"),
        ({"y_test": np.full(6, 2**31)}, "label of image 0 is 2147483648; expected 0 to 999,999"),
        ({"y_train": LABELS[:5]}, "labels are uint8 of shape .5,. for 20 images"),
        ({"y_train": LABELS.astype(float)}, "expected one integer per image"),
        ({"x_train": IMAGES.astype(np.int64)}, "images are int64"),
        ({"x_train": IMAGES[:, 0]}, r"shape \(20, 5\); expected uint8"),
        ({"x_train": IMAGES.astype(np.float32)}, "expected floats from 0 to 1"),
        ({"x_test": IMAGES[:6, :4]}, "to test are 4 x 5 x 1, those to train on 6 x 5 x 1"),
        ({"x_train": None}, "expected x_train and y_train"),
        ({"y_test": None}, "expected x_train and y_train, and x_test and y_test"),
    ],
)
def test_images_that_are_none_are_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        prepare(npz(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_broken_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no train-images-idx3-ubyte"):
        prepare(ImageConfig(source="idx", path=str(tmp_path)))
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for content in (path.read_bytes()[:60], gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x09" * 3)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no idx file of bytes"):
            prepare(ImageConfig(source="idx", path=str(tmp_path)))
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match="no npz file"):
        prepare(ImageConfig(source="npz", path=str(tmp_path / "a.npz")))


def test_augmentation_shifts_and_flips_and_only_in_training():
    images = RNG.integers(1, 256, (64, 6, 5, 1), np.uint8)
    with pytest.raises(UserError, match="crop_padding is 5, and images are 6 x 5; pad by less"):
        image_reader(images, crop_padding=5)
    read = image_reader(images, crop_padding=1, flip=True)
    indices = np.arange(64)
    np.testing.assert_allclose(read(indices, None)["inputs"] * 255, images, rtol=1e-6)
    seen = set()
    for image, original in zip(
        read(indices, Draws(np.random.default_rng(0), 64, indices))["inputs"] * 255,
        images,
        strict=True,
    ):
        frame = np.pad(original, ((1, 1), (1, 1), (0, 0)))
        matches = [
            (top, left, flip)
            for top in range(3)
            for left in range(3)
            for flip in (1, -1)
            if np.allclose(image, frame[top : top + 6, left : left + 5][:, ::flip])
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 18


def test_broken_archives_are_refused_in_one_line(tmp_path):
    write_idx(tmp_path, images=np.tile(IMAGES, (9, 1, 1)))
    for path in tmp_path.glob("*images*.gz"):
        raw = bytearray(path.read_bytes())
        raw[20:60] = b"\xff" * 40
        path.write_bytes(raw)
    with pytest.raises(UserError, match="is no idx file of bytes"):
        prepare(ImageConfig(source="idx", path=str(tmp_path)))
    np.savez_compressed(tmp_path / "images.npz", x_train=IMAGES, y_train=LABELS)
    raw = bytearray((tmp_path / "images.npz").read_bytes())
    raw[200:260] = b"\xff" * 60
    (tmp_path / "images.npz").write_bytes(raw)
    np.save(tmp_path / "images.npy", IMAGES)
    for name in ("images.npz", "images.npy"):
        with pytest.raises(UserError, match="is no npz file of arrays"):
            prepare(ImageConfig(source="npz", path=str(tmp_path / name)))
