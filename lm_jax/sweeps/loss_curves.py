"""The loss curves of the runs of a sweep, and their compute frontier."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.sweeps.results import workdir_of_row
from lm_jax.telemetry.json_files import read_metrics

_FEWEST_EVALUATIONS = 3  # in a finished run, for a curve of validation losses
_PER_OCTAVE = 8  # bins of training losses, which are noisy for single batches
_GRID = 400  # budgets of a frontier


class LossCurve(NamedTuple):
    """The loss of one run by the training FLOPs spent so far."""

    family: str
    parameters: int  # non-embedding
    failed: bool
    flops: np.ndarray  # [T], rising
    losses: np.ndarray  # [T]


def read_curves(directory: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[list[LossCurve], str]:
    """Returns the curves of all runs with metrics, and their kind: `validation` or `training`.

    All curves are of one kind: validation where every finished run was evaluated at least three
    times, else training, averaged over neighbouring steps.

    Args:
      directory: the directory of the sweep.
      rows: the rows of its `results.csv`.
    """
    along = [read_metrics(workdir_of_row(directory, row)) for row in rows]
    found = [(r, m) for r, m in zip(rows, along, strict=True) if m and r["training_flops"]]
    kinds = {
        kind: [_losses(metrics, kind, column) for _, metrics in found]
        for kind, column in (("evaluation", "cross_entropy"), ("train", "loss"))
    }
    counts = [len(steps) for steps, _ in kinds["evaluation"]]
    whole = [n for n, (row, _) in zip(counts, found, strict=True) if row["status"] == "finished"]
    measured = min(whole or counts, default=0) >= _FEWEST_EVALUATIONS
    chosen = kinds["evaluation"] if measured else [_means(*x) for x in kinds["train"]]
    curves = [
        LossCurve(
            row["family"],
            row["non_embedding_parameters"],
            row["status"] == "failed",
            flops,
            losses,
        )
        for (row, _), (steps, losses) in zip(found, chosen, strict=True)
        if len(flops := steps * (row["training_flops"] / row["steps"]))
    ]
    return curves, "validation" if measured else "training"


def frontier(flops: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Returns the indices [F] of the Pareto frontier of loss against FLOPs, by rising FLOPs."""
    order = np.lexsort((losses, flops))
    lowest = np.minimum.accumulate(losses[order])
    first = np.append(np.inf, lowest[:-1])
    return order[losses[order] < first]


def frontier_of_curves(curves: Sequence[LossCurve]) -> tuple[np.ndarray, np.ndarray]:
    """Returns FLOPs and the lowest loss of any run within these FLOPs.

    Curves are interpolated linearly in the logarithms of FLOPs and loss.
    """
    ends = [end for curve in curves for end in (curve.flops[0], curve.flops[-1])]
    even = np.clip(np.geomspace(min(ends), max(ends), _GRID), min(ends), max(ends))
    grid = np.unique([*even, *ends])
    along = [
        np.exp(
            np.interp(np.log(grid), np.log(c.flops), np.log(c.losses), left=np.inf, right=np.inf)
        )
        for c in curves
    ]
    lowest = np.minimum.accumulate(np.min(along, axis=0))
    return grid, lowest


def _losses(
    metrics: Sequence[Mapping[str, Any]], kind: str, column: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and losses of the rows of one kind with a finite loss."""
    points = {
        row["step"]: row[column]
        for row in metrics
        if row["kind"] == kind and row["step"] > 0 and row.get(column)
    }
    steps = sorted(points)
    return np.array(steps, float), np.array([points[step] for step in steps], float)


def _means(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages over an eighth of an octave: geometric mean of steps, mean of losses."""
    if not len(steps):
        return steps, losses
    bins = np.floor(np.log2(steps) * _PER_OCTAVE)
    _, where, counts = np.unique(bins, return_inverse=True, return_counts=True)
    means = np.bincount(where, losses) / counts
    return np.exp(np.bincount(where, np.log(steps)) / counts), means
