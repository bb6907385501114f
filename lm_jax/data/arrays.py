"""Arrays of npy and npz files that anybody may have written, checked before memory is taken."""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.host import host_memory

MOST_UNPACKED = 1032  # bytes that deflate makes of one, at most
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LONGEST_FAULT = 200  # characters


def map_array(path: Path) -> np.ndarray:
    """Returns the array of an npy file, mapped into memory.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is damaged.
    """
    try:
        # Not `np.load`, which reads archives and pickles, too.
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy parses the header as Python, and raises many types
        raise ValueError(f"{path} is no array ({_reason(error)})") from None


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an npy file.

    `np.save` and `tofile` leave up to 4 KiB to the C library, and say nothing when a full disk
    refuses them at the end.

    Raises:
      OSError: it cannot be written.
    """
    array = np.asarray(array, order="C")
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.reshape(-1).view(np.uint8).data)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file by name.

    Raises:
      UserError: the file is damaged, or an array is larger than the file can hold or than half of
        the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _check_member(archive, member, Path(path).stat().st_size)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy raise many types for damaged files
        raise UserError(f"{path} is no npz file of arrays ({_reason(error)})") from None


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> None:
    """Raises ValueError if the header of an array names more than its part of the file holds."""
    if member.compress_type not in _METHODS:
        raise ValueError(f"{member.filename} is packed by a method that numpy does not use")
    if member.compress_size > size or member.file_size > MOST_UNPACKED * member.compress_size + 64:
        raise ValueError(f"{member.filename} names more bytes than the file can hold")
    with archive.open(member) as file:
        header, needed = _header(file)
    if header + needed != member.file_size:
        raise ValueError(
            f"the header of {member.filename} names {needed:,} bytes, and it has "
            f"{max(member.file_size - header, 0):,}"
        )
    refuse_huge_arrays(needed, member.filename)


def _header(file: IO[bytes]) -> tuple[int, int]:
    """Returns the bytes of the header of an npy file, and those that its array takes."""
    readers: dict[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of npy; expected 1.0 or 2.0")
    shape, _, dtype = readers[version](file)
    return file.tell(), math.prod(shape) * dtype.itemsize


def refuse_huge_arrays(needed: int, name: str) -> None:
    """Raises ValueError if an array takes more than half of the memory of this machine."""
    memory = host_memory()
    if memory is not None and needed > memory / 2:
        raise ValueError(
            f"{name} takes {needed / 1e9:.3g} GB, and there are {memory / 1e9:.3g} GB of memory"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST_FAULT] or type(error).__name__
