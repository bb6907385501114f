"""The results of a sweep: `results.csv`, one row a run, made anew from what the runs left."""

import contextlib
import csv
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.config import experiment, serialization
from lm_jax.errors import UserError
from lm_jax.runs.workdir import read_environment
from lm_jax.sweeps.directory import failure, finished, read_plan, status, workdir_of
from lm_jax.sweeps.plan import Planned
from lm_jax.sweeps.warm_starts import origin
from lm_jax.telemetry.json_files import read_metrics

# An address may look like a number: 12e4567890.
_TEXTS = {
    *("name", "address", "status", "family", "branch_of"),
    *("commit", "versions", "device", "error"),
}
_NEEDED = {
    *("name", "address", "status", "family", "seed", "steps", "non_embedding_parameters"),
    *("training_tokens", "training_flops", "validation_loss"),
}


def results(directory: Path, running: Collection[str] = ()) -> list[dict[str, Any]]:
    """A row for each run of a sweep, all with the same columns; None where there is no value.

    Losses are those of the validation split in nats a target; `validation_loss` is the last one and
    `best_validation_loss` the lowest on the way. `seconds` is the time of all processes of the run,
    without what a killed one did after its last checkpoint. What failed has its `error`. A run that
    goes on from step `branch_step` of another, `branch_of`, has the tokens and FLOPs of all its
    steps, and the seconds of those that it took itself.

    Args:
      running: the names of runs under way.

    Raises:
      UserError: the directory holds no sweep.
    """
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


def write_results(directory: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The path of `results.csv`, written whole or not at all; cells without a value are empty.

    Raises:
      OSError: the file cannot be written.
    """
    path = directory / "results.csv"
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)
    return path


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_results` wrote: numbers as numbers, None for empty cells.

    Raises:
      UserError: the file is no results of a sweep.
      OSError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file: {error}") from None
    missing = sorted(_NEEDED - set(rows[0] if rows else []))
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}; expected the results.csv of launch.sweep"
            if rows
            else f"{path} has no rows; expected the results.csv of launch.sweep"
        )
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path} has rows of another length than its header; write it again")
    return [{name: _value(name, cell) for name, cell in row.items()} for row in rows]


def _value(name: str, cell: str) -> Any:
    if not cell or name in _TEXTS:
        return cell or None
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(cell)
    return cell


def workdir_of_row(directory: Path, row: Mapping[str, Any]) -> Path:
    """The work directory of a row's run, in the directory of its sweep."""
    return directory / "runs" / f"{row['name']}-{row['address']}"


def varied_fields(plan: Sequence[Planned]) -> list[str]:
    """The dotted paths of fields that are not the same in all runs, but for columns of their own.

    A field that only some have, as models of one family, is among them.
    """
    flat = [serialization.flat(run.experiment) for run in plan]
    paths = dict.fromkeys(path for fields in flat for path in fields)
    return [
        path
        for path in paths
        if path not in ("seed", "model.family")
        and any(fields.get(path) != flat[0].get(path) for fields in flat)
    ]


def _identity(directory: Path, run: Planned, running: Collection[str]) -> dict[str, Any]:
    state = "running" if run.name in running else status(directory, run)
    return {
        "name": run.name,
        "address": run.address,
        "status": state,
        "family": experiment.variant("model", run.experiment.model),
        "seed": run.experiment.seed,
    }


def _outcome(directory: Path, run: Planned) -> dict[str, Any]:
    place = workdir_of(directory, run)
    found = finished(directory, run) or {}
    validation = found.get("validation", {})
    metrics = read_metrics(place) if found else []
    losses = [row["cross_entropy"] for row in metrics if row["kind"] == "evaluation"]
    begun = origin(place)
    own = [row for row in metrics if row["step"] > (begun["step"] or 0)]
    # Of a branch also what began it, and what began that.
    machines = [*begun["environments"], read_environment(place)] if found else []
    cost = run.cost
    return {
        "steps": cost.steps,
        "parameters": found.get("parameters", cost.parameters),
        "non_embedding_parameters": cost.non_embedding_parameters,
        "training_tokens": cost.training_tokens or _tokens_counted(place) or None,
        "training_flops": cost.training_flops or None,
        "validation_loss": validation.get("cross_entropy"),
        "best_validation_loss": min((x for x in losses if x is not None), default=None),
        "bits_per_character": validation.get("bits_per_character"),
        "seconds": seconds_of(found, own) if found else None,
        "branch_of": begun["run"],
        "branch_step": begun["step"],
        "commit": _distinct(machine.get("commit") for machine in machines),
        "versions": _distinct(_versions(machine) for machine in machines),
        "device": _distinct(" ".join(sorted(set(m.get("devices", [])))) for m in machines),
        "error": failure(directory, run) if not found else None,
    }


def seconds_of(found: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> float:
    """What all processes of a run took, of a fan its share; each counts from its own start."""
    clock = [row["seconds"] for row in metrics if row["kind"] == "train"]
    before = [a for a, b in zip(clock, clock[1:], strict=False) if b < a]
    return (sum(before) + found["timings"]["total_seconds"]) / found.get("fan", 1)


def _tokens_counted(place: Path) -> int:
    """What a model that counts has seen: the whole training split."""
    try:
        sizes = json.loads((place / "data.json").read_text())["train"]
    except (OSError, ValueError, KeyError):
        return 0
    return next((sizes[unit] for unit in ("tokens", "texts") if unit in sizes), 0)


def _versions(machine: Mapping[str, Any]) -> str:
    versions = machine.get("versions") or {}
    return " ".join(f"{name}={version}" for name, version in versions.items() if version)


def _distinct(texts: Iterable[str | None]) -> str | None:
    return "; ".join(dict.fromkeys(text for text in texts if text)) or None
