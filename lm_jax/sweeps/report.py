"""Writes `report.html` of a sweep: its plots, its runs, and what made them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lm_jax.atomic_files import make_directory
from lm_jax.errors import UserError
from lm_jax.reports.html import render
from lm_jax.reports.matplotlib_figures import require_matplotlib, size_label, write_figures
from lm_jax.reports.numbers import four_digits, short, timing, with_error
from lm_jax.sweeps.learning_rate_curves import (
    Best,
    LearningRateCurve,
    ResultRow,
    learning_rate_curves,
    size_column,
    standard_error,
    varied,
)
from lm_jax.sweeps.plots import plots_of
from lm_jax.sweeps.results import read_results, workdir_of_row
from lm_jax.telemetry.environment import environment, maker, version
from lm_jax.telemetry.json_files import write_text

_COUNTS = ("non_embedding_parameters", "training_tokens", "training_flops")
_MEASURES = ("validation_loss", "best_validation_loss", "bits_per_character", "seconds")
_NAMES = {
    "non_embedding_parameters": "parameters N",
    "training_tokens": "tokens",
    "training_flops": "FLOPs",
    "validation_loss": "validation loss",
    "best_validation_loss": "lowest validation loss",
    "bits_per_character": "bits per character",
}


def write_sweep_page(directory: str | Path) -> tuple[Path, list[str]]:
    """Writes report.html, and its plots to `figures`; returns the page's path and the plots' names.

    All but the loss curves and the losses by position comes from `results.csv` alone.

    Raises:
      UserError: `results.csv` is not that of a sweep, or matplotlib is not installed.
      OSError: a file cannot be read or written.
    """
    require_matplotlib()
    directory = Path(directory)
    source = directory / "results.csv"
    if not source.is_file():
        raise UserError(f"{directory} has no results.csv; launch.sweep --table writes it")
    rows = read_results(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    here = environment()
    plots = plots_of(directory, rows)
    make_directory(directory / "figures")
    made_from = f"From results.csv, SHA-256 {digest}, by {maker(here)}"
    runs_head, runs = _runs(rows)
    links = [_link(directory, row) for row in rows]
    page = render(
        "sweep.html",
        title=f"Sweep: {directory.resolve().name}",
        headline=_headline(rows),
        figures=write_figures(plots, directory / "figures", made_from),
        losses=_losses(rows),
        best_rates=_best_rates(rows),
        failures=[(row["name"], row["error"] or "") for row in rows if row["status"] == "failed"],
        runs_head=runs_head,
        runs=list(zip(rows, links, runs, strict=True)),
        provenance=_provenance(rows, digest, here),
    )
    path = directory / "report.html"
    write_text(path, page)
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


def _named(curves: Sequence[LearningRateCurve], size: str) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the cells that name curves: panel, where there are several, and size."""
    if not any(curve.panel for curve in curves):
        return [size], [[short(curve.size)] for curve in curves]
    return ["runs", size], [[curve.panel, short(curve.size)] for curve in curves]


def _losses(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Returns the mean loss of each size and rate with its error, the head first; [] without."""
    curves = learning_rate_curves(rows)
    rates = sorted({rate for curve in curves for rate in curve.rates})
    head, names = _named(curves, size_label(size_column(rows)))
    cells = [
        [*name, *(_loss(dict(_by_rate(curve)).get(rate)) for rate in rates)]
        for name, curve in zip(names, curves, strict=True)
    ]
    return [[*head, *(f"rate {rate:.3g}" for rate in rates)], *cells] if cells else []


def _by_rate(curve: LearningRateCurve) -> Iterator[tuple[float, tuple[np.ndarray, int]]]:
    yield from zip(curve.rates, zip(curve.losses, curve.failed, strict=True), strict=True)


def _loss(found: tuple[np.ndarray, int] | None) -> str:
    if found is None:
        return ""
    losses, failed = found
    mean = with_error(losses.mean(), standard_error(losses)) if len(losses) else ""
    lost = f"{failed} of {failed + len(losses)} failed" if failed else ""
    return ", ".join(filter(None, [mean, lost]))


def _best_rates(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Returns the best rate of each size, the head first: what was measured, then the estimate."""
    found = [(curve, best) for curve in learning_rate_curves(rows) if (best := curve.best())]
    head, names = _named([curve for curve, _ in found], size_label(size_column(rows)))
    cells = [
        [
            *name,
            f"{best.rate:.3g}",
            with_error(best.loss, best.error),
            str(best.seeds),
            f"{best.low:.3g} to {best.high:.3g}",
            "at the edge of the rates tried" if best.at_edge else _estimate(best),
        ]
        for name, (_, best) in zip(names, found, strict=True)
    ]
    measured = ["best rate tried", "mean loss, measured", "seeds", "rates tried around it"]
    return [[*head, *measured, "best rate, estimated"], *cells] if cells else []


def _estimate(best: Best) -> str:
    return f"{best.estimated_rate:.2g}" if best.estimated_rate else "none beside failed runs"


def _runs(rows: Sequence[ResultRow]) -> tuple[list[str], list[list[str]]]:
    """Returns the head of the table of runs, and its rows without names.

    Columns that say the same of all runs are left out, and the lowest loss of a run where it is
    always the final one.
    """
    names = ["status", "family", "seed", *varied(rows), *_COUNTS]
    names += [name for name in _MEASURES if any(row.get(name) is not None for row in rows)]
    alike = [name for name in ("status", "family", "seed") if len({r[name] for r in rows}) == 1]
    if all(row["best_validation_loss"] == row["validation_loss"] for row in rows):
        alike.append("best_validation_loss")
    names = [name for name in names if name not in alike]
    head = [_NAMES.get(name, name.rpartition(".")[2]) for name in names]  # fields as they are set
    return head, [[_cell(name, row[name]) for name in names] for row in rows]


def _link(directory: Path, row: ResultRow) -> str:
    """Returns the address of a run's page from the page of the sweep; "" where there is none."""
    page = workdir_of_row(directory, row) / "report.html"
    return quote(page.relative_to(directory).as_posix()) if page.is_file() else ""


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("training_flops", "budget"):
        return f"{value:.3e}"
    if name in _COUNTS:
        return f"{value:,}"
    if name == "seconds":
        return timing(value)
    if name in _MEASURES:
        return f"{value:.4f}"
    return four_digits(value)


def _provenance(
    rows: Sequence[ResultRow], digest: str, here: Mapping[str, Any]
) -> list[tuple[str, str]]:
    lines = [
        ("made by", here["command"]),
        ("made from", f"results.csv, SHA-256 {digest}; a run's address is the hash of its config"),
        ("drawn at commit", here["commit"] or ""),
        ("drawn with", f"matplotlib={version('matplotlib')} numpy={version('numpy')}"),
    ]
    for column in ("commit", "versions", "device"):
        found = Counter(row[column] for row in rows if row.get(column))
        for value, count in found.items():
            lines.append((f"{column} of runs", f"{value} ({count} of {len(rows)})"))
    return [(name, text) for name, text in lines if text]
