"""The directory of a sweep: its plan, a work directory and a log for each run, how far each is."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.config.serialization import from_dict, to_dict
from lm_jax.costs.run_cost import Cost
from lm_jax.errors import UserError
from lm_jax.runs import workdir
from lm_jax.sweeps.plan import Planned
from lm_jax.sweeps.search_space import Trial, address
from lm_jax.telemetry.json_files import write_json

_BEGINS = "--- begins: "  # a line of a log: what stands before is of an attempt before
_ERROR = "error: "  # begins the one line with which a front door fails


def workdir_of(directory: Path, run: Planned) -> Path:
    """The work directory of a run."""
    return directory / "runs" / run.directory


def log_of(directory: Path, run: Planned) -> Path:
    """What the processes of a run print."""
    return directory / "logs" / f"{run.directory}.log"


def write_plan(directory: Path, plan: Sequence[Planned]) -> None:
    """Writes `sweep.json`, which `read_plan` reads; `runs` and `logs` stand beside it."""
    for name in ("runs", "logs"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    entries = {
        run.name: {
            "address": run.address,
            "labels": dict(run.labels),
            "cost": run.cost._asdict(),
            "experiment": to_dict(run.experiment),
        }
        for run in plan
    }
    write_json(directory / "sweep.json", entries)


def read_plan(directory: Path) -> list[Planned]:
    """The runs of a sweep. Raises UserError if the directory holds none."""
    path = directory / "sweep.json"
    try:
        entries = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{directory} holds no sweep: there is no sweep.json") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it or start anew") from None
    return [
        Planned(
            name,
            entry["address"],
            from_dict(entry["experiment"]),
            entry["labels"],
            Cost(**entry["cost"]),
        )
        for name, entry in entries.items()
    ]


def refuse_another_sweep(directory: Path, trials: Mapping[str, Trial]) -> None:
    """Raises UserError if the directory holds other things, or a sweep of other runs only.

    A sweep that has some of its runs is the same one, changed: those that it no longer has stay on
    disk and out of its results.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; --sweepdir is a directory")
    if not directory.exists() or not any(directory.iterdir()):
        return
    before = {run.address: run.name for run in read_plan(directory)}
    if not any(address(trial.experiment) in before for trial in trials.values()):
        raise UserError(
            f"{directory} holds another sweep ({next(iter(before.values()))}, ...), of which this "
            "one has no run; choose another --sweepdir"
        )


def finished(directory: Path, run: Planned) -> dict[str, Any] | None:
    """What a run came to; None where it is not finished."""
    return workdir.results_of(run.experiment, workdir_of(directory, run))


def failure(directory: Path, run: Planned) -> str:
    """The line with which the last attempt at a run failed; "": it did not."""
    try:
        text = log_of(directory, run).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.rpartition(_BEGINS)[2].splitlines()
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return errors[-1] if errors else ""


def note_beginning(directory: Path, run: Planned) -> None:
    """Begins a new attempt in the log of a run."""
    _add(directory, run, f"{_BEGINS}{run.name}, {time.strftime('%Y-%m-%d %H:%M:%S')}")


def note_failure(directory: Path, run: Planned, message: str) -> None:
    """Adds to a log what the process could not say itself."""
    _add(directory, run, _ERROR + " ".join(message.split()))


def _add(directory: Path, run: Planned, line: str) -> None:
    with log_of(directory, run).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")  # what was there may end in the middle of a line


def status(directory: Path, run: Planned) -> str:
    """Whether a run is finished, failed, stopped on the way, or waiting for its first steps."""
    if finished(directory, run) is not None:
        return "finished"
    if failure(directory, run):
        return "failed"
    begun = (workdir_of(directory, run) / "config.json").exists()
    return "stopped" if begun else "waiting"


@contextlib.contextmanager
def lock(path: Path, seconds: float = 0) -> Iterator[None]:
    """Keeps other processes that ask for the same lock out, until it ends or this process does.

    Raises:
      UserError: another one holds it, and still does after so many seconds.
    """
    import fcntl

    deadline = time.monotonic() + seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"another process is at work ({path} is locked); let it end, or stop it"
                    ) from None
            time.sleep(0.1)
        yield
