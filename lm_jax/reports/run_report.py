"""Writes `report.html`: one self-contained page about the run of a work directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from lm_jax.config.serialization import defaults_of
from lm_jax.errors import UserError
from lm_jax.evaluation.baselines import MOST_TRAINING_TOKENS
from lm_jax.json_values import read_as
from lm_jax.nested import flatten
from lm_jax.reports.html import render
from lm_jax.reports.inspection_file import Inspection, read_inspection
from lm_jax.reports.measures import (
    PARTS,
    card_of,
    further_measures_of,
    label_of,
    measure,
    measures_of,
    nats_per,
    predicted_in,
    table_of_parts,
)
from lm_jax.reports.numbers import on_card, short, text_of, timing, with_error
from lm_jax.reports.sections import EMBEDDINGS, analysis_sections
from lm_jax.reports.svg_charts import (
    Series,
    bar_chart,
    both_widths,
    line_chart,
    smooth,
    smoothing_weight,
)
from lm_jax.reports.word_vectors_section import word_vectors_cards, word_vectors_section
from lm_jax.telemetry.goodput import bars as goodput_bars
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.run_digests import read_results, write_noted
from lm_jax.telemetry.run_files import (
    Branch,
    ConfigParts,
    DataFacts,
    Environment,
    Inherited,
    read_word_vectors,
)

T = TypeVar("T")

_SCORES = {"bleu": "BLEU", "chrf": "chrF"}
_ALWAYS_SHOWN = ("objective", "model.family", "data.kind", "data.source", "seed")
_HEADLINE = ("bits_per_character", "accuracy", "cross_entropy")
_BEFORE_AND_AFTER = ("bits_per_character", "cross_entropy", "perplexity", "accuracy")
_OPERATIONS = 10  # kinds of XLA operations that are shown of a profile


def write_report(
    workdir: str | Path,
    loss_note: str = "",
    vectors_first: bool = False,
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Returns the path of the page, written from the files of a work directory.

    Files that are missing leave out their sections.

    Args:
      loss_note: what the training loss is where it is not the cross-entropy, for its chart.
      vectors_first: whether embeddings come before losses, which then stand on no card.
      results: what the run reached; None: as its evaluation.json says.

    Raises:
      UserError: the run has no metrics yet.
    """
    workdir = Path(workdir)
    rows = read_metrics(workdir)
    if not rows:
        raise UserError(f"{workdir} has no metrics.jsonl to report on; train the model first")
    results = read_results(workdir) if results is None else results
    config = _read(workdir / "config.json", ConfigParts)
    inspected, data = read_inspection(workdir), _read(workdir / "data.json", DataFacts)
    samples = workdir / "samples.txt"
    analysis = analysis_sections(inspected)
    first: dict[str, Markup] = {}
    headline = _headline(results)
    if vectors_first:
        found = workdir / "word_vectors.json"
        scores: Mapping[str, Any] = read_word_vectors(found) if found.exists() else {}
        first["Word vectors"] = word_vectors_section(scores)
        first |= {title: analysis.pop(title) for title in EMBEDDINGS}
        headline = word_vectors_cards(scores) + _counts(results)
    page = render(
        "run_report.html",
        title=workdir.resolve().name,
        origin=_origin(_read(workdir / "branch.json", Branch)),
        fine_tuning=_fine_tuning(_read(workdir / "inherited.json", Inherited), config, results),
        subtitle=_subtitle(results, config),
        headline=headline,
        first=first,
        translations=_translations(inspected, results),
        analysis=analysis,
        samples=samples.read_text("utf-8", "replace") if samples.exists() else "",
        environment=_facts(_read(workdir / "environment.json", Environment)),
        **_of_training(rows, results, loss_note or _smoothing_note(config)),
        **_of_validation(results, data.get("train", {}).get("tokens", 0)),
        **_of_setup(config, data, results),
    )
    write_noted(workdir, "report.html", page)
    return workdir / "report.html"


def _of_training(
    rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any], loss_note: str
) -> dict[str, Any]:
    """Returns the values of the page that are of the steps of a run."""
    predicted = predicted_in(results.get("validation", {}))
    return {
        "skipped": max((row.get("skipped_updates") or 0 for row in rows), default=0),
        "ended_early": results.get("ended_early", ""),
        "ended_at": results.get("step"),
        "training_charts": _training_charts(rows, loss_note, nats_per(predicted)),
        "timings": [
            (name.replace("_", " "), timing(value))
            for name, value in results.get("timings", {}).items()
            if isinstance(value, int | float)
        ],
        "time_charts": _time_charts(results),
    }


def _of_validation(results: Mapping[str, Any], training_tokens: int) -> dict[str, Any]:
    """Returns the values of the page that are of the last evaluation, and its baselines."""
    validation = results.get("validation", {})
    baselines = {n: v for n, v in results.get("baselines", {}).items() if v is not None}
    return {
        "most_counted": MOST_TRAINING_TOKENS,
        "training_tokens": training_tokens,
        "baselines": _baselines_chart(validation, baselines),
        "measures": [
            *measures_of({**validation, **baselines}),
            *further_measures_of({"auxiliary": dict(validation).get("auxiliary", {})}),
        ],
        "parts": [
            (head, *table_of_parts(parts))
            for key, head in PARTS.items()
            if (parts := validation.get(key))
        ],
        "sample": results.get("validation_sample", {}),
        "has_errors": any(v for name, v in validation.items() if name.endswith("_standard_error")),
    }


def _of_setup(
    config: Mapping[str, Any], data: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the values of the page that are of the configuration and of the data."""
    changed, defaults = _by_change(config)
    return {
        "data": _data({**data, "packing": results.get("packing", {})}),
        "changed": [(name, text_of(value)) for name, value in changed.items()],
        "defaults": [(name, text_of(value)) for name, value in defaults.items()],
    }


def _read(path: Path, shape: type[T]) -> T:
    return read_as(path, shape) if path.exists() else shape()


def _facts(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, text_of(value)) for name, value in flatten(tree).items()]


def _data(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sentence about the data, and the facts behind it that are not empty."""
    others = {name: value for name, value in found.items() if name != "summary"}
    facts = [(name, value) for name, value in _named_facts(others) if value]
    return {"summary": found.get("summary", ""), "facts": facts}


def _named_facts(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns facts whose names are read, not set: words instead of underscores."""
    return [(name.replace("_", " ").replace(".", ", "), value) for name, value in _facts(tree)]


def _subtitle(results: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Returns what the page is about in a line: the model, its objective and its data."""
    fields = {
        "model": (config.get("model") or {}).get("family"),
        "parameters": results.get("parameters"),
        "objective": config.get("objective"),
        "data": (config.get("data") or {}).get("source"),
    }
    return "; ".join(f"{n}: {text_of(v)}" for n, v in fields.items() if v is not None)


def _translations(inspected: Inspection, results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the examples of a run that translates, and its scores; empty for other runs."""
    scores = results.get("translation") or {}
    measured = [
        (label, with_error(scores[name], scores.get(f"{name}_standard_error"), ".1f"))
        for name, label in (_SCORES | {"exact_match": "exact matches, %"}).items()
        if scores.get(name) is not None
    ]
    return {
        "examples": inspected.get("translations", []),
        "scores": measured,
        "sentences": scores.get("sentences"),
        "signatures": [
            (label, scores[f"{name}_signature"])
            for name, label in _SCORES.items()
            if f"{name}_signature" in scores
        ],
        "remark": scores.get("bleu_remark"),
    }


def _origin(branch: Mapping[str, Any]) -> str:
    """Returns where a run forked from, in a sentence; "" if it did not."""
    if not branch:
        return ""
    changes = branch.get("changes") or []
    changed = f" with {', '.join(changes)}" if changes else ""
    return f"Forked from {branch.get('run')} at step {branch.get('step') or 0:,}{changed}."


_ARRAYS = {
    "taken": "taken over",
    "new": "new here",
    "other_shape": "of another shape there (there, here), and new here",
    "unused": "not used here",
}


def _fine_tuning(
    inherited: Mapping[str, Any], config: Mapping[str, Any], results: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what a run took over from another one, and its measures before and after."""
    before, after = results.get("validation_before", {}), results.get("validation", {})
    measures = [
        [
            label_of(name, predicted_in(after)),
            *(measure(name, x[name], x.get(f"{name}_standard_error")) for x in (before, after)),
        ]
        for name in _BEFORE_AND_AFTER
        if None not in (before.get(name), after.get(name))
    ]
    arrays = [
        (label, ", ".join(f"{n.removeprefix('params/')} {s}" for n, s in inherited[kind].items()))
        for kind, label in _ARRAYS.items()
        if inherited.get(kind)
    ]
    workdir = (config.get("fine_tuning") or {}).get("workdir", "") if inherited else ""
    return {"workdir": workdir, "measures": measures, "arrays": arrays}


def _by_change(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of a configuration that differ from its defaults, and the others."""
    defaults = defaults_of(config)
    fields, absent = flatten(config), object()
    same = {n: v for n, v in fields.items() if defaults.get(n, absent) == v}
    changed = {n: v for n, v in fields.items() if n not in same or n in _ALWAYS_SHOWN}
    return changed, {n: v for n, v in same.items() if n not in changed}


def _headline(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    validation = results.get("validation", {})
    shown = [card_of(name, validation) for name in _HEADLINE if validation.get(name) is not None]
    scores = results.get("translation") or {}
    first = [
        (f"{scores[name]:.1f}", label)
        for name, label in _SCORES.items()
        if scores.get(name) is not None
    ]
    return first + shown + _counts(results)


def _counts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = [("parameters", results.get("parameters"))]
    counts += [("trained", results.get("trained_parameters")), ("steps", results.get("step"))]
    rates = [
        (short(value) if value >= 1e4 else timing(value), f"{unit}/s")
        for name, value in results.get("timings", {}).items()
        if (unit := name.removesuffix("_per_second")) != name and value is not None
    ]
    return [(on_card(value), name) for name, value in counts if value is not None] + rates


def _training_charts(rows: Sequence[Mapping[str, Any]], loss_note: str, nats: str) -> list[Markup]:
    """Returns the charts of losses, rates and gradient norms by step; none without train rows."""
    train = [row for row in rows if row["kind"] == "train"]
    if not train:  # a count-based model takes no steps
        return []
    small = {
        "learning_rate": "learning rate",
        "gradient_norm": "gradient norm before clipping",
    } | {name: name.replace("_", " ") for name in train[-1] if name.endswith("_per_second")}
    measured = [row for row in rows if row["kind"] == "evaluation"]
    charts = _loss_charts(train, measured, loss_note, nats) + _charts_of_parts(measured, nats)
    charts += _charts_of_terms(train, measured)
    charts += [line_chart([_column(train, name)], "step", label) for name, label in small.items()]
    return [chart for chart in charts if chart]


def _loss_charts(
    train: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    loss_note: str,
    nats: str,
) -> list[Markup]:
    """Returns one chart of both losses, or two where they are not of one definition."""
    _, steps, losses, *_ = _column(train, "loss")
    training = [Series("training", steps, losses, colour=0)]
    if smoothing_weight(len(losses)) < 1:
        smoothed = Series("training, smoothed", steps, smooth(losses), colour=0)
        training = [training[0]._replace(style="faint"), smoothed]
    _, steps, losses, *_ = _column(measured, "cross_entropy")
    validation = [Series("validation", steps, losses, "dots", colour=1)]
    label = f"cross-entropy, {nats}"

    def chart(curves: Sequence[Series], label: str) -> Markup:
        return both_widths(
            lambda width: line_chart(curves, "step", label, width, 360 if width > 500 else 260)
        )

    if not loss_note:
        return [chart([*training, *validation], label)]
    return [
        chart(training, f"training loss: {loss_note}"),
        chart(validation, f"validation {label}"),
    ]


def _charts_of_parts(measured: Sequence[Mapping[str, Any]], nats: str) -> list[Markup]:
    """Returns a chart of the validation loss of each source or task by step."""
    charts = []
    for key, what in PARTS.items():
        losses: dict[str, dict[int, float | None]] = {}
        for row in measured:
            for name, part in row.get(key, {}).items():
                losses.setdefault(name, {})[row["step"]] = part.get("cross_entropy")
        curves = []
        for name, by_step in losses.items():
            finite = {step: loss for step, loss in by_step.items() if loss is not None}
            curves.append(Series(name, list(finite), list(finite.values())))
        charts.append(line_chart(curves, "step", f"validation by {what}, {nats}"))
    return charts


def _charts_of_terms(
    train: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> list[Markup]:
    """Returns a chart of each auxiliary loss or metric that is measured in evaluation, too."""
    charts = []
    for name in {name: None for row in measured for name in row.get("auxiliary", {})}:
        found = [{"step": row["step"], **row.get("auxiliary", {})} for row in measured]
        training = _column(train, name)._replace(name="training", colour=0)
        validation = _column(found, name)._replace(name="validation", style="dots", colour=1)
        charts.append(line_chart([training, validation], "step", name.replace("_", " ")))
    return charts


def _smoothing_note(config: Mapping[str, Any]) -> str:
    smoothing = flatten(config).get("training.label_smoothing")
    return f"cross-entropy of labels smoothed by {smoothing}, nats" if smoothing else ""


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Series:
    kept = [row for row in rows if row.get(name) is not None]
    return Series(name, [row["step"] for row in kept], [row[name] for row in kept])


def _baselines_chart(validation: Mapping[str, Any], baselines: Mapping[str, float]) -> Markup:
    if validation.get("bits_per_character") is None or not baselines:
        return Markup()
    bars = [(name, value, False) for name, value in baselines.items()]
    bars.append(("this model", validation["bits_per_character"], True))
    bars.sort(key=lambda bar: bar[1])
    return both_widths(lambda width: bar_chart(bars, "bits per character, lower is better", width))


def _time_charts(results: Mapping[str, Any]) -> list[Markup]:
    """Returns the wall time by activity, and that of the traced steps by kind of operation."""
    goodput, profile = results.get("goodput", {}), results.get("profile", {})
    charts = []
    if goodput:
        total = sum(goodput.values()) - goodput.get("share", 0.0)
        unit = (
            f"share of {timing(total)} seconds, from the start of this process to the last "
            "checkpoint"
        )
        rows = goodput_bars(goodput)
        charts.append(both_widths(lambda width: bar_chart(rows, unit, width, "{:.1f}%")))
    if seconds := profile.get("seconds", {}):
        total, (first, last) = sum(seconds.values()), profile["steps"]
        largest = list(seconds.items())[:_OPERATIONS]
        rows_of_profile = [(name, 100 * s / (total or 1), False) for name, s in largest]
        unit_of_profile = (
            f"share of {timing(total)} seconds of XLA operations in steps {first:,} to {last:,}"
        )
        charts.append(
            both_widths(lambda width: bar_chart(rows_of_profile, unit_of_profile, width, "{:.1f}%"))
        )
    return charts
