"""The results of a sweep: `results.csv`, one row per run, rebuilt from the work directories."""

import contextlib
import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.atomic_files import open_atomically
from lm_jax.config import serialization
from lm_jax.errors import UserError
from lm_jax.models import family_name
from lm_jax.reports.compare_runs import split_targets
from lm_jax.runs.origin import origin
from lm_jax.runs.workdir import read_environment
from lm_jax.sweeps.directory import (
    failure_message,
    finished_results,
    read_plan,
    status,
    workdir_of,
)
from lm_jax.sweeps.plan import PlannedRun
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.run_files import read_data_facts

# Read as text even if they look like a number, as the address 12e4567890 does.
_TEXT_COLUMNS = {
    *("name", "address", "status", "family", "branch_of"),
    *("commit", "versions", "device", "error"),
}
_NUMBERS = {
    *("seed", "steps", "parameters", "non_embedding_parameters", "training_tokens"),
    *("training_flops", "validation_loss", "best_validation_loss", "bits_per_character", "seconds"),
}
_REQUIRED_COLUMNS = {
    *("name", "address", "status", "family", "seed", "steps", "non_embedding_parameters"),
    *("training_tokens", "training_flops", "validation_loss"),
}


def results(directory: str | Path, running: Collection[str] = ()) -> list[dict[str, Any]]:
    """Returns a row for each run of a sweep, all with the same columns; None for no value.

    Losses are on the validation split, in nats per target; `validation_loss` is the final one and
    `best_validation_loss` the lowest. `seconds` sums the processes that trained the run, without
    the work that a killed one lost. `error` says why a run failed. A run that forked from step
    `branch_step` of the run `branch_of` has the tokens and FLOPs of all its steps, and the seconds
    of the steps after the fork.

    Args:
      running: the names of runs that a process is training.

    Raises:
      UserError: the directory holds no sweep.
    """
    directory = Path(directory)
    plan = read_plan(directory)
    labels = list(dict.fromkeys(name for run in plan for name in run.labels))
    varied = varied_fields(plan)
    rows = []
    for run in plan:
        fields = serialization.flat(run.experiment)
        rows.append(
            _identity(directory, run, running)
            | {name: run.labels.get(name) for name in labels}
            | {path: fields.get(path) for path in varied}
            | _outcome(directory, run)
        )
    return rows


def write_results(directory: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes `results.csv` atomically and returns its path; None becomes an empty cell.

    Raises:
      OSError: the file cannot be written.
    """
    directory = Path(directory)
    path = directory / "results.csv"
    with open_atomically(path, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Returns the rows of a `results.csv`: numbers as numbers, None for empty cells.

    Raises:
      UserError: the file is not the results of a sweep.
      OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
            is_whole = path.read_bytes().endswith(b"\n")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file: {error}") from None
    missing = sorted(_REQUIRED_COLUMNS - set(rows[0] if rows else []))
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}; expected the results.csv of launch.sweep"
            if rows
            else f"{path} has no rows; expected the results.csv of launch.sweep"
        )
    if not is_whole or any(None in row or None in row.values() for row in rows):
        raise UserError(
            f"{path} has rows of another length than its header, or is cut off; "
            "rebuild it with launch.sweep --table"
        )
    found = [{name: _value(name, cell) for name, cell in row.items()} for row in rows]
    for row in found:
        for name in _NUMBERS & row.keys():
            if isinstance(row[name], str):
                raise UserError(
                    f"{path}: run {row['name']} has {name} {row[name]!r}; expected a number; "
                    "rebuild the file with launch.sweep --table"
                )
    return found


def _value(name: str, cell: str) -> str | int | float | None:
    """Returns the value of a cell of the column `name`."""
    if not cell or name in _TEXT_COLUMNS:
        return cell or None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(cell)
    return cell


def workdir_of_row(directory: str | Path, row: Mapping[str, Any]) -> Path:
    """Returns the work directory of a row's run in its sweep's directory."""
    directory = Path(directory)
    return directory / "runs" / f"{row['name']}-{row['address']}"


def varied_fields(plan: Sequence[PlannedRun]) -> list[str]:
    """Returns the dotted paths of fields that differ between runs, or that only some runs have.

    Leaves out `seed` and `model.family`, which always have a column.
    """
    flat = [serialization.flat(run.experiment) for run in plan]
    paths = dict.fromkeys(path for fields in flat for path in fields)
    return [
        path
        for path in paths
        if path not in ("seed", "model.family")
        and any(fields.get(path) != flat[0].get(path) for fields in flat)
    ]


def _identity(directory: Path, run: PlannedRun, running: Collection[str]) -> dict[str, Any]:
    state = "running" if run.name in running else status(directory, run)
    return {
        "name": run.name,
        "address": run.address,
        "status": state,
        "family": family_name(run.experiment.model),
        "seed": run.experiment.seed,
    }


def _outcome(directory: Path, run: PlannedRun) -> dict[str, Any]:
    path = workdir_of(directory, run)
    found = finished_results(directory, run) or {}
    validation = found.get("validation", {})
    metrics = read_metrics(path) if found else []
    losses = [row.get("cross_entropy") for row in metrics if row["kind"] == "evaluation"]
    forked_from = origin(path)
    own = [row for row in metrics if row["step"] > (forked_from.step or 0)]
    # A fork was also computed by the machines that trained its shared prefix.
    machines = [*forked_from.environments, read_environment(path)] if found else []
    cost = run.cost
    return {
        "steps": cost.steps,
        "parameters": found.get("parameters", cost.parameters),
        "non_embedding_parameters": cost.non_embedding_parameters,
        "training_tokens": cost.training_tokens or _tokens_counted(path) or None,
        "training_flops": cost.training_flops or None,
        "validation_loss": validation.get("cross_entropy"),
        "best_validation_loss": min((x for x in losses if x is not None), default=None),
        "bits_per_character": validation.get("bits_per_character"),
        "seconds": seconds_of(found, own) if found else None,
        "branch_of": forked_from.run,
        "branch_step": forked_from.step,
        "commit": _distinct(machine.get("commit") for machine in machines),
        "versions": _distinct(_versions(machine) for machine in machines),
        "device": _distinct(" ".join(sorted(set(m.get("devices", [])))) for m in machines),
        "error": failure_message(directory, run) if not found else None,
    }


def seconds_of(found: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> float:
    """Returns the seconds of all processes that trained a run; a vmapped run has its share.

    Args:
      found: the results of the run.
      metrics: its rows; `seconds` restarts from 0 in each process.
    """
    clock = [row["seconds"] for row in metrics if row["kind"] == "train" and "seconds" in row]
    earlier = [a for a, b in zip(clock, clock[1:], strict=False) if b < a]
    # Earlier versions wrote `fan` for the number of runs trained together.
    runs = found.get("vmapped_runs", found.get("fan", 1))
    return (sum(earlier) + found["timings"]["total_seconds"]) / runs


def _tokens_counted(workdir: Path) -> int:
    """Returns the training targets of a count-based model: the whole training split."""
    try:
        return split_targets(read_data_facts(workdir).get("train", {}))
    except (OSError, UserError):
        return 0


def _versions(machine: Mapping[str, Any]) -> str:
    """Returns the versions of one environment as a text such as `jax=0.10.2 numpy=2.4.6`."""
    versions = machine.get("versions") or {}
    return " ".join(f"{name}={version}" for name, version in versions.items() if version)


def _distinct(texts: Iterable[str | None]) -> str | None:
    """Joins the distinct texts by `; `; None if there are none."""
    return "; ".join(dict.fromkeys(text for text in texts if text)) or None
