import base64
import struct
import zlib

import numpy as np
import pytest

from lm_jax.reports.png import png, tiles


def pixels_of(address):
    """Returns the pixels of a `data:` address, decoded from the chunks of the PNG."""
    raw = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(raw):
        length, kind = struct.unpack(">I4s", raw[at : at + 8])
        content = raw[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", raw[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(kind + content)
        chunks[kind] = content
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert depth == 8
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()  # no filter
    return rows[:, 1:].reshape(height, width, {0: 1, 2: 3}[colour])


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_not_scaled(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    np.testing.assert_array_equal(pixels_of(png(image)), image)
    np.testing.assert_array_equal(
        pixels_of(png(image, scale=2)), image.repeat(2, axis=0).repeat(2, axis=1)
    )


def test_floats_run_from_black_to_white():
    found = pixels_of(png(np.array([[-1.0, 0.0], [0.5, 1.0]])))
    np.testing.assert_array_equal(found[..., 0], [[0, 128], [191, 255]])


def test_tiles_stand_one_pixel_apart():
    sheet = tiles(np.arange(5 * 2 * 3).reshape(5, 2, 3))
    assert sheet.shape == (2 * 3 - 1, 4 * 4 - 1)
    np.testing.assert_allclose(sheet[:2, :3], np.arange(6).reshape(2, 3) / 5)
    assert (sheet[2] == 1).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_two_or_four_channels_are_averaged_to_grey(channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    found = pixels_of(png(image))
    np.testing.assert_array_equal(found[..., 0], image.mean(axis=2).astype(np.uint8))
