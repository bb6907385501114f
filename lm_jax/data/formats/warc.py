"""WARC and WET, the archives of web crawls such as Common Crawl.

A document is a `conversion` record (the text of WET), or a `response` of status 200 that holds HTML
or plain text. Responses that hold something else are counted; other records describe the crawl.

The records are told apart here: `warcio` takes a file that was cut off for a whole one.
"""

import codecs
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, NoReturn

from lm_jax.data.content import HEAD, Content, most_unpacked
from lm_jax.data.formats.html_text import visible_text
from lm_jax.data.formats.interface import Format, Record, Request
from lm_jax.errors import UserError
from lm_jax.plurals import counted

OTHERS = "web responses that are no text or have a status other than 200"
_FIELDS = ("text", "url")
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]+)[^\n]*\n")
_HTML = ("text/html", "application/xhtml+xml")
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
_AS_BROWSERS = {  # what pages declare -> what they mean (WHATWG's Encoding Standard)
    **dict.fromkeys(("ascii", "us-ascii", "iso-8859-1", "latin1"), "windows-1252"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    **dict.fromkeys(("ks_c_5601-1987", "euc-kr"), "cp949"),
}
_OF_PYTHON = {"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"}
"""Encodings of no page. The first two take time in proportion to the square of a page's size."""
_MOST_HEADERS = 1000  # of a record, which has about ten
_BEGINNING = 1 << 16  # bytes of a record in which a response has its headers

Headers = dict[str, str]  # names in lower case


class _Part(NamedTuple):
    """The bytes of a text, and what they are."""

    content_type: str
    charset: str
    body: bytes


def matches(content: Content, request: Request) -> bool:
    """Returns whether the file begins as WARC does, or has its name.

    Raises:
      UserError: other fields are wanted than WARC has.
    """
    is_warc = content.head.startswith(b"WARC/") or content.suffix in (".warc", ".wet")
    missing = [field for field in request.fields if field not in _FIELDS]
    if is_warc and missing:
        raise UserError(
            f"{content.path} is WARC, whose records have text and url and no "
            f"{', '.join(missing)}{request.advice}"
        )
    return is_warc


def read(content: Content, request: Request) -> Iterator[Record]:
    """Yields the records that hold text.

    Raises:
      UserError: the file is damaged or cut off, or a text is refused by the decoder.
    """
    for number, headers, beginning, rest in _records(content):
        kind, origin = headers.get("warc-type"), f"{content.path}:{number}"
        if kind == "conversion":
            part: _Part | None = _Part("text/plain", "", beginning + rest.read())
        elif kind == "response":
            part = _part_of_response(beginning, rest)
            request.decoder.left_out[OTHERS] += part is None
        else:
            part = None
        rest.skip()
        if part is None:
            continue
        text = _text(part, request, origin)
        if text is None:
            request.decoder.count_skipped()
        else:
            yield Record({"text": text, "url": headers.get("warc-target-uri", "")}, origin)


class _Rest:
    """What follows the beginning of a record; it has to be read or skipped before the next one."""

    def __init__(self, content: Content, number: int, length: int) -> None:
        self._content, self._number, self._left = content, number, length

    def read(self) -> bytes:
        """Returns all of it, or what there is: a header may name more."""
        parts, size, most = [], 0, most_unpacked()
        while self._left and (raw := self._content.stream.read(min(self._left, HEAD))):
            self._left, size = self._left - len(raw), size + len(raw)
            parts.append(raw)
            if size > most:
                _refuse(self._content, f"record {self._number} has more than {size:,} bytes")
        return b"".join(parts)

    def skip(self) -> None:
        """Skips what is not read; refuses a record that is cut off."""
        while self._left and (raw := self._content.stream.read(min(self._left, HEAD))):
            self._left -= len(raw)
        if self._left:
            _refuse(
                self._content, f"record {self._number} ends early, by {counted(self._left, 'byte')}"
            )


def _records(content: Content) -> Iterator[tuple[int, Headers, bytes, _Rest]]:
    """Yields number, headers, first bytes and the rest of each record."""
    stream, number = content.stream, 0
    while line := _next_line(stream):
        number += 1
        if not line.startswith(b"WARC/"):
            _refuse(content, f"record {number} begins with {line[:60]!r}; expected WARC/1.0")
        lines = []
        while (line := stream.readline(HEAD)).strip():
            lines.append(line)
            if len(lines) > _MOST_HEADERS:
                _refuse(content, f"record {number} has more than {_MOST_HEADERS:,} headers")
        headers = _headers(lines)
        length = headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,18}", length):
            _refuse(content, f"record {number} has Content-Length {length!r}; expected a number")
        beginning = stream.read(min(int(length), _BEGINNING))
        yield number, headers, beginning, _Rest(content, number, int(length) - len(beginning))


def _next_line(stream: BinaryIO) -> bytes:
    """Returns the first line that is not blank; empty at the end."""
    while (line := stream.readline(HEAD)) and not line.strip():
        pass
    return line


def _headers(lines: list[bytes]) -> Headers:
    found = {}
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        found[name.strip().lower()] = value.strip()
    return found


def _refuse(content: Content, why: str) -> NoReturn:
    raise UserError(
        f"{content.path}: {why}; the file is damaged or cut off: fetch it again or leave it out of "
        f"{content.file.given_by}"
    )


def _part_of_response(beginning: bytes, rest: _Rest) -> _Part | None:
    """Returns the text of a response of status 200; None: it is another or holds no text."""
    end = re.search(rb"\r?\n\r?\n", beginning)
    if not end or not re.match(rb"HTTP/[\d.]+ 200\b", beginning):
        return None
    headers = _headers(beginning[: end.start()].split(b"\n")[1:])
    content_type, _, parameters = headers.get("content-type", "").lower().partition(";")
    content_type = content_type.strip()
    encoding = headers.get("content-encoding", "").lower()
    if content_type not in (*_HTML, "text/plain") or encoding not in _ENCODINGS:
        return None
    body = beginning[end.end() :] + rest.read()
    # Archives may keep these headers although the body is decoded: then it is taken as it is.
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunked(body)
    if encoding not in ("", "identity"):
        try:
            body = zlib.decompressobj(wbits=47).decompress(body, most_unpacked())  # gzip or zlib
        except zlib.error:
            pass
    charset = parameters.partition("charset=")[2].split(";")[0].strip(" \"'")
    if content_type in _HTML and not charset and (declared := _CHARSET.search(body, 0, 1024)):
        charset = declared[1].decode("ascii", "replace")
    return _Part(content_type, charset, body)


def _unchunked(body: bytes) -> bytes:
    parts, at = [], 0
    while size := _CHUNK.match(body, at):
        length = int(size[1], 16)
        if not length:
            break
        parts.append(body[size.end() : size.end() + length])
        at = size.end() + length + 2
    return b"".join(parts) or body


def _text(part: _Part, request: Request, origin: str) -> str | None:
    text, charset = None, part.charset.lower()
    if charset not in ("", "utf-8", "utf8"):
        try:
            known = codecs.lookup(_AS_BROWSERS.get(charset, charset)).name
            text = None if known.replace("_", "-") in _OF_PYTHON else part.body.decode(known)
        except (LookupError, ValueError):  # a wrong declaration: it is UTF-8 or invalid
            pass
    if text is None:
        text = request.decoder.decode(part.body, origin, remedy="mend the record")
    return visible_text(text) if text is not None and part.content_type in _HTML else text


WARC = Format(matches, read)
