"""Documents on their way through the stages: read, counted, written, dropped.

Files between stages belong to a task each, even those that hold nothing. They are complete when
they have a digest and their task is marked as done; one that was killed writes its own again.
"""

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from lm_jax.data.files import find_files, name_in
from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.data.preparation.sealed_files import SealedWriter, check, checked_files, remove
from lm_jax.data.text_stream import Counts, stream_texts
from lm_jax.json_values import read_json, read_object

KEPT = "kept_of_near_duplicates"  # what stands for a cluster is noted as if it were dropped
_EXCERPT = 1000  # characters of a dropped document that are kept to be read


class Source(NamedTuple):
    """A part of an input file: every `parts`-th document of it, from the `part`-th on."""

    file: str
    name: str
    part: int
    parts: int


def split_sources(pattern: str, tasks: int) -> list[list[Source]]:
    """Returns the sources of each task: files in their order, about as many bytes for each task.

    A file larger than the share of a task is read by several tasks, each of which takes some of its
    documents.

    Raises:
      UserError: no file matches.
    """
    files = [(path, path.stat().st_size) for path in find_files(pattern, "path")]
    share = max(sum(size for _, size in files) / tasks, 1)
    found: list[list[Source]] = [[] for _ in range(tasks)]
    before = 0
    for path, size in files:
        parts = max(1, round(size / share))
        for part in range(parts):
            middle = before + size * (part + 0.5) / parts
            task = min(int(middle / share), tasks - 1)
            found[task].append(Source(str(path), name_in(pattern, path), part, parts))
        before += size
    return found


class Dropped:
    """Keeps the beginnings of dropped documents, one file a task.

    It stands where datatrove's filters take a writer.
    """

    def __init__(self, directory: Path, stage: str):
        self.work, self.directory, self.stage = directory, directory / "dropped" / stage, stage
        self._file: SealedWriter | None = None

    def __enter__(self) -> "Dropped":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file:
            self._file.__exit__(kind)
        self._file = None

    def write(self, document: Document, rank: int = 0) -> None:
        """Writes one document; its metadata may say why it was dropped."""
        if self._file is None:
            self._file = SealedWriter(self.work, self.directory / f"{rank:05d}.jsonl")
        metadata = dict(document.metadata)
        reason = metadata.pop("filter_reason", "")
        row = {
            "rule": f"{self.stage}: {reason}" if reason else self.stage,
            "id": document.id,
            "characters": metadata.pop("characters_cut", len(document.text)),
            "excerpt": document.text[:_EXCERPT],
            **metadata,
        }
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


class ReadSources(PipelineStep):
    """Reads the sources of a task, without blank documents; tallies what is no UTF-8."""

    type, name = "READ", "sources"

    def __init__(self, listing: Path, config: PreparationConfig, dropped: Dropped):
        super().__init__()
        self.listing, self.dropped = listing, dropped
        self.text_feature, self.on_bad_text = config.text_feature, config.invalid_utf8

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents of a task."""
        left_out: Counter[str] = Counter()
        with self.dropped as dropped:
            for source in map(
                Source._make, read_json(check(self.listing.parent, self.listing))[rank]
            ):
                counts = Counts()
                for document in self._documents(source, counts):
                    if document.text.strip():
                        yield document
                    else:
                        dropped.write(document, rank)
                left_out.update(counts.left_out)
        write_tally(self.listing.parent, "left_out", rank, left_out)

    def _documents(self, source: Source, counts: Counts) -> Iterator[Document]:
        texts = stream_texts(
            source.file,
            self.text_feature,
            self.on_bad_text,
            origin="path",
            counts=counts,
            part=source.part,
            parts=source.parts,
        )
        for text, name in texts:
            _, colon, line = name.rpartition(":")
            label = f"{source.name}:{line}" if colon else source.name
            yield Document(text, label, metadata={"source": source.name})


class Tally(PipelineStep):
    """Passes documents on and writes a summary of them as JSON when there are no more.

    Args:
      file: the name of the summary, of which each task has its own.
    """

    type, name = "TALLY", "counts"

    def __init__(self, directory: Path, file: str):
        super().__init__()
        self.directory, self.file = directory, file

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Any:
        """Yields what it is given."""
        counts: Counter[str] = Counter()
        lengths: Counter[int] = Counter()
        for document in data:
            counts["documents"] += 1
            counts["characters"] += len(document.text)
            counts["bytes"] += len(document.text.encode())
            lengths[len(document.text).bit_length()] += 1
            yield document
        write_tally(self.directory, self.file, rank, dict(counts) | {"lengths": lengths})


def write_tally(directory: Path, name: str, rank: int, values: Any) -> None:
    """Writes the counts of a task."""
    path = directory / "tallies" / name / f"{rank:05d}.json"
    with SealedWriter(directory, path) as file:
        file.write(json.dumps(values).encode())


def read_tallies(directory: Path, name: str) -> list[dict[str, Any]]:
    """Returns the counts of all tasks that wrote some. Raises Damaged."""
    return list(map(read_object, checked_files(directory, directory / "tallies" / name, "*.json")))


class WriteDocuments(PipelineStep):
    """Writes the documents of a task to `directory/RANK.jsonl.gz` and passes them on.

    The bytes depend on the documents alone: gzip's header has no time and no name.

    Args:
      work: the directory of the work.
      level: of gzip.
      fields: of the metadata that are written; all, if None.
    """

    type, name = "WRITE", "documents"

    def __init__(
        self, work: Path, directory: Path, level: int = 1, fields: tuple[str, ...] | None = None
    ):
        super().__init__()
        self.work, self.directory, self.level, self.fields = work, directory, level, fields

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Any:
        """Yields what it is given."""
        path = self.directory / f"{rank:05d}.jsonl.gz"
        partial = path.with_name(f"{path.name}.partial")
        with (
            SealedWriter(self.work, partial, path.name) as file,
            gzip.GzipFile("", "wb", self.level, cast(IO[bytes], file), mtime=0) as zipped,
        ):
            for document in data:
                fields = document.metadata if self.fields is None else self.fields
                row = {"text": document.text, "id": document.id}
                row |= {name: document.metadata[name] for name in fields}
                zipped.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                yield document
        os.replace(partial, path)


class WriteCorpus(WriteDocuments):
    """Writes the documents of a task as the corpus, with the digest of the file in a tally.

    The fields are text, id and source. A task without documents leaves no file.
    """

    def __init__(self, work: Path, corpus: Path):
        super().__init__(work, corpus, level=6, fields=("source",))

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Any:
        """Yields what it is given."""
        counts: Counter[str] = Counter()
        for document in super().run(data, rank, world_size):
            counts["documents"] += 1
            counts["characters"] += len(document.text)
            counts["bytes"] += len(document.text.encode())
            yield document
        path = self.directory / f"{rank:05d}.jsonl.gz"
        if not counts:
            remove(self.work, path)
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        entry = {"name": path.name, "sha256": digest, "size": path.stat().st_size, **counts}
        write_tally(self.work, "corpus", rank, entry)


class ReadDocuments(PipelineStep):
    """Reads the documents of a task that `WriteDocuments` wrote."""

    type, name = "READ", "documents"

    def __init__(self, work: Path, directory: Path):
        super().__init__()
        self.work, self.directory = work, directory

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yields the documents of a task."""
        with gzip.open(check(self.work, self.directory / f"{rank:05d}.jsonl.gz"), "rb") as file:
            for line in file:
                row = orjson.loads(line)
                yield Document(row.pop("text"), row.pop("id"), metadata=row)
