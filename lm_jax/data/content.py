"""What files hold: unpacked, read in parts, and decoded.

A file is known by its first bytes, not by its name. Nothing is read whole but by `read_text`.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lm_jax.data.files import SourceFile, format_suffix, local_file
from lm_jax.data.utf8 import Decoder
from lm_jax.errors import UserError
from lm_jax.host import host_memory

HEAD = 1 << 20  # bytes by which a format is recognised, and that are read at a time

_ZIP = b"PK\x03\x04"
_OFFICE = "save it as plain text in UTF-8"
_ZIPPED = {  # a part of the first bytes of a zip archive -> its name and what to do
    b"[Content_Types].xml": ("an Office document (docx, xlsx or pptx)", _OFFICE),
    b"application/vnd.oasis.opendocument": ("an OpenDocument file (odt, ods or odp)", _OFFICE),
    b"application/epub": ("an e-book (epub)", "convert it to plain text"),
}
_FORMATS = {  # first bytes of files that are not text -> their name and what to do
    b"\xd0\xcf\x11\xe0": ("an old Office document (doc, xls or ppt)", _OFFICE),
    b"{\\rtf": ("RTF", _OFFICE),
    _ZIP: ("a zip archive", "unpack it (unzip)"),
    b"%PDF-": ("a PDF", "extract its text"),
    b"\x04\x22\x4d\x18": ("an lz4 file", "unpack it (unlz4)"),
    b"\xff\xfe": ("UTF-16", "convert it (iconv -f utf-16 -t utf-8)"),
    b"\xfe\xff": ("UTF-16", "convert it (iconv -f utf-16 -t utf-8)"),
}
_TAR = slice(257, 262)  # where a tar archive says `ustar`


class Content(NamedTuple):
    """A file that is open, unpacked where it was packed."""

    file: SourceFile
    suffix: str  # of its name, such as .jsonl, without that of its packing
    stream: BinaryIO
    packed_by: str  # gzip, bzip2, xz or zstd; "": it is not packed
    head: bytes  # its first bytes, which the stream still gives

    @property
    def path(self) -> str:
        """The path or URL, for messages."""
        return self.file.path


@contextmanager
def open_content(file: SourceFile) -> Iterator[Content]:
    """Opens a file and unpacks it if it is gzip, bzip2, xz or zstd.

    Raises:
      UserError: it cannot be read; while reading: it is damaged or cut off, or disappears.
    """
    suffix = format_suffix(file.path)
    with io.BufferedReader(_Source(file), HEAD) as packed:
        head = packed.peek()
        for first, (name, unpack) in _COMPRESSED.items():
            if head.startswith(first):
                with io.BufferedReader(_Unpacked(file, name, unpack, packed), HEAD) as stream:
                    yield Content(file, suffix, stream, name, stream.peek()[:HEAD])
                return
        yield Content(file, suffix, packed, "", head[:HEAD])


@contextmanager
def needed_for(path: str, format_name: str) -> Iterator[None]:
    """Says in one line which package an `import` in its body lacks.

    Raises:
      UserError: one is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{path} is {format_name}, which needs {error.name or error}: pip install -e '.[data]'"
        ) from None


class _Source(io.RawIOBase):
    """The bytes of a file; an error of the file system becomes one line."""

    def __init__(self, file: SourceFile) -> None:
        self._source = file
        self._file = self._try(file.open)

    def _try(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # file systems of fsspec raise types of their own
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{self._source.path} cannot be read ({reason}); restore it, or leave it out of "
                f"{self._source.given_by}"
            ) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._try(self._file.seek, offset, whence))

    def tell(self) -> int:
        return int(self._try(self._file.tell))

    def readinto(self, buffer: Any) -> int:
        return self._try(self._file.readinto, buffer) or 0

    def readall(self) -> bytes:
        return bytes(self._try(self._file.read))

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()


class _Unpacked(io.RawIOBase):
    """What a packed file holds; an error of the packing becomes one line."""

    def __init__(
        self, file: SourceFile, name: str, unpack: Callable[[Any], Any], packed: Any
    ) -> None:
        self._source, self._name = file, name
        with needed_for(file.path, name):
            self._file = unpack(packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._file.readinto(buffer))
        except UserError:
            raise
        except (
            *(OSError, EOFError, ValueError, zlib.error, lzma.LZMAError),
            MemoryError,  # of a header that names a dictionary of gigabytes
        ) as error:
            raise UserError(
                f"{self._source.path} begins as {self._name} does, but cannot be unpacked "
                f"({str(error) or type(error).__name__}); it is damaged or cut off: fetch it again "
                f"or leave it out of {self._source.given_by}"
            ) from None

    def readall(self) -> bytes:
        most, parts, size = most_unpacked(), [], 0
        while part := self.read(HEAD):
            parts.append(part)
            size += len(part)
            if size > most:
                raise _too_large(self._source, size)
        return b"".join(parts)


def most_unpacked() -> int:
    """Returns the most bytes that a packed document may unpack to: a quarter of the memory."""
    return int((host_memory() or 2.0**62) / 4)


def _too_large(file: SourceFile, size: int) -> UserError:
    return UserError(
        f"{file.path} unpacks to more than {size / 1e9:.3g} GB, a quarter of the memory; split it, "
        f"or leave it out of {file.given_by}"
    )


class _Zstd(io.RawIOBase):
    """The content of a zstd file, of any number of frames.

    `zstandard`'s own reader takes a file that was cut off for a whole one.
    """

    def __init__(self, packed: io.BufferedReader) -> None:
        import zstandard

        # Frames of `zstd --long=31` need a window of 2 GiB; others take what they need.
        self._new_frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._error = zstandard.ZstdError
        self._packed, self._frame = packed, self._new_frame()
        self._begun, self._ready = False, b""

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer) and (self._ready or self._unpack()):
            part = self._ready[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            self._ready, filled = self._ready[len(part) :], filled + len(part)
        return filled

    def _unpack(self) -> bool:
        """Unpacks some more; returns whether there is more."""
        while not self._ready:
            if self._frame.eof:
                rest, self._frame, self._begun = self._frame.unused_data, self._new_frame(), False
            else:
                rest = b""
            rest = rest or self._packed.read(1 << 11)  # little: it may grow a thousandfold
            if not rest:
                if self._begun:
                    raise EOFError("it ended before the end of its last frame")
                return False
            self._begun = True
            try:
                self._ready = self._frame.decompress(rest)
            except self._error as error:
                raise ValueError(str(error)) from None
        return True


_COMPRESSED: dict[bytes, tuple[str, Callable[[Any], Any]]] = {  # first bytes -> name, reader
    b"\x1f\x8b\x08": ("gzip", lambda packed: gzip.GzipFile(fileobj=packed)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
    b"\x28\xb5\x2f\xfd": ("zstd", _Zstd),
}


def refuse_other_formats(content: Content) -> None:
    """Refuses a file that begins as a format that is no text.

    Raises:
      UserError: it does; the message names the format.
    """
    found = [told for first, told in _FORMATS.items() if content.head.startswith(first)]
    if content.head[_TAR] == b"ustar":
        found = [("a tar archive", "unpack it (tar -xf)")]
    if content.head.startswith(_ZIP):
        found = [told for part, told in _ZIPPED.items() if part in content.head[:4096]] + found
    for name, advice in found:
        raise UserError(
            f"{content.path} is {name}, not UTF-8 text; {advice} or leave it out of "
            f"{content.file.given_by}"
        )


def read_whole(content: Content, decoder: Decoder) -> str | None:
    """Returns the text of a file with its line ends; None: it is skipped.

    Raises:
      UserError: the file is damaged or binary, or it is not UTF-8 and the decoder refuses it.
    """
    refuse_other_formats(content)
    raw = content.stream.read()
    text = decoder.decode(raw, content.path)
    if text is not None:
        refuse_nul(raw, content.file)
    return text


def refuse_nul(raw: bytes, file: SourceFile, offset: int = 0) -> None:
    """Refuses bytes of a file, from this offset on, that hold a NUL.

    Raises:
      UserError: they do.
    """
    found = raw.find(0)
    if found >= 0:
        raise UserError(
            f"{file.path} holds a NUL byte at offset {offset + found}: it is binary, or UTF-16 "
            "without a mark; convert it (iconv -f utf-16le -t utf-8) or leave it out of "
            f"{file.given_by}"
        )


class Line(NamedTuple):
    """A line with its end; if it was not UTF-8 and is to be skipped, it is not valid."""

    text: str
    is_valid: bool


def decoded_lines(content: Content, decoder: Decoder) -> Iterator[Line]:
    """Yields the lines of a file, without a byte order mark.

    Lines end with LF, CR or CR LF; `csv` wants the ends.

    Raises:
      UserError: as `read_whole`.
    """
    return (line for _, line in numbered_lines(content, decoder))


def numbered_lines(
    content: Content, decoder: Decoder, part: int = 0, parts: int = 1
) -> Iterator[tuple[int, Line]]:
    """Yields every `parts`-th line of a file, from the `part`-th on, with its number from 0.

    The others are not decoded, and faults in them are not seen.

    Raises:
      UserError: as `read_whole`.
    """
    offset = number = 0
    for raw in _raw_lines(content):
        is_one = raw.find(b"\r", 0, len(raw) - 2 * raw.endswith(b"\r\n")) < 0
        if is_one and number % parts != part:
            offset, number = offset + len(raw), number + 1
            continue
        refuse_nul(raw, content.file, offset)
        found = decoder.decode(raw, content.path, offset)
        text = raw.decode("utf-8", "replace") if found is None else found
        if not offset:  # a mark would be part of the first field
            text = text.removeprefix("\ufeff")
        offset += len(raw)
        for line in [text] if is_one else io.StringIO(text, newline=""):
            if number % parts == part:
                yield number, Line(line, found is not None)
            number += 1


def _raw_lines(content: Content) -> Iterator[bytes]:
    """Yields lines; a packed file may unpack to a line that is a thousand times as long as it."""
    if not content.packed_by:
        yield from content.stream
        return
    most = most_unpacked()
    while line := content.stream.readline(most):
        if len(line) == most:
            raise _too_large(content.file, most)
        yield line


def read_text(path: Path, given_by: str = "data.path") -> str:
    """Returns the text of a file, unpacked where it is packed, with its line ends.

    Args:
      given_by: the field or the flag that names the file, for messages.

    Raises:
      UserError: the file is damaged or not UTF-8; the message names a format that is recognised.
    """
    with open_content(local_file(path, given_by=given_by)) as content:
        text = read_whole(content, Decoder(given_by=given_by))
    assert text is not None, "this decoder skips nothing"
    return text


def read_lines(path: Path, given_by: str = "data.path") -> list[str]:
    """Returns the lines of a file without their ends and without a byte order mark.

    Args:
      given_by: as for `read_text`.

    Raises:
      UserError: the file is not UTF-8.
    """
    return lines_of(read_text(path, given_by).removeprefix("\ufeff"))


def lines_of(text: str) -> list[str]:
    """Returns the lines of a text; unlike `splitlines`, only line ends separate lines."""
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
