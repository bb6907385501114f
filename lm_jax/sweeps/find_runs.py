"""Finds runs below paths: work directories, sweeps, and folders of them. Needs no JAX."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lm_jax.errors import UserError
from lm_jax.file_names import is_file_name
from lm_jax.json_values import read_object
from lm_jax.sweeps.run_logs import last_error

_OF_RUNS = ("config.json", "branch.json", "running.json", "attempts.json")
_LISTED = 3  # paths that a line names


class FoundRun(NamedTuple):
    """A run, which may wait for its work directory."""

    name: str  # the path of its work directory, without the address that sweeps add
    workdir: Path
    log: Path | None  # of the process that trains it; None: not known

    @property
    def log_error(self) -> str:
        """The error of the last attempt in its log; "" if there is none."""
        return last_error(self.log) if self.log else ""


def find_runs(patterns: Sequence[str]) -> tuple[list[FoundRun], list[str]]:
    """Returns the runs that paths name, each once, and lines on what holds none.

    Args:
      patterns: work directories, directories of sweeps, folders of both, or globs of them.

    Raises:
      UserError: there is no run at all.
    """
    found: dict[Path, FoundRun] = {}
    notes: list[str] = []
    empty: list[str] = []
    for pattern in patterns:
        paths = [Path(pattern)]
        if not paths[0].exists() and glob.has_magic(pattern):
            paths = [Path(name) for name in sorted(glob.glob(pattern))] or paths
        for path in paths:
            runs = list(_runs_in(path, notes)) or list(_runs_below(path, notes))
            if not runs:
                empty.append(str(path))
            for run in runs:
                found.setdefault(run.workdir.absolute(), run)
    if empty:
        more = f" and {len(empty) - _LISTED} more" if len(empty) > _LISTED else ""
        notes.append(f"no run and no sweep in {', '.join(empty[:_LISTED])}{more}")
    if not found:
        raise UserError(
            f"{'; '.join(notes)}; give work directories of runs, or directories of sweeps"
        )
    return list(found.values()), notes


def _runs_below(folder: Path, notes: list[str]) -> Iterator[FoundRun]:
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield from _runs_in(path, notes)


def _runs_in(path: Path, notes: list[str]) -> Iterator[FoundRun]:
    """Yields the run that a directory is, or the runs of the sweep that it holds."""
    if (path / "sweep.json").is_file():
        yield from _runs_of_sweep(path, notes)
    elif any((path / name).is_file() for name in _OF_RUNS):
        yield FoundRun(str(path), path, None)


def _runs_of_sweep(directory: Path, notes: list[str]) -> Iterator[FoundRun]:
    try:
        entries = read_object(directory / "sweep.json")
        folders = {name: f"{name}-{entry['address']}" for name, entry in entries.items()}
        if not all(map(is_file_name, folders.values())):  # the directory may be a stranger's
            raise UserError("a run is no name of a folder")
    except (UserError, OSError, KeyError, TypeError):
        notes.append(f"{directory / 'sweep.json'} is damaged: runs that wait are not known")
        folders = {path.name: path.name for path in sorted((directory / "runs").glob("*"))}
    for name, folder in folders.items():
        log = directory / "logs" / f"{folder}.log"
        yield FoundRun(str(directory / "runs" / name), directory / "runs" / folder, log)
