"""The page of a run, and what is measured of the run after its end and shown there."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.objectives import objective_of
from lm_jax.reports.run_report import write_report
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.telemetry.json_files import write_json
from lm_jax.telemetry.run_digests import damaged_file
from lm_jax.telemetry.run_files import read_word_vectors

_WORD_VECTORS = "word_vectors.json"


def write_page(
    workdir: Path, experiment: Experiment, results: Mapping[str, Any] | None = None
) -> None:
    """Writes `report.html` of a run as its objective wants it.

    Args:
      results: what the run reached; None: as its evaluation.json says.

    Raises:
      UserError: the run has no metrics yet.
      OSError: it cannot be written.
    """
    objective = objective_of(experiment)
    write_report(workdir, objective.loss_note, objective.vectors_first, results)


def write_missing_page(workdir: Path, experiment: Experiment) -> None:
    """Writes the page of a finished run unless it is there as it was written.

    Raises:
      OSError: it cannot be written.
    """
    path = workdir / "report.html"
    is_whole = path.exists() and path.read_bytes().rstrip().endswith(b"</html>")
    if not is_whole or damaged_file(workdir, [path.name]):
        with contextlib.suppress(UserError):  # there are no metrics to show any more
            write_page(workdir, experiment)


def add_word_vector_scores(run: LoadedModel, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds scores to `word_vectors.json`, and to the page where the run has one.

    Scores of another step are dropped.

    Args:
      run: the run whose vectors were measured.
      scores: by kind, `similarities` or `analogies`, and by file.

    Raises:
      OSError: they cannot be written.
    """
    path = run.workdir / _WORD_VECTORS
    try:
        earlier: dict[str, Any] = {**read_word_vectors(path)}
    except (OSError, UserError):
        earlier = {}
    if earlier.get("step") != run.step:
        earlier = {}
    merged = {kind: earlier.get(kind, {}) | dict(found) for kind, found in scores.items()}
    write_json(path, {"step": run.step} | earlier | merged)
    if (run.workdir / "report.html").exists():
        write_page(run.workdir, run.config)
