"""Compares finished runs: one table, and one plot of all their curves."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.reports.html import render
from lm_jax.reports.numbers import with_error
from lm_jax.reports.svg_charts import COLOURS, Series, line_chart
from lm_jax.telemetry.json_files import read_metrics, read_object

_UNITS = ("tokens", "pairs", "examples")  # what a run predicts
_LABELS = {
    "bits_per_character": "bits per character",
    "cross_entropy": "cross-entropy, nats",
    "accuracy": "accuracy",
}


class ComparisonRow(NamedTuple):
    """Runs that differ only in their seed (and in their directory)."""

    name: str
    runs: int
    parameters: int
    trained_on: int  # tokens, pairs or examples: steps times the batch
    figures: dict[str, tuple[float, float | None]]  # mean and standard error by measure
    seconds: float  # mean wall time from start to end
    curve: list[tuple[float, float]]  # (trained on, first measure) of the first run


def compare(workdirs: Sequence[Path]) -> list[ComparisonRow]:
    """Returns one row for each experiment, the best first.

    With several runs the standard error is that of the mean over seeds; with one run it is the
    error over the documents or examples of the validation split, where that has several.

    Raises:
      UserError: a directory holds no finished run, the runs predict different kinds of targets or
        use different data, or the loss of a run is infinite.
    """
    runs = [_read(path) for path in workdirs]
    for run in runs:
        if any(run["data"].get(name) != runs[0]["data"].get(name) for name in ("sha256", "split")):
            raise UserError(
                f"{run['path']} is measured on other data than {runs[0]['path']}, so their figures "
                "do not compare; give runs of the same data and split"
            )
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["key"], []).append(run)
    metric = _metric(runs)
    rows = [_row(group, metric) for group in groups.values()]
    sign = -1 if metric == "accuracy" else 1
    return sorted(rows, key=lambda row: sign * row.figures[metric][0])


def write_comparison(rows: Sequence[ComparisonRow], directory: Path) -> Path:
    """Writes comparison.html, comparison.svg and comparison.json; returns the path of the first.

    Raises:
      OSError: a file cannot be written.
    """
    metric = next(iter(rows[0].figures))
    curves = [
        Series(row.name, [x for x, _ in row.curve], [y for _, y in row.curve])
        for row in rows[: len(COLOURS)]
    ]
    axes = "targets trained on", _LABELS[metric]
    chart = line_chart(curves, *axes, width=960, height=440, standalone=True)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "comparison.svg").write_text(f"{chart}\n", encoding="utf-8")
    (directory / "comparison.json").write_text(
        json.dumps([row._asdict() for row in rows], indent=2) + "\n", encoding="utf-8"
    )
    head, *cells = table_of(rows)
    page = render("comparison.html", title="Comparison", chart=chart, head=head, rows=cells)
    path = directory / "comparison.html"
    path.write_text(page, encoding="utf-8")
    return path


def table_of(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    """Returns the cells of the table of a comparison, its head first."""
    measures = list(rows[0].figures)
    head = ["run", "seeds", "parameters", "trained on", *(_LABELS[name] for name in measures)]
    cells = [[*head, "seconds"]]
    for row in rows:
        shown = [_with_error(*row.figures[name]) for name in measures]
        sizes = [f"{row.parameters:,}", f"{row.trained_on:,}"]
        cells.append([row.name, str(row.runs), *sizes, *shown, f"{row.seconds:,.0f}"])
    return cells


def split_targets(sizes: Mapping[str, Any]) -> int:
    """Returns the tokens or texts of a split, from its sizes in `data.json`; 0 without either."""
    return next((sizes[unit] for unit in ("tokens", "texts") if unit in sizes), 0)


def _with_error(mean: float, error: float | None) -> str:
    return with_error(f"{mean:.4f}", f"{error:.4f}" if error else None)


def _read(path: Path) -> dict[str, Any]:
    try:
        results = read_object(path / "evaluation.json")
        config = read_object(path / "config.json")
    except OSError:
        raise UserError(f"{path} holds no finished run; give directories of launch.train") from None
    data = read_object(path / "data.json")
    for name, kind in {"validation": dict, "timings": dict, "parameters": int, "step": int}.items():
        if not isinstance(results.get(name), kind):
            raise UserError(f"{path / 'evaluation.json'} holds no {name}; restore it")
    seedless = {name: part for name, part in config.items() if name != "seed"}
    key = json.dumps(seedless, sort_keys=True)
    return {"path": path, "results": results, "key": key, "data": data, "rows": read_metrics(path)}


def _metric(runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns the measure that ranks the runs: bits per character where all have it."""
    validations = [run["results"]["validation"] for run in runs]
    units = {unit for unit in _UNITS for found in validations if unit in found}
    if len(units) > 1:
        raise UserError(
            f"these runs predict {' and '.join(sorted(units))}, which do not compare; "
            "give runs that predict the same unit"
        )
    for run, found in zip(runs, validations, strict=True):
        if found.get("cross_entropy") is None:
            raise UserError(f"{run['path']} has an infinite cross-entropy; leave it out")
    characters = all(found.get("bits_per_character") is not None for found in validations)
    return "bits_per_character" if characters else "accuracy"


def _row(group: Sequence[Mapping[str, Any]], metric: str) -> ComparisonRow:
    validations = [run["results"]["validation"] for run in group]

    def figure(name: str) -> tuple[float, float | None]:
        values = [_number(run, "validation", name) for run in group]
        if len(values) == 1:
            return values[0], validations[0].get(f"{name}_standard_error")
        return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))

    first = group[0]
    per_step = _targets_per_step(first)
    measured = [row for row in first["rows"] if row["kind"] == "evaluation"]
    shown = dict.fromkeys((metric, "cross_entropy", "accuracy"))
    return ComparisonRow(
        name=first["path"].name.rsplit("-", 1)[0],
        runs=len(group),
        parameters=first["results"]["parameters"],
        trained_on=round(per_step * first["results"]["step"]),
        figures={name: figure(name) for name in shown},
        seconds=float(np.mean([_number(run, "timings", "total_seconds") for run in group])),
        curve=[(per_step * row["step"], row[metric]) for row in measured if metric in row],
    )


def _number(run: Mapping[str, Any], part: str, name: str) -> float:
    """Returns a number of the results; raises UserError where an edited file holds none."""
    value = run["results"][part].get(name)
    if not isinstance(value, int | float):
        path = run["path"] / "evaluation.json"
        raise UserError(f"{path}: {part}.{name} is {value!r}; expected a number; restore it")
    return value


def _targets_per_step(run: Mapping[str, Any]) -> float:
    """Returns the targets of a step; the single step of a count-based model takes all of them."""
    trained = [row for row in run["rows"] if row["kind"] == "train"]
    for unit in _UNITS:
        if trained and unit in trained[-1] and trained[-1]["step"] > 0:
            return trained[-1][unit] / trained[-1]["step"]
    return split_targets(run["data"]["train"])
