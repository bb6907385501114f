"""Texts of files as a stream: one document in memory at a time, whatever a file holds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from lm_jax.data.content import open_content, read_whole
from lm_jax.data.files import SourceFile, find_sources
from lm_jax.data.formats import Record, Request
from lm_jax.data.records import format_of, text_field
from lm_jax.data.utf8 import Decoder


class SourceText(NamedTuple):
    """A document, and where it stands."""

    text: str
    name: str  # path, or path:line for a record; the path is that below the given directory


@dataclass
class Counts:
    """What a stream has read so far."""

    files: int = 0
    all_files: int = 0  # that the stream will read
    records: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def description(self) -> dict[str, Any]:
        """Returns what joins the description of a data set."""
        found: dict[str, Any] = {"files": self.files}
        if self.records:
            found["records"] = self.records
        if self.left_out:
            found["left_out"] = self.left_out
        return found


def stream_texts(
    pattern: str,
    text_feature: str = "",
    on_bad_text: str = "refuse",
    *,
    origin: str = "data.path",
    counts: Counts | None = None,
    part: int = 0,
    parts: int = 1,
) -> Iterator[SourceText]:
    """Yields the texts of a file, a directory, a pattern or a URL, in the order of the files.

    A file of records gives a document a record, any other file is one document.

    Args:
      text_feature: the field of records that holds the text; "": `text`.
      on_bad_text: what becomes of texts that are not UTF-8; a key of `utf8.INVALID_UTF8`.
      origin: what gives the pattern, for messages.
      counts: is told what was read.
      part: of each file, every `parts`-th record from this one on; of a file that is one document,
        all is in part 0. Each document, and each fault, is in one part.

    Raises:
      UserError: there are none, a file cannot be read, or a record has no such text.
    """
    counts = Counts() if counts is None else counts
    has_field = origin.startswith("data.")  # and is no flag of a program
    choice = ", or set data.invalid_utf8 to replace or skip" if has_field else ""
    decoder = Decoder(on_bad_text, choice, origin)
    advice = "; name the field of the text with data.text_feature, or leave the file out"
    request = Request((text_feature or "text",), decoder, advice, part=part, parts=parts)
    counts.left_out = decoder.left_out
    files = find_sources(pattern, origin)
    counts.all_files = len(files)
    for file in files:
        counts.files += 1
        yield from _texts_of(file, request, counts)


def _texts_of(file: SourceFile, request: Request, counts: Counts) -> Iterator[SourceText]:
    with open_content(file) as content:
        found = format_of(content, request)
        if found is not None:
            records = found.read(content, request)
            for record in records if found.reads_parts else _part_of(records, request):
                counts.records += 1
                name = file.name + record.origin.removeprefix(file.path)
                yield SourceText(text_field(record, request.fields[0]), name)
            return
        if request.part:
            return
        text = read_whole(content, request.decoder)
    if text is None:
        request.decoder.count_skipped()
    else:
        yield SourceText(text, file.name)


def _part_of(records: Iterator[Record], request: Request) -> Iterator[Record]:
    """Yields the records of a part; what is left out of the file counts in part 0."""
    left_out = request.decoder.left_out
    before = dict(left_out)
    yield from islice(records, request.part, None, request.parts)
    if request.part:
        left_out.clear()
        left_out.update(before)
