import base64
import subprocess

import numpy as np
import pytest

from lm_jax.data.classification.image_files import read_images
from lm_jax.errors import UserError
from lm_jax.reports.png import png

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def write_png(path, pixels):
    path.write_bytes(base64.b64decode(png(pixels).partition(",")[2]))


def test_a_png_is_read_in_the_channels_of_the_model(tmp_path):
    pytest.importorskip("PIL")
    write_png(tmp_path / "a.png", GREY)
    names, grey = read_images([f"{tmp_path}/*.png"], (3, 4, 1))
    assert names == [str(tmp_path / "a.png")]
    np.testing.assert_allclose(grey[0, ..., 0], GREY / 255, rtol=1e-6)
    _, colours = read_images([f"{tmp_path}/a.png"], (3, 4, 3))
    np.testing.assert_allclose(colours[0], np.repeat(grey[0], 3, axis=-1))
    with pytest.raises(UserError, match="a.png is 3 x 4 x 1, and the run was trained on .*4 x 4 x"):
        read_images([f"{tmp_path}/a.png"], (4, 4, 1))


@pytest.mark.parametrize("key", ["images", "x_test", "anything"])
def test_an_npz_holds_several_images(key, tmp_path):
    np.savez(tmp_path / "two.npz", **{key: np.stack([GREY, GREY]) / 255})
    names, found = read_images([f"{tmp_path}/two.npz"], (3, 4, 1))
    assert [name.rpartition(":")[2] for name in names] == ["0", "1"]
    np.testing.assert_allclose(found[1, ..., 0], GREY / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": GREY[None], "b": GREY[None]}, "holds a, b; expected one array"),
        ({"images": GREY[None].astype(np.float32)}, "pixels run from 0 to 220"),
        ({"images": GREY[None].astype(np.int64)}, "holds int64 of shape"),
    ],
)
def test_what_is_no_image_is_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_images([f"{tmp_path}/x.npz"], (3, 4, 1))


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(UserError, match="x.png is no picture"):
        read_images([f"{tmp_path}/x.png"], (3, 4, 1))


def test_a_page_of_postscript_does_not_start_ghostscript(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 3\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "x.png").write_bytes(page)
    with pytest.raises(UserError, match="x.png is no picture .cannot identify image file"):
        read_images([f"{tmp_path}/x.png"], (3, 4, 1))
