"""Compares finished runs: their figures, differences on the same documents, settings and curves."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.config.serialization import defaults_of
from lm_jax.errors import UserError
from lm_jax.evaluation.paired_difference import PairedDifference, paired_difference
from lm_jax.json_values import read_as
from lm_jax.nested import flatten
from lm_jax.reports.measures import PREDICTED, predicted_in
from lm_jax.reports.svg_charts import smooth
from lm_jax.telemetry.attempts import read_attempts, seconds_before_last_start
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.run_digests import refuse_damaged
from lm_jax.telemetry.run_files import (
    Branch,
    ByDocument,
    ConfigParts,
    Results,
    read_data_facts,
)

BY_DOCUMENT = "by_document_validation.json"

Curve = list[tuple[float, float]]


class ComparisonRow(NamedTuple):
    """Runs that differ only in their seed (and in their directory)."""

    name: str
    runs: int
    parameters: int
    trained_on: int  # `predicted`: steps times the batch
    figures: dict[str, tuple[float, float | None]]  # mean and standard error by measure
    seconds: float  # mean wall time, with that of the steps before a fork or an interruption
    curve: Curve  # (trained on, first measure) of the first run
    training: Curve  # (trained on, training loss) of the first run, in nats
    settings: dict[str, Any]  # fields of the configuration that differ between the rows
    difference: PairedDifference | None = None  # of the first measure, from the first row
    documents: int | None = None  # whose sums are kept; None: of none
    predicted: str = ""  # tokens, pairs or examples; "" where the runs do not say
    sample: int | None = None  # tokens of the validation split that were measured; None: all
    bits_per_nat: float | None = (
        None  # per character, of a nat per token in training; None: unknown
    )
    forked: bool = False  # a run of the row was forked: sizes and times count the steps before, too


def compare(workdirs: Sequence[str | Path]) -> list[ComparisonRow]:
    """Returns one row for each experiment, the best first.

    With several runs the standard error is that of the mean over seeds; with one run it is the
    error over the documents or examples of the validation split, where that has several. The
    difference from the first row is of the same documents, averaged over seeds.

    Raises:
      UserError: a directory holds no finished run or is given twice, the runs predict different
        kinds of targets or use different data, or the loss of a run is infinite.
    """
    runs = [_read(Path(path)) for path in workdirs]
    for run in runs:
        if any(run["data"].get(name) != runs[0]["data"].get(name) for name in ("sha256", "split")):
            raise UserError(
                f"{run['path']} is measured on other data than {runs[0]['path']}, so their figures "
                "do not compare; give runs of the same data and split"
            )
    places = [run["path"].resolve() for run in runs]
    for place, run in zip(places, runs, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{run['path']} is given twice; give each run once")
    # Each run of one seed, such as before and after a change of the code, has a row of its own.
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        same = sum((run["key"], run["seed"]) == (r["key"], r["seed"]) for r in runs[:number])
        groups.setdefault((run["key"], same), []).append(run)
    metric = _metric(runs)
    made = [(_row(group, metric), group) for group in groups.values()]
    sign = -1 if metric == "accuracy" else 1
    made.sort(key=lambda pair: sign * pair[0].figures[metric][0])
    ordered = [group for _, group in made]
    kept = [_documents(group, metric) for group in ordered]
    differences = [None, *(_difference(own, kept[0]) for own in kept[1:])]
    return [
        row._replace(
            name=name,
            settings=settings,
            difference=difference,
            documents=None if documents is None else len(documents.numbers),
            sample=group[0]["results"].get("validation_sample", {}).get("tokens"),
        )
        for (row, group), name, settings, difference, documents in zip(
            made, _names(ordered), _settings(ordered), differences, kept, strict=True
        )
    ]


def split_targets(sizes: Mapping[str, Any]) -> int:
    """Returns the tokens or texts of a split, from its sizes in `data.json`; 0 without either."""
    return next((sizes[unit] for unit in ("tokens", "texts") if unit in sizes), 0)


def _read(path: Path) -> dict[str, Any]:
    try:
        results = read_as(path / "evaluation.json", Results)
        refuse_damaged(path, "evaluation.json")
        config = read_as(path / "config.json", ConfigParts)
    except OSError:
        raise UserError(f"{path} holds no finished run; give directories of launch.train") from None
    for name in ("validation", "timings", "parameters", "step"):
        if name not in results:
            raise UserError(f"{path / 'evaluation.json'} holds no {name}; restore it")
    data = read_data_facts(path)
    seedless = {name: part for name, part in config.items() if name != "seed"}
    branch = _branch(path)
    if branch.get("changes"):  # without changes it equals the run without the fork
        source = Path(str(branch.get("run"))).name
        seedless["fork_of"] = f"{source} at step {branch.get('step')}"
    # A run of an earlier version lacks fields that have come since: it had their defaults.
    since = {n: v for n, v in defaults_of(config).items() if n.partition(".")[0] in seedless}
    fields = flatten(seedless)
    fields |= {name: value for name, value in since.items() if name not in fields}
    return {
        "path": path,
        "results": results,
        "config": fields,
        "key": json.dumps(fields, sort_keys=True),
        "seed": dict(config).get("seed"),
        "data": data,
        "rows": read_metrics(path),
        "forked": bool(branch),
        "starts": [branch.get("step") or 0, *(each["step"] for each in read_attempts(path))],
    }


def _branch(path: Path) -> Branch:
    """Returns where a run forked from; {} if it did not."""
    try:
        return read_as(path / "branch.json", Branch)
    except OSError:
        return Branch()


def _metric(runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns the measure that ranks the runs: bits per character where all have it."""
    validations = [run["results"]["validation"] for run in runs]
    units = {unit for unit in PREDICTED for found in validations if unit in found}
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
    trained = [r for r in first["rows"] if r["kind"] == "train" and r.get("loss") is not None]
    shown = dict.fromkeys((metric, "cross_entropy", "accuracy"))
    return ComparisonRow(
        name=first["path"].name,
        runs=len(group),
        parameters=first["results"]["parameters"],
        trained_on=round(per_step * first["results"]["step"]),
        figures={name: figure(name) for name in shown},
        seconds=float(np.mean([_seconds(run) for run in group])),
        curve=[(per_step * row["step"], row[metric]) for row in measured if metric in row],
        training=list(
            zip(
                [per_step * row["step"] for row in trained],
                smooth([row["loss"] for row in trained]),
                strict=True,
            )
        ),
        settings={},
        predicted=predicted_in(validations[0]),
        bits_per_nat=_bits_per_nat(first) if metric == "bits_per_character" else None,
        forked=any(run["forked"] for run in group),
    )


def _names(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Returns the directories' names without the seed, which is a number after the last hyphen.

    Names that would be equal stay whole, or become paths.
    """
    paths = [group[0]["path"] for group in groups]
    for names in (
        [re.sub(r"(?<=.)-\d+$", "", path.name) for path in paths],
        [path.name for path in paths],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _settings(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Returns for each row its fields whose values differ between rows.

    A field of one family that the family of another row lacks does not differ by that.
    """
    configs = [group[0]["config"] for group in groups]
    fields = dict.fromkeys(name for config in configs for name in config)
    same_family = len({str(config.get("model.family")) for config in configs}) == 1

    def values(name: str) -> list[Any]:
        is_own = name.startswith("model.") and not same_family
        return [config.get(name) for config in configs if name in config or not is_own]

    differing = [name for name in fields if any(x != values(name)[0] for x in values(name))]
    return [{name: c[name] for name in differing if name in c} for c in configs]


class _Documents(NamedTuple):
    """A measure of each document, averaged over seeds."""

    numbers: np.ndarray  # [D] of the documents in the validation split
    sums: np.ndarray  # [D]
    counts: np.ndarray  # [D]


def _documents(group: Sequence[Mapping[str, Any]], metric: str) -> _Documents | None:
    """Returns the sums and counts of a measure for each document that all runs of a group saw.

    None where a run has none of its last step: earlier versions did not keep them.
    """
    found = [_documents_of(run, metric) for run in group]
    numbers = None
    for documents in found:
        if documents is None:
            return None
        numbers = (
            documents.numbers if numbers is None else np.intersect1d(numbers, documents.numbers)
        )
    assert numbers is not None
    kept = [_at(documents, numbers) for documents in found if documents]
    if any(not np.array_equal(documents.counts, kept[0].counts) for documents in kept):
        return None
    return _Documents(numbers, np.mean([each.sums for each in kept], axis=0), kept[0].counts)


def _documents_of(run: Mapping[str, Any], metric: str) -> _Documents | None:
    path = run["path"] / BY_DOCUMENT
    try:
        found: dict[str, Any] = {**read_as(path, ByDocument)}
    except OSError:
        return None
    if found["step"] != run["results"]["step"]:
        return None
    in_bits = metric == "bits_per_character"
    names = ("nats", "characters") if in_bits else ("correct", "targets")
    for name in names:
        if found.get(name) is None:
            raise UserError(f"{path} holds no {name}; restore it")
    sums, counts = (np.array(found[name], float) for name in names)
    numbers = found.get("documents")
    numbers = np.arange(len(sums)) if numbers is None else np.array(numbers, int)
    if not len(sums) == len(counts) == len(numbers):
        raise UserError(f"{path} has lists of other lengths than {len(sums)}; restore it")
    return _Documents(
        numbers,
        sums / (math.log(2) if in_bits else 1),
        counts,
    )


def _at(documents: _Documents, numbers: np.ndarray) -> _Documents:
    kept = np.isin(documents.numbers, numbers)
    return _Documents(*(field[kept] for field in documents))


def _difference(documents: _Documents | None, best: _Documents | None) -> PairedDifference | None:
    """Returns the difference on the documents that both saw, which runs of one split share."""
    if documents is None or best is None:
        return None
    numbers = np.intersect1d(documents.numbers, best.numbers)
    here, there = _at(documents, numbers), _at(best, numbers)
    if not np.array_equal(here.counts, there.counts):
        return None
    return paired_difference(here.sums, there.sums, here.counts)


def _number(run: Mapping[str, Any], part: str, name: str) -> float:
    """Returns a number of the results; raises UserError where an edited file holds none."""
    value = run["results"][part].get(name)
    if not isinstance(value, int | float):
        path = run["path"] / "evaluation.json"
        raise UserError(f"{path}: {part}.{name} is {value!r}; expected a number; restore it")
    return value


def _seconds(run: Mapping[str, Any]) -> float:
    """Returns the wall time of a run: that of its last start, and of the steps before it."""
    trained = [row for row in run["rows"] if row["kind"] == "train"]
    before = seconds_before_last_start(trained, [step for step in run["starts"] if step])
    return before + _number(run, "timings", "total_seconds")


def _bits_per_nat(run: Mapping[str, Any]) -> float | None:
    """Returns the bits per character that a nat per token is in the training text, on average."""
    sizes = run["data"].get("train", {})
    tokens, characters = sizes.get("tokens"), sizes.get("characters")
    return tokens / characters / math.log(2) if tokens and characters else None


def _targets_per_step(run: Mapping[str, Any]) -> float:
    """Returns the targets of a step; the single step of a count-based model takes all of them."""
    trained = [row for row in run["rows"] if row["kind"] == "train"]
    for unit in PREDICTED:
        if trained and unit in trained[-1] and trained[-1]["step"] > 0:
            return trained[-1][unit] / trained[-1]["step"]
    return split_targets(run["data"].get("train", {}))
