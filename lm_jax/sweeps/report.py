"""Writes `report.html` of a sweep: its plots, its runs, and what made them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.errors import UserError
from lm_jax.reports.html import render
from lm_jax.reports.matplotlib_figures import size_label, write_figures
from lm_jax.reports.numbers import short
from lm_jax.sweeps.learning_rate_curves import (
    ResultRow,
    learning_rate_curves,
    size_column,
    varied,
)
from lm_jax.sweeps.plots import plots_of
from lm_jax.sweeps.results import read_results
from lm_jax.telemetry.environment import environment, version

_COUNTS = ("non_embedding_parameters", "training_tokens", "training_flops")
_MEASURES = ("validation_loss", "best_validation_loss", "bits_per_character", "seconds")
_NAMES = {"non_embedding_parameters": "N", "training_tokens": "tokens", "training_flops": "FLOPs"}


def write_sweep_page(directory: str | Path) -> tuple[Path, list[str]]:
    """Writes report.html, and its plots to `figures`; returns the page's path and the plots' names.

    All but the loss curves and the losses by position comes from `results.csv` alone.

    Raises:
      UserError: `results.csv` is not that of a sweep, or matplotlib is not installed.
      OSError: a file cannot be read or written.
    """
    directory = Path(directory)
    source = directory / "results.csv"
    if not source.is_file():
        raise UserError(f"{directory} has no results.csv; launch.sweep --table writes it")
    rows = read_results(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    here = environment()
    plots = plots_of(directory, rows)
    (directory / "figures").mkdir(exist_ok=True)
    made_from = f"From results.csv, SHA-256 {digest}, by lm_jax at {here['commit']}"
    runs_head, runs = _runs(rows)
    page = render(
        "sweep.html",
        title=f"Sweep: {directory.resolve().name}",
        headline=_headline(rows),
        figures=write_figures(plots, directory / "figures", made_from),
        best_rates_head=_best_rates_head(rows),
        best_rates=_best_rates(rows),
        failures=[(row["name"], row["error"] or "") for row in rows if row["status"] == "failed"],
        runs_head=runs_head,
        runs=runs,
        provenance=_provenance(rows, digest, here),
    )
    path = directory / "report.html"
    path.write_text(page, encoding="utf-8")
    return path, list(plots)


def _headline(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    states = Counter(row["status"] for row in rows)
    flops = sum(row["training_flops"] or 0 for row in rows if row["status"] == "finished")
    facts = [(f"{len(rows)}", "runs"), *((f"{n}", state) for state, n in states.items())]
    facts.append((f"{flops:.3g}", "FLOPs of finished runs"))
    done = [row for row in rows if row["validation_loss"] is not None]
    if done:
        best = min(done, key=lambda row: row["validation_loss"])
        facts.append((f"{best['validation_loss']:.4f}", f"lowest loss: {best['name']}"))
    return facts


def _best_rates_head(rows: Sequence[ResultRow]) -> tuple[str, ...]:
    return ("runs", size_label(size_column(rows)), "best rate", "bracketed by", "loss", "note")


def _best_rates(rows: Sequence[ResultRow]) -> list[tuple[str, ...]]:
    return [
        (
            curve.panel or "all",
            short(curve.size),
            f"{best.rate:.3g}",
            f"{best.low:.3g} to {best.high:.3g}",
            f"{best.loss:.4f}",
            "at the edge of the rates tried" if best.at_edge else "",
        )
        for curve in learning_rate_curves(rows)
        if (best := curve.best())
    ]


def _runs(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Returns the head of the table of runs, and its rows."""
    names = ["name", "address", "status", "family", "seed", *varied(rows), *_COUNTS]
    names += [name for name in _MEASURES if any(row.get(name) is not None for row in rows)]
    for constant in ("family", "seed"):
        if len({row[constant] for row in rows}) == 1:
            names.remove(constant)
    head = [_NAMES.get(name, name.rpartition(".")[2].replace("_", " ")) for name in names]
    return head, [[_cell(name, row[name]) for name in names] for row in rows]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("training_flops", "budget"):
        return f"{value:.3e}"
    if name in _COUNTS:
        return f"{value:,}"
    if name == "seconds":
        return f"{value:,.0f}"
    if name in _MEASURES:
        return f"{value:.4f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _provenance(
    rows: Sequence[ResultRow], digest: str, here: Mapping[str, Any]
) -> list[tuple[str, str]]:
    lines = [
        ("made by", here["command"]),
        ("made from", f"results.csv, SHA-256 {digest}; a run's address is the hash of its config"),
        ("drawn at commit", str(here["commit"])),
        ("drawn with", f"matplotlib={version('matplotlib')} numpy={version('numpy')}"),
    ]
    for column in ("commit", "versions", "device"):
        found = Counter(row[column] for row in rows if row.get(column))
        for value, count in found.items():
            lines.append((f"{column} of runs", f"{value} ({count} of {len(rows)})"))
    return lines
