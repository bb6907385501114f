"""Learning-rate curves: the final loss by learning rate at each size, and the best rate."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.reports.numbers import four_digits

RATE = "schedule.peak_learning_rate"  # column of `results.csv`
_WIDTHS = ("model.d_model", "model.d_hidden")
_PARAMETERS = "non_embedding_parameters"

ResultRow = Mapping[str, Any]  # a row of `results.csv`, as `read_results` returns it


class Best(NamedTuple):
    """The rate with the lowest mean loss, as measured, and where the optimum may lie."""

    rate: float
    loss: float  # mean over the seeds of this rate
    error: float | None  # standard error of the mean; None for one seed
    seeds: int
    low: float  # the rate tried below
    high: float  # the rate tried above
    at_edge: bool  # no rate was tried beyond it, so that it may be no minimum
    estimated_rate: float | None  # the vertex of a parabola: a rate that no run had


class LearningRateCurve(NamedTuple):
    """Runs that differ only in learning rate and seed."""

    panel: str  # label of what this curve shares with the curves of other sizes
    size: float  # width or parameters
    rates: np.ndarray  # [R], rising
    losses: list[np.ndarray]  # for each rate, the final losses of its finished runs
    failed: np.ndarray  # [R] int: failed runs of each rate

    @property
    def means(self) -> np.ndarray:
        """Returns the mean loss of each rate [R]; NaN where a run failed."""
        seeds = zip(self.losses, self.failed, strict=True)
        return np.array([np.nan if lost else losses.mean() for losses, lost in seeds])

    def best(self) -> Best | None:
        """Returns the rate of the lowest mean; None where every rate has a failed run.

        The estimate is the vertex of the parabola over log rate through the lowest mean and its
        neighbours. There is none at an edge or beside a rate at which runs failed. No loss is
        estimated: where rates are far apart, the parabola's loss is one that no run reaches.
        """
        means, rates = self.means, self.rates
        if np.isnan(means).all():
            return None
        at = int(np.nanargmin(means))
        low, high = rates[max(at - 1, 0)], rates[min(at + 1, len(rates) - 1)]
        return Best(
            rate=float(rates[at]),
            loss=float(means[at]),
            error=standard_error(self.losses[at]),
            seeds=len(self.losses[at]),
            low=float(low),
            high=float(high),
            at_edge=at in (0, len(rates) - 1),
            estimated_rate=_vertex(rates[at - 1 : at + 2], means[at - 1 : at + 2]) if at else None,
        )


def standard_error(losses: np.ndarray) -> float | None:
    """Returns the standard error of the mean of several seeds; None for one."""
    count = len(losses)
    return float(np.std(losses, ddof=1) / np.sqrt(count)) if count > 1 else None


def _vertex(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """Returns where the parabola through three losses over log rate is lowest; None without one."""
    if len(rates) < 3 or np.isnan(losses).any():
        return None
    bend, slope, _ = np.linalg.solve(np.vander(np.log(rates / rates[1]), 3), losses - losses[1])
    return float(rates[1] * np.exp(-slope / (2 * bend))) if bend > 0 else None


def learning_rate_curves(rows: Sequence[ResultRow]) -> list[LearningRateCurve]:
    """Returns the curves of a sweep by panel and size; [] where no learning rate varies.

    Runs that have not ended are left out.
    """
    ended = [row for row in rows if row.get(RATE) and row["status"] in ("finished", "failed")]
    size = size_column(rows)
    panels = panels_of(ended, size, unnamed=[RATE])
    found: dict[tuple[str, float], list[ResultRow]] = {}
    for row, panel in zip(ended, panels, strict=True):
        found.setdefault((panel, size_of(row, size)), []).append(row)
    made = [_curve(panel, value, group) for (panel, value), group in sorted(found.items())]
    order = list(dict.fromkeys(panels))  # the order of the table
    made.sort(key=lambda curve: order.index(curve.panel))
    return [curve for curve in made if len(curve.rates) > 1]


def _curve(panel: str, size: float, rows: Sequence[ResultRow]) -> LearningRateCurve:
    rates = sorted({row[RATE] for row in rows})
    seeds = [[row["validation_loss"] for row in rows if row[RATE] == rate] for rate in rates]
    losses = [np.array([x for x in row if x is not None], float) for row in seeds]
    failed = [sum(x is None for x in row) for row in seeds]
    return LearningRateCurve(panel, size, np.array(rates), losses, np.array(failed))


def size_column(rows: Sequence[ResultRow]) -> str:
    """Returns `width` where a width is a varied field, else the column of parameters."""
    width = any(name in varied(rows) for name in _WIDTHS)
    return "width" if width else _PARAMETERS


def size_of(row: ResultRow, column: str) -> Any:
    """Returns the value of a column, or the run's `width`."""
    if column != "width":
        return row[column]
    return next((row[name] for name in _WIDTHS if row.get(name)), 0)


def varied(rows: Sequence[ResultRow]) -> list[str]:
    """Returns the columns of labels and varied fields whose values differ between rows.

    These are among the columns between `seed` and `steps` of `results.csv`.
    """
    names = list(rows[0]) if rows else []
    between = names[names.index("seed") + 1 : names.index("steps")] if names else []
    return [name for name in between if any(row[name] != rows[0][name] for row in rows)]


def panels_of(rows: Sequence[ResultRow], size: str, unnamed: Sequence[str] = ()) -> list[str]:
    """Returns a label for each run: the values, besides size and seed, that differ between runs.

    A column that follows from the size and from earlier columns is left out: the layers of a
    ladder follow from its width, the steps of a profile from its budget.

    Args:
      rows: rows of `results.csv`.
      size: what `size_column` returns.
      unnamed: further columns to leave out.
    """
    families = {row["family"] for row in rows}
    names = [[row["family"]] if len(families) > 1 else [] for row in rows]
    keys: list[Any] = [(row["family"], size_of(row, size)) for row in rows]
    for column in varied(rows):
        if column in unnamed or (size == "width" and column in _WIDTHS):
            continue
        seen: dict[Any, Any] = {}
        cells = [row[column] for row in rows]
        follows = (seen.setdefault(k, c) == c for k, c in zip(keys, cells, strict=True))
        if not all(follows):
            keys = [(*key, cell) for key, cell in zip(keys, cells, strict=True)]
            for name, cell in zip(names, cells, strict=True):
                name.append(_shown(column, cell))
    return [", ".join(filter(None, name)) for name in names]


def _shown(column: str, value: Any) -> str:
    if column == "mup_base_width":
        return f"muP from width {value}" if value else "standard parametrisation"
    short = column.rpartition(".")[2]
    return "" if value is None else f"{short}={four_digits(value)}"
