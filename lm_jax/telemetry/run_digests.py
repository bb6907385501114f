"""Digests of the text files of a run, in `digests.json` of its work directory.

They find flipped bits that leave valid JSON, and rows that are missing. A file without a digest is
of an earlier version: nothing is known of it. The digests of `metrics.jsonl` are of its rows up to
the steps that were saved, since later rows are dropped when a run goes on.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import xxhash

from lm_jax.digests import MANIFEST
from lm_jax.errors import UserError
from lm_jax.json_values import parse, read_as
from lm_jax.telemetry.json_files import read_metrics, write_json, write_text
from lm_jax.telemetry.run_files import Results

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


def note_rows(workdir: Path, step: int) -> None:
    """Notes the digest of all rows of metrics.jsonl at a step that is saved. Raises OSError.

    Parses the last rows only: it is called for each checkpoint, and there may be many rows.
    """
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    first = len(lines)
    while first and parse(lines[first - 1])["step"] == step:
        first -= 1
    kept = [line for line in lines[first:] if parse(line)["kind"] != "evaluation"]
    digests = _read(workdir)
    noted = {
        **digests.get("metrics", {}),
        str(step): [_digest(lines), _digest([*lines[:first], *kept])],
    }
    newest = sorted(noted, key=lambda text: int(text) if text.isdecimal() else -1)[-_MOST_STEPS:]
    _write(workdir, {**digests, "metrics": {step: noted[step] for step in newest}})


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
