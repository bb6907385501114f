"""Shows a comparison of runs: its tables, what limits them, and its page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lm_jax.reports.compare_runs import BY_DOCUMENT, ComparisonRow, Curve
from lm_jax.reports.html import render
from lm_jax.reports.measures import in_unit, label_of, label_of_difference, measure, nats_per
from lm_jax.reports.numbers import decimals_of, text_of, timing
from lm_jax.reports.svg_charts import COLOURS, Series, both_widths, line_chart
from lm_jax.telemetry.json_files import write_json, write_text

_FEWEST = 20  # documents, below which percentile intervals cover clearly less than 95%


def write_comparison(rows: Sequence[ComparisonRow], directory: str | Path) -> Path:
    """Writes comparison.html, comparison.svg and comparison.json; returns the path of the first.

    Raises:
      OSError: a file cannot be written.
    """
    directory = Path(directory)
    metric, x_label = next(iter(rows[0].figures)), _trained_on(rows)
    shown = rows[: len(COLOURS)]
    in_bits = all(row.bits_per_nat is not None for row in shown if row.training)
    curves = [
        (
            [(x, in_unit(metric, y)) for x, y in row.curve],
            [(x, y * (row.bits_per_nat or 1.0) if in_bits else y) for x, y in row.training],
        )
        for row in shown
    ]
    measured, losses = (  # a row has its colour in both charts, though it may lack a curve
        [
            Series(row.name, *_columns(pair[part]), colour=index)
            for index, (row, pair) in enumerate(zip(shown, curves, strict=True))
        ]
        for part in (0, 1)
    )

    def chart(curves: Sequence[Series], label: str) -> Markup:
        return both_widths(
            lambda width: line_chart(curves, x_label, label, width, 400 if width > 500 else 280)
        )

    label = f"validation {label_of(metric, rows[0].predicted)}"
    directory.mkdir(parents=True, exist_ok=True)
    alone = line_chart(measured, x_label, label, 960, 400, standalone=True)
    write_text(directory / "comparison.svg", f"{alone}\n")
    write_json(directory / "comparison.json", [record_of(row) for row in rows])
    page = render(
        "comparison.html",
        title="Comparison",
        charts=[chart(measured, label), chart(losses, _training_loss(shown, in_bits))],
        figures=table_of(rows),
        seeds=max(row.runs for row in rows),
        has_errors=any(error for row in rows for _, error in row.figures.values()),
        differences=differences_of(rows),
        meaning=meaning_of_differences(rows),
        remarks=remarks_on(rows),
        settings=settings_of(rows),
    )
    path = directory / "comparison.html"
    write_text(path, page)
    return path


def record_of(row: ComparisonRow) -> dict[str, Any]:
    """Returns a row as a JSON object."""
    difference = row.difference._asdict() if row.difference else None
    return row._asdict() | {"difference": difference}


def table_of(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    """Returns the cells of the table of a comparison, its head first."""
    measures = list(rows[0].figures)
    head = [
        "run",
        "seeds",
        "parameters",
        _trained_on(rows),
        *(label_of(name, rows[0].predicted) for name in measures),
    ]
    cells = [[*head, f"wall time{_from_the_start(rows)}, s"]]
    for row in rows:
        shown = [measure(name, *row.figures[name]) for name in measures]
        sizes = [f"{row.parameters:,}", f"{row.trained_on:,}"]
        cells.append([row.name, str(row.runs), *sizes, *shown, timing(row.seconds)])
    return cells


def differences_of(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    """Returns the table of differences from the best row, its head first; [] without any."""
    metric = next(iter(rows[0].figures))
    label = label_of_difference(metric, rows[0].predicted)
    cells = []
    for row in rows:
        if found := row.difference:
            error = in_unit(metric, found.standard_error)
            places = decimals_of(error) if error else 4
            difference, low, high = (
                f"{in_unit(metric, value):+.{places}f}"
                for value in (found.difference, found.low, found.high)
            )
            p_value = f"{found.p_value:.2g}" if found.p_value >= 0.001 else "below 0.001"
            cells.append(
                [row.name, difference, f"{low} to {high}", p_value, f"{found.documents:,}"]
            )
    head = ["run", f"{label}, minus {rows[0].name}", "95% interval", "p-value", _compared(rows)]
    return [head, *cells] if cells else []


def remarks_on(rows: Sequence[ComparisonRow]) -> list[str]:
    """Returns what limits the comparison: forks, other samples, too few documents, or no sums."""
    fewest = min((row.difference.documents for row in rows if row.difference), default=_FEWEST)
    few = [
        f"With {fewest} documents, fewer than {_FEWEST}, intervals are too narrow and p-values too "
        "small: validate on more documents before you rely on them."
    ]
    few = few if fewest < _FEWEST else []
    if forked := ", ".join(row.name for row in rows if row.forked):
        few.append(
            f"What {forked} trained on, and its wall time, include the steps before the fork, "
            "which it shares with another run."
        )
    if len({row.sample for row in rows}) > 1:
        parts = [f"{r.name} {'all' if r.sample is None else f'{r.sample:,} tokens'}" for r in rows]
        few.append(
            f"The figures are of different parts of the validation split ({', '.join(parts)}) and "
            "compare only roughly: launch.evaluate measures all, and so do runs of a large enough "
            "evaluation.max_tokens."
        )
    missing = ", ".join(row.name for row in rows[1:] if row.difference is None)
    if not missing:
        return few
    if rows[0].documents == 1:
        return [
            *few,
            "No intervals: they are over the documents of the validation split, which is one "
            "document here.",
        ]
    return [
        *few,
        f"No interval for {missing}: a run and {rows[0].name} need {BY_DOCUMENT} with the same two "
        "or more documents, which runs of earlier versions did not keep.",
    ]


def meaning_of_differences(rows: Sequence[ComparisonRow]) -> str:
    """Returns what the columns of `differences_of` say, for readers without statistics."""
    averaged = ", whose losses are averaged over seeds" if max(r.runs for r in rows) > 1 else ""
    return (
        f"The p-value is the chance of a difference from {rows[0].name} at least this large if the "
        "two were equally good on texts like these; it is usual to call a difference real where it "
        "is below 0.05, and the 95% interval then leaves out 0. Both are from a bootstrap over "
        f"documents{averaged}; they say nothing about other seeds."
    )


def settings_of(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    """Returns the table of configuration fields that differ, its head first; [] without any."""
    if not rows[0].settings:
        return []
    fields = [
        [name, *(text_of(row.settings[name]) if name in row.settings else "" for row in rows)]
        for name in dict.fromkeys(name for row in rows for name in row.settings)
    ]
    return [["field", *(row.name for row in rows)], *fields]


def _compared(rows: Sequence[ComparisonRow]) -> str:
    return "examples" if rows[0].predicted == "examples" else "documents"


def _trained_on(rows: Sequence[ComparisonRow]) -> str:
    return f"{rows[0].predicted or 'targets'} trained on{_from_the_start(rows)}"


def _training_loss(rows: Sequence[ComparisonRow], in_bits: bool) -> str:
    if in_bits:
        return "training loss, bits per character, smoothed"
    label = f"training loss, {nats_per(rows[0].predicted)}, smoothed"
    fields = {name for row in rows for name in row.settings}
    if any(name.startswith("data.tokenizer.") for name in fields):
        label += "; runs of other tokenizers do not compare"
    return label


def _from_the_start(rows: Sequence[ComparisonRow]) -> str:
    return " from step 0" if any(row.forked for row in rows) else ""


def _columns(curve: Curve) -> tuple[list[float], list[float]]:
    return [x for x, _ in curve], [y for _, y in curve]
