"""Files of text: which ones a path names, and what they hold."""

import bz2
import glob
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path

from lm_jax.errors import UserError

_COMPRESSED: dict[bytes, tuple[str, Callable[[bytes], bytes]]] = {  # first bytes -> name, reader
    b"\x1f\x8b\x08": ("gzip", gzip.decompress),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ\x00": ("xz", lzma.decompress),
}
_FORMATS = {  # first bytes of files that are not text -> their name and what to do
    b"\x28\xb5\x2f\xfd": ("a zstd file", "unpack it (unzstd)"),
    b"PK\x03\x04": ("a zip archive", "unpack it (unzip)"),
    b"PAR1": ("a parquet file", "export its text, such as one JSON object per line"),
    b"%PDF-": ("a PDF", "extract its text"),
    b"\xff\xfe": ("UTF-16", "convert it (iconv -f utf-16 -t utf-8)"),
    b"\xfe\xff": ("UTF-16", "convert it (iconv -f utf-16 -t utf-8)"),
}


def find_files(path: str, field: str = "data.path") -> list[Path]:
    """Returns the file of a path, all files of a directory, or those that match a pattern.

    Args:
      field: what gives the path, for the message.

    Raises:
      UserError: there are none.
    """
    found = Path(path)
    if found.is_dir():
        # Hidden files and folders belong to editors and version control, not to the corpus.
        paths = sorted(
            file
            for file in found.rglob("*")
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(found).parts)
        )
    elif found.is_file():  # whatever its name holds: `[` is no pattern then
        paths = [found]
    else:
        paths = sorted(Path(name) for name in glob.glob(path, recursive=True))
        paths = [file for file in paths if file.is_file()]
    if not paths:
        raise UserError(f"no file matches {field} {path!r} (from {os.getcwd()})")
    return paths


def name_in(path: str, file: Path) -> str:
    """Returns how messages call a file that `find_files` found: its path below a directory."""
    return str(file.relative_to(path)) if Path(path).is_dir() else file.name


def read_text(path: Path) -> str:
    """Returns the text of a file, unpacked where it is gzip, bzip2 or xz, with its line ends.

    Raises:
      UserError: the file is damaged or not UTF-8; the message names a format that is recognised.
    """
    raw = _unpacked(path, path.read_bytes())
    for first, (name, advice) in _FORMATS.items():
        if raw.startswith(first):
            raise UserError(
                f"{path} is {name}, not UTF-8 text; {advice} or leave it out of data.path"
            )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {raw[error.start]:#04x} at offset {error.start}; "
            "convert it (iconv -t utf-8) or leave it out of data.path"
        ) from None
    if "\0" in text:
        raise UserError(
            f"{path} holds a NUL byte at offset {raw.index(0)}: it is binary, or UTF-16 without a "
            "mark; convert it (iconv -f utf-16le -t utf-8) or leave it out of data.path"
        )
    return text


def _unpacked(path: Path, raw: bytes) -> bytes:
    for first, (name, unpack) in _COMPRESSED.items():
        if raw.startswith(first):
            try:
                return unpack(raw)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise UserError(
                    f"{path} begins as {name} does, but cannot be unpacked ({error}); it is "
                    "damaged or cut off: fetch it again or leave it out of data.path"
                ) from None
    return raw


def format_suffix(path: Path) -> str:
    """Returns the suffix of a file's name, such as `.jsonl`, without that of its compression."""
    name = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else path
    return name.suffix


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a file without their ends and without a byte order mark.

    Raises:
      UserError: the file is not UTF-8.
    """
    # A byte order mark would be part of the first field.
    return lines_of(read_text(path).removeprefix("\ufeff"))


def lines_of(text: str) -> list[str]:
    """Returns the lines of a text; unlike `splitlines`, only line ends separate lines."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
