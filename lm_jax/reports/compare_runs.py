"""Finished runs side by side: one table, one plot of all their curves."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.reports.run_report import page
from lm_jax.reports.svg_charts import COLOURS, Series, coloured, line_chart, standalone
from lm_jax.telemetry.json_files import read_metrics

_UNITS = ("tokens", "pairs", "examples")  # what a run predicts


class ComparisonRow(NamedTuple):
    """Runs that differ only in their seed (and in where they were kept)."""

    name: str
    runs: int
    parameters: int
    trained_on: int  # tokens, pairs or examples: steps times a batch
    figures: dict[str, tuple[float, float | None]]  # mean and standard error
    seconds: float  # mean, from start to end
    curve: list[tuple[float, float]]  # (trained on, figure) of the first run


def compare(workdirs: Sequence[Path]) -> list[ComparisonRow]:
    """One row for each experiment, the best first.

    The standard error is that of the mean over seeds where there are several runs, and otherwise
    that over the documents or examples of the validation split, if it has several.

    Raises:
      UserError: a directory holds no finished run, the runs do not predict the same kind of
        thing or are of different data, or the loss of one is infinite.
    """
    runs = [_read(path) for path in workdirs]
    for run in runs:
        if any(run["data"][name] != runs[0]["data"][name] for name in ("sha256", "split")):
            raise UserError(
                f"{run['path']} is measured on other data than {runs[0]['path']}: their figures "
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
    """The path of comparison.html; comparison.svg and comparison.json stand beside it.

    Raises:
      OSError: they cannot be written.
    """
    metric = next(iter(rows[0].figures))
    label = {"bits_per_character": "bits per character"}.get(metric, metric.replace("_", " "))
    curves = [
        Series(row.name, [x for x, _ in row.curve], [y for _, y in row.curve])
        for row in rows[: len(COLOURS)]
    ]
    chart = coloured(line_chart(curves, "targets trained on", label, width=960, height=440))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "comparison.svg").write_text(standalone(chart), encoding="utf-8")
    (directory / "comparison.json").write_text(
        json.dumps([row._asdict() for row in rows], indent=2) + "\n", encoding="utf-8"
    )
    table = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for cells in table_of(rows)
    )
    body = f"<figure>{chart}</figure><section><table>{table}</table></section>"
    path = directory / "comparison.html"
    path.write_text(page("Comparison", body), encoding="utf-8")
    return path


def table_of(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    """The cells of a table, its head first."""
    figures = list(rows[0].figures)
    head = ["run", "seeds", "parameters", "trained on", *(n.replace("_", " ") for n in figures)]
    cells = [[*head, "seconds"]]
    for row in rows:
        shown = [_with_error(*row.figures[name]) for name in figures]
        sizes = [f"{row.parameters:,}", f"{row.trained_on:,}"]
        cells.append([row.name, str(row.runs), *sizes, *shown, f"{row.seconds:,.0f}"])
    return cells


def _with_error(mean: float, error: float | None) -> str:
    return f"{mean:.4f}" + (f" ± {error:.4f}" if error else "")


def _read(path: Path) -> dict[str, Any]:
    try:
        results = json.loads((path / "evaluation.json").read_text())
        config = json.loads((path / "config.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{path} holds no finished run; give directories of launch.train") from None
    seedless = {name: part for name, part in config.items() if name != "seed"}
    key = json.dumps(seedless, sort_keys=True)
    data = json.loads((path / "data.json").read_text())
    return {"path": path, "results": results, "key": key, "data": data, "rows": read_metrics(path)}


def _metric(runs: Sequence[Mapping[str, Any]]) -> str:
    validations = [run["results"]["validation"] for run in runs]
    units = {unit for unit in _UNITS for found in validations if unit in found}
    if len(units) > 1:
        raise UserError(
            f"these runs predict {' and '.join(sorted(units))}, which do not compare; "
            "give runs that predict the same"
        )
    for run, found in zip(runs, validations, strict=True):
        if found.get("cross_entropy") is None:
            raise UserError(f"{run['path']} has an infinite cross-entropy; leave it out")
    characters = all(found.get("bits_per_character") is not None for found in validations)
    return "bits_per_character" if characters else "accuracy"


def _row(group: Sequence[Mapping[str, Any]], metric: str) -> ComparisonRow:
    validations = [run["results"]["validation"] for run in group]

    def figure(name: str) -> tuple[float, float | None]:
        values = [validation[name] for validation in validations]
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
        seconds=float(np.mean([run["results"]["timings"]["total_seconds"] for run in group])),
        curve=[(per_step * row["step"], row[metric]) for row in measured],
    )


def _targets_per_step(run: Mapping[str, Any]) -> float:
    """What one step is trained on; a model that counts has one step, over the whole split."""
    trained = [row for row in run["rows"] if row["kind"] == "train"]
    for unit in _UNITS:
        if trained and unit in trained[-1]:
            return trained[-1][unit] / trained[-1]["step"]
    sizes = run["data"]["train"]
    return next((sizes[unit] for unit in ("tokens", "texts") if unit in sizes), 0)
