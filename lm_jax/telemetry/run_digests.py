"""Digests of the text files of a run, in `digests.json` of its work directory.

They find flipped bits that leave valid JSON, and rows that are missing. A file without a digest is
of an earlier version: nothing is known of it. The digests of `metrics.jsonl` are of its rows up to
the steps that were saved, since later rows are dropped when a run goes on.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import xxhash

from lm_jax.digests import MANIFEST
from lm_jax.errors import UserError
from lm_jax.json_values import parse, read_as
from lm_jax.telemetry.json_files import read_metrics, write_json, write_text
from lm_jax.telemetry.run_files import Results
from lm_jax.whole_numbers import whole_number

_MOST_STEPS = 64  # newest ones whose rows have a digest
# A file that was replaced has two, since a kill may come before the file or after it.
_MOST_VERSIONS = 2


class Digests(TypedDict, total=False):
    """`digests.json`."""

    # Rows of metrics.jsonl up to a step: with and without the evaluation of that step, which
    # a run that resumes at its end drops. It may be killed before it has repeated it.
    metrics: dict[str, list[str]]
    files: dict[str, list[str]]  # of the last contents of a file


def note_file(workdir: Path, name: str, content: str) -> None:
    """Notes the digest of a file that is about to be written. Raises OSError."""
    digests = _read(workdir)
    before = digests.get("files", {}).get(name, [])
    own = _digest([content])
    versions = [*(each for each in before if each != own), own][-_MOST_VERSIONS:]
    _write(workdir, {**digests, "files": digests.get("files", {}) | {name: versions}})


class RowDigests:
    """Notes digests of the rows of metrics.jsonl, of which each call reads the new ones only.

    A long run has millions of rows and thousands of checkpoints. Rows that are not as they were
    when they were read, in a file that was cut or replaced, are read once more from the first on.
    """

    def __init__(self, workdir: Path):
        self._workdir, self._path = workdir, workdir / "metrics.jsonl"
        self._forget()

    def note(self, step: int) -> None:
        """Notes the digest of all rows at a step that is saved. Raises OSError."""
        lines = self._new_lines()
        first = len(lines)
        while first and _row_of(lines[first - 1]).get("step") == step:
            first -= 1
        self._count(lines[:first])
        own = lines[first:]  # read again next time: more of them may come
        kept = [line for line in own if _row_of(line).get("kind") != "evaluation"]
        digests = _read(self._workdir)
        noted = {
            **digests.get("metrics", {}),
            str(step): [_added(self._digest, own), _added(self._digest, kept)],
        }
        newest = sorted(noted, key=lambda text: whole_number(text) or 0)
        newest = newest[-_MOST_STEPS:]
        _write(self._workdir, {**digests, "metrics": {step: noted[step] for step in newest}})

    def _forget(self) -> None:
        self._digest = xxhash.xxh3_64()  # of the lines before `_end`
        self._end, self._last, self._inode = 0, b"", 0

    def _new_lines(self) -> list[bytes]:
        """Returns the lines that are not in the digest yet."""
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            start = self._end - len(self._last)
            file.seek(start)
            if inode != self._inode or file.read(len(self._last)) != self._last:
                self._forget()
                file.seek(0)
            self._inode = inode
            lines = file.read().split(b"\n")
        return lines if lines[-1] else lines[:-1]

    def _count(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._digest.update(line + b"\n")
            self._end += len(line) + 1
        if lines:
            self._last = lines[-1] + b"\n"


def _row_of(line: bytes) -> dict[str, Any]:
    """Returns a row; an empty one where the line is damaged."""
    try:
        found = parse(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _added(digest: "xxhash.xxh3_64", lines: Iterable[bytes]) -> str:
    """Returns the digest with further lines."""
    own = digest.copy()
    for line in lines:
        own.update(line + b"\n")
    return own.hexdigest()


def write_noted(workdir: Path, name: str, content: str) -> None:
    """Writes a text file of a run atomically, with its digest. Raises OSError."""
    note_file(workdir, name, content)
    write_text(workdir / name, content)


def refuse_damaged(workdir: Path, name: str) -> None:
    """Raises UserError if a file is not as it was written."""
    if damaged_file(workdir, [name]):
        raise UserError(
            f"{workdir / name} is damaged, or was edited: its digest differs; restore it, or give "
            "the command that trained the run, which writes it anew"
        )


def read_results(workdir: Path) -> Results:
    """Returns `evaluation.json`; empty where a run has not ended. Raises UserError if damaged."""
    path = workdir / "evaluation.json"
    if not path.exists():
        return {}
    refuse_damaged(workdir, path.name)
    return read_as(path, Results)


def damaged_file(workdir: Path, names: Iterable[str]) -> str:
    """Returns the first of the files that is not as it was written; "" if there is none."""
    files = _read(workdir).get("files", {})
    for name in names:
        try:
            content = (workdir / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            content = ""
        if name in files and _digest([content]) not in files[name]:
            return name
    return ""


def refuse_damaged_rows(workdir: Path, step: int) -> None:
    """Raises UserError if the rows up to a step that was saved are not as they were written."""
    expected = _read(workdir).get("metrics", {}).get(str(step))
    rows = (row for row in read_metrics(workdir) if row["step"] <= step)
    if expected is not None and _digest(map(json.dumps, rows)) not in expected:
        path = workdir / "metrics.jsonl"
        raise UserError(
            f"{path} is damaged, or was edited: its rows up to step {step} are not those that "
            f"{MANIFEST} was written for; restore it, or delete {workdir / MANIFEST} to go on with "
            "the rows before the damage"
        )


def _digest(texts: Iterable[str]) -> str:
    digest = xxhash.xxh3_64()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _read(workdir: Path) -> Digests:
    try:
        return read_as(workdir / MANIFEST, Digests)
    except (OSError, UserError):  # damaged: nothing is known
        return {}


def _write(workdir: Path, digests: Mapping[str, Any]) -> None:
    write_json(workdir / MANIFEST, digests)
