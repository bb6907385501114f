"""`report.html` of a sweep: its pictures, its runs, and what they were made with."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lm_jax.errors import UserError
from lm_jax.reports.matplotlib_figures import gallery, short, size_label, table
from lm_jax.reports.run_report import page
from lm_jax.sweeps.learning_rate_curves import ResultRow, learning_rate_curves, size_column, varied
from lm_jax.sweeps.plots import pictures_of
from lm_jax.sweeps.results import read_results
from lm_jax.telemetry.environment import environment, version

_COUNTS = ("non_embedding_parameters", "training_tokens", "training_flops")
_FIGURES = ("validation_loss", "best_validation_loss", "bits_per_character", "seconds")
_NAMES = {"non_embedding_parameters": "N", "training_tokens": "tokens", "training_flops": "FLOPs"}


def write_sweep_page(directory: Path) -> tuple[Path, list[str]]:
    """The path of report.html and the names of its pictures, which are in `figures`, too.

    All but curves and losses by position comes from `results.csv` alone.

    Raises:
      UserError: `results.csv` is not that of a sweep, or matplotlib is not installed.
      OSError: it cannot be read, or the page not written.
    """
    source = directory / "results.csv"
    if not source.is_file():
        raise UserError(f"{directory} has no results.csv; launch.sweep --table writes it")
    rows = read_results(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    here = environment()
    pictures = pictures_of(directory, rows)
    figures = directory / "figures"
    figures.mkdir(exist_ok=True)
    told = f"From results.csv, SHA-256 {digest}, by lm_jax at {here['commit']}"
    drawn = gallery(pictures, figures, told)
    sections = [
        _cards(rows),
        drawn,
        _section("Best learning rates", _best_rates(rows)),
        _section("What failed", _failures(rows)),
        _section("Runs", _runs(rows)),
        _section("Provenance", _provenance(rows, digest, here)),
    ]
    path = directory / "report.html"
    title = f"Sweep: {directory.resolve().name}"
    path.write_text(page(title, "".join(sections)), encoding="utf-8")
    return path, list(pictures)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _cards(rows: Sequence[ResultRow]) -> str:
    states = Counter(row["status"] for row in rows)
    flops = sum(row["training_flops"] or 0 for row in rows if row["status"] == "finished")
    facts = [(f"{len(rows)}", "runs"), *((f"{n}", state) for state, n in states.items())]
    facts.append((f"{flops:.3g}", "FLOPs of finished runs"))
    done = [row for row in rows if row["validation_loss"] is not None]
    if done:
        best = min(done, key=lambda row: row["validation_loss"])
        facts.append((f"{best['validation_loss']:.4f}", f"lowest loss: {best['name']}"))
    cards = (f"<div><strong>{value}</strong><span>{escape(n)}</span></div>" for value, n in facts)
    return f'<div class="cards">{"".join(cards)}</div>'


def _best_rates(rows: Sequence[ResultRow]) -> str:
    column = size_column(rows)
    lines = [
        (
            curve.panel or "all",
            f"{short(curve.size)}",
            f"{best.rate:.3g}",
            f"{best.low:.3g} to {best.high:.3g}",
            f"{best.loss:.4f}",
            "at the edge of what was tried" if best.at_edge else "",
        )
        for curve in learning_rate_curves(rows)
        if (best := curve.best())
    ]
    head = ("runs", size_label(column), "best rate", "tried beside it", "loss", "")
    return table(head, lines, "runs") if lines else ""


def _failures(rows: Sequence[ResultRow]) -> str:
    lines = [(row["name"], row["error"] or "") for row in rows if row["status"] == "failed"]
    return table(("run", "error"), lines) if lines else ""


def _runs(rows: Sequence[ResultRow]) -> str:
    names = ["name", "address", "status", "family", "seed", *varied(rows), *_COUNTS]
    names += [name for name in _FIGURES if any(row.get(name) is not None for row in rows)]
    for constant in ("family", "seed"):
        if len({row[constant] for row in rows}) == 1:
            names.remove(constant)
    head = [_NAMES.get(name, name.rpartition(".")[2].replace("_", " ")) for name in names]
    lines = [[_cell(name, row[name]) for name in names] for row in rows]
    return f'<div class="wide">{table(head, lines, "runs")}</div>'


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("training_flops", "budget"):
        return f"{value:.3e}"
    if name in _COUNTS:
        return f"{value:,}"
    if name == "seconds":
        return f"{value:,.0f}"
    if name in _FIGURES:
        return f"{value:.4f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _provenance(rows: Sequence[ResultRow], digest: str, here: Mapping[str, Any]) -> str:
    lines = [
        ("made by", here["command"]),
        ("from", f"results.csv, SHA-256 {digest}; each run's address is the hash of its config"),
        ("drawn at commit", str(here["commit"])),
        ("drawn with", f"matplotlib={version('matplotlib')} numpy={version('numpy')}"),
    ]
    for column in ("commit", "versions", "device"):
        found = Counter(row[column] for row in rows if row.get(column))
        for value, count in found.items():
            lines.append((f"runs: {column}", f"{value} ({count} of {len(rows)})"))
    return table(("", ""), lines)
