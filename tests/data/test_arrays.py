"""Files of arrays whose headers lie, and damaged ones of every kind: one line, and no memory."""

import errno
import gzip
import io
import resource
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from lm_jax.data import arrays
from lm_jax.data.arrays import map_array, read_npz, save_array
from lm_jax.data.classification.images import _read_idx
from lm_jax.errors import UserError


def npy(shape, held, dtype="|u1", major=1):
    file = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    content = bytearray(file.getvalue() + bytes(held))
    content[6] = major
    return bytes(content)


def zipped(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", content)
    return path


def test_arrays_come_back(tmp_path):
    images, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([0, 1])
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", images=images, labels=labels)
        found = read_npz(tmp_path / "a.npz")
        np.testing.assert_array_equal(found["images"], images)
        np.testing.assert_array_equal(found["labels"], labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**12,), 8), "names 1,000,000,000,000 bytes, and it has 8"),
        (npy((10**12, 10**12, 10**12), 8), "names 1,0"),
        (npy((4,), 8), "names 4 bytes, and it has 8"),
        (npy((1,), 8, "|O"), "names 8 bytes|Object arrays cannot be loaded"),
        (npy((8,), 8, major=3), r"version \(3, 0\) of npy; expected 1.0 or 2.0"),
        (b"\x93NUMPY\x01\x00\xff\xff", "EOF: reading array header"),
        (b"", "EOF: reading magic string"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_lies_takes_no_memory(content, message, method, tmp_path):
    path = zipped(tmp_path / "a.npz", content, method)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"a.npz is no npz file of arrays .*({message})"):
        read_npz(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize("flag", [0x1, 0x20])  # encrypted, patched: RuntimeError and its kin
def test_a_member_that_zipfile_does_not_read_is_one_line(flag, tmp_path):
    content = bytearray(zipped(tmp_path / "a.npz", npy((8,), 8)).read_bytes())
    content[6] |= flag
    content[content.index(b"PK\x01\x02") + 8] |= flag
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="is no npz file of arrays"):
        read_npz(tmp_path / "a.npz")


def test_an_array_beyond_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "host_memory", lambda: 1e3)
    path = zipped(tmp_path / "a.npz", npy((501,), 501))
    with pytest.raises(UserError, match="x.npy takes 5.01e-07 GB, and there are 1e-06 GB of mem"):
        read_npz(path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", npy((9,), 8), b"\x93NUMPY" * 9])
def test_a_damaged_array_of_a_cache_is_made_anew(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises((ValueError, OSError)):
        map_array(tmp_path / "a.npy")


def test_an_archive_of_arrays_is_no_array(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="a.npy is no array"):
        map_array(tmp_path / "a.npy")


def test_a_header_that_python_cannot_parse_is_damage(tmp_path):
    content = npy((8,), 8).replace(b"'shape': (8,)", b"'shape': ((((")
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match="a.npy is no array"):
        map_array(tmp_path / "a.npy")


def idx(shape, held):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + bytes(held)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(idx((2, 2), 10**7), mtime=0), r"declares \(2, 2\) bytes and holds more"),
        (gzip.compress(idx((10**5, 10**4), 100), mtime=0), "more than it can hold"),
        (gzip.compress(idx((100,), 99), mtime=0), r"declares \(100,\) bytes and holds 99"),
        (gzip.compress(idx((2,), 2), mtime=0)[:-9], "Compressed file ended"),
    ],
)
def test_an_idx_file_is_unpacked_as_far_as_its_header_says(content, message, tmp_path):
    (tmp_path / "a.gz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"a.gz is no idx file of bytes .*{message}"):
        _read_idx(tmp_path, "a")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5)])
def test_a_saved_array_is_the_file_that_numpy_writes(tmp_path, shape):
    for array in (np.full(shape, 1.5, np.float32), np.full(shape, 3, np.int64).T):
        np.save(tmp_path / "a.npy", array)
        save_array(tmp_path / "b.npy", array)
        np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), array)
        assert np.load(tmp_path / "b.npy").dtype == array.dtype
        if array.flags.c_contiguous:
            assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "a.npy").read_bytes()


def test_a_full_disk_is_noticed_at_the_last_bytes_of_a_small_array(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # the header takes 128
    try:
        with pytest.raises(OSError) as told:
            save_array(tmp_path / "a.npy", np.arange(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.errno == errno.EFBIG
