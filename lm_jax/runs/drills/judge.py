"""Compares a run that was attacked with one that was not."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax.config.experiment import CheckpointConfig
from lm_jax.errors import UserError
from lm_jax.plurals import counted
from lm_jax.runs.drills.site import Ended
from lm_jax.telemetry.run_digests import damaged_file
from lm_jax.training.checkpoints import Checkpoints

# Times, and what depends on them: runs of a sweep that are killed go on with those that are left.
_TIMES = ("seconds", "timings", "goodput", "workdir", "profile", "vmapped_runs")
_SAME_BYTES = ("samples.txt", "inspection.json", "by_document_validation.json", "data.json")


NOTICED = "noticed when read"


class Reference(NamedTuple):
    """What a run comes to that nobody attacks."""

    arrays: dict[str, np.ndarray]  # of the newest checkpoint, by path
    rows: list[Any]  # of metrics.jsonl, without times
    results: Any  # evaluation.json, without times
    files: dict[str, bytes]
    notes: list[str]  # what reading the checkpoint said


def read(workdir: Path) -> Reference:
    """Returns what a finished run came to.

    Raises:
      UserError: there is no checkpoint that can be read.
      OSError: a file is missing.
      ValueError: a file is damaged.
    """
    arrays, notes = restored(workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return Reference(
        arrays,
        [_timeless(json.loads(line)) for line in lines],
        _timeless(json.loads((workdir / "evaluation.json").read_text())),
        {name: (workdir / name).read_bytes() for name in _SAME_BYTES if (workdir / name).exists()},
        notes,
    )


def restored(workdir: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the arrays of the newest checkpoint that can be read, and what reading it said.

    Raises:
      UserError: there is none.
    """
    notes: list[str] = []
    checkpoints = Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True)
    with checkpoints:
        _, state = checkpoints.restore(None, "last", notes.append)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}, notes


def same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> bool:
    """Returns whether arrays are the same bits."""
    return ours.keys() == theirs.keys() and all(
        ours[name].tobytes() == theirs[name].tobytes() for name in ours
    )


def difference(workdir: Path, reference: Reference) -> str:
    """Returns what of a finished run differs from the reference, in a phrase; "" if nothing does.

    `NOTICED`: its newest checkpoint is damaged, and who reads it is told and gets the one before.
    """
    try:
        found = read(workdir)
    except (UserError, OSError, ValueError) as error:
        return f"cannot be read: {error}"
    if not found.notes and not same(found.arrays, reference.arrays):
        return "the arrays of the checkpoint differ"
    if found.rows != reference.rows:
        rows = counted(len(found.rows), "row")
        return f"metrics.jsonl differs: {rows}, expected {len(reference.rows)}"
    if found.results != reference.results:
        return "evaluation.json differs"
    for name, content in reference.files.items():
        if found.files.get(name) != content:
            return f"{name} differs"
    return _fault_of_page(workdir) or (NOTICED if found.notes else "")


def summary(workdir: Path) -> bytes:
    """Returns what a run came to, in bytes that can be compared, or why it cannot be read.

    Before | stands the digest of its arrays, or `NOTICED`.
    """
    try:
        found = read(workdir)
    except (UserError, OSError, ValueError) as error:
        return f"cannot be read: {error}".encode()
    if wrong := _fault_of_page(workdir):
        return wrong.encode()
    arrays, files = hashlib.sha256(), hashlib.sha256()
    for name, array in sorted(found.arrays.items()):
        arrays.update(f"{name} {array.shape} ".encode() + array.tobytes())
    for name, content in sorted(found.files.items()):
        files.update(f"{name} {len(content)} ".encode() + content)
    rest = json.dumps([found.rows, found.results, files.hexdigest()])
    return f"{NOTICED if found.notes else arrays.hexdigest()}|{rest}".encode()


def differs_in_checkpoint_alone(ours: bytes, theirs: bytes) -> bool:
    """Returns whether a summary is another one, but for a checkpoint whose damage is noticed."""
    (state, _, rest), other = ours.partition(b"|"), theirs.partition(b"|")[2]
    return state == NOTICED.encode() and rest == other


def _fault_of_page(workdir: Path) -> str:
    """Returns what is wrong with the page of a run; "" if nothing is."""
    page = workdir / "report.html"
    if not page.exists() or "</html>" not in page.read_text(errors="replace"):
        return "report.html is missing or cut"
    return "report.html is damaged" if damaged_file(workdir, [page.name]) else ""


def fault(ended: Ended) -> str:
    """Returns what is wrong with how a command ended, whatever its status; "" if nothing is."""
    if ended.status is None:
        return "hung"
    if "Traceback" in ended.errors:
        return f"traceback: {ended.errors.strip().splitlines()[-1][:120]}"
    return ""


def refusal(ended: Ended) -> str:
    """Returns the one line of a command that failed; "" where there is another number of them."""
    lines = re.findall(r"^error: (.*)$", ended.errors, flags=re.MULTILINE)
    return lines[0] if ended.status == 1 and len(lines) == 1 else ""


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _timeless(inner)
            for name, inner in value.items()
            if name not in _TIMES and not name.endswith("_per_second")
        }
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
