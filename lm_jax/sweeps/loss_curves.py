"""The loss along the training of the runs of a sweep, and the frontier of compute."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.sweeps.results import workdir_of_row
from lm_jax.telemetry.json_files import read_metrics

_FEWEST_EVALUATIONS = 3  # of a finished run, to be drawn as a curve
_PER_OCTAVE = 8  # parts of a curve of training losses, which a batch at a time are noise
_GRID = 400


class LossCurve(NamedTuple):
    """One run: its loss by the FLOPs that it has taken so far."""

    family: str
    parameters: int  # non-embedding
    failed: bool
    flops: np.ndarray  # [T], rising
    losses: np.ndarray  # [T]


def read_curves(directory: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[list[LossCurve], str]:
    """The curves of all runs that have one, and which losses they are: `validation` or `training`.

    All are of one kind: of validation where every finished run was measured at least three times
    on its way, else of training, the means of neighbouring steps.

    Args:
      directory: that of the sweep.
      rows: of its `results.csv`.
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
    """The indices [F], by rising FLOPs, of points that no point of as few FLOPs is below."""
    order = np.lexsort((losses, flops))
    lowest = np.minimum.accumulate(losses[order])
    first = np.append(np.inf, lowest[:-1])
    return order[losses[order] < first]


def frontier_of_curves(curves: Sequence[LossCurve]) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs and losses of the lowest that any run has come to with so much compute.

    Between two points a curve is a line in the logarithms of both.
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
    """Steps and losses of the rows of a kind that have a finite loss."""
    points = {
        row["step"]: row[column]
        for row in metrics
        if row["kind"] == kind and row["step"] > 0 and row.get(column)
    }
    steps = sorted(points)
    return np.array(steps, float), np.array([points[step] for step in steps], float)


def _means(steps: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over steps within an eighth of an octave: geometric of steps, plain of losses."""
    if not len(steps):
        return steps, losses
    part = np.floor(np.log2(steps) * _PER_OCTAVE)
    _, where, counts = np.unique(part, return_inverse=True, return_counts=True)
    means = np.bincount(where, losses) / counts
    return np.exp(np.bincount(where, np.log(steps)) / counts), means
