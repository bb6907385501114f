"""The plots that the results of a sweep and the metrics of its runs allow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.evaluation.by_position import position_bins
from lm_jax.evaluation.loss_sums import PositionSums
from lm_jax.reports.matplotlib_figures import (
    GREY,
    LABELS,
    RED,
    VALIDATION,
    Plot,
    apart,
    by_size,
    colours,
    few_decades,
    label_ends,
    outer_labels,
    plain,
    plain_ticks,
    size_name,
    some_ticks,
)
from lm_jax.reports.numbers import short
from lm_jax.runs.workdir import read_by_position
from lm_jax.scaling_laws.isoflop import IsoflopProfile, fit_isoflop
from lm_jax.scaling_laws.plots import profiles
from lm_jax.sweeps.learning_rate_curves import (
    ResultRow,
    learning_rate_curves,
    panels_of,
    size_column,
    size_of,
    varied,
)
from lm_jax.sweeps.learning_rate_plots import best_learning_rate_plot, learning_rate_plot
from lm_jax.sweeps.loss_curves import LossCurve, frontier, frontier_of_curves, read_curves
from lm_jax.sweeps.results import workdir_of_row

_FAR = 1.25  # early loss of a run / median, above which it does not decide on the axis
_DIVERGED = 2.0  # final loss / median, above which it does not either
_PER_OCTAVE = 4  # bins of positions
_MOST_NAMES = 12  # lines with names beside them; more lines get a colour bar of sizes
_STYLES = ("-", "--", ":", "-.")  # one a family
_SIZE = "non_embedding_parameters"


def plots_of(directory: Path, rows: Sequence[ResultRow]) -> dict[str, Plot]:
    """Returns the plots of a sweep by name.

    These are `learning_rates`, `best_learning_rates`, `isoflop`, `compute`, `curves` and
    `positions`, where the results have what they show.

    Args:
      directory: the directory of the sweep; without its `runs` there are neither curves nor
        positions.
      rows: the rows of `results.csv`.
    """
    done = [row for row in rows if row["validation_loss"] is not None]
    found: dict[str, Plot] = {}
    if made := learning_rate_curves(rows):
        found["learning_rates"] = learning_rate_plot(made, size_column(rows))
        if len({curve.size for curve in made}) > 1:
            found["best_learning_rates"] = best_learning_rate_plot(made, size_column(rows))
    if any(row.get("budget") for row in done):
        found["isoflop"] = _isoflop([row for row in done if row.get("budget")])
    flops = {row["training_flops"] for row in done if row["training_flops"]}
    if len(flops) > 2 and max(flops) > 2 * min(
        flops
    ):  # whole steps make one budget differ a little
        found["compute"] = _compute([row for row in done if row["training_flops"]])
    curves, kind = read_curves(directory, rows)
    if curves:
        found["curves"] = _curves(curves, kind)
    measured = [
        (row, sums)
        for row in rows
        if (sums := read_by_position(workdir_of_row(directory, row), row["steps"])) is not None
    ]
    if measured:
        found["positions"] = _positions(measured)
    return found


def _isoflop(rows: Sequence[ResultRow]) -> Plot:
    """Returns one panel a family, with the lowest loss (mean over seeds) by size and budget."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    points = [_best_of_each([row for row in rows if row["family"] == f]) for f in families]
    fits: list[Sequence[IsoflopProfile] | None] = []
    notes = []
    for n, d, c, losses in points:
        try:
            fits.append(fit_isoflop(n, d, c, losses).profiles)
        except UserError as error:
            fits.append(None)
            notes.append(f"no minima: {error}")

    shown = _sensible(np.hstack(points)[3])

    def draw(*figure: Any) -> None:
        for axes, family, fitted, (n, _, c, losses) in zip(
            figure, families, fits, points, strict=True
        ):
            if fitted:
                profiles(axes, fitted)
            else:
                _unfitted(axes, n, c, losses, shown)
            axes.set_title(plain(family) if len(families) > 1 else "")
            some_ticks(axes.xaxis, sorted({size for size, *_ in np.hstack(points).T}))
        outer_labels(figure, LABELS["n"], VALIDATION)

    caption = "Loss by size at each budget, and its interpolated minimum (hollow: at the edge);"
    caption += " triangles: losses above the axis"
    return Plot("; ".join([caption, *notes]), draw, len(families))


def _unfitted(
    axes: Any, n: np.ndarray, c: np.ndarray, losses: np.ndarray, shown: tuple[float, float]
) -> None:
    """Draws profiles without minima: their points, joined by lines."""
    budgets, ends = np.unique(c), []
    for budget, colour in zip(budgets, colours(len(budgets)), strict=True):
        rows = np.flatnonzero(c == budget)
        rows = rows[np.argsort(n[rows])]
        axes.plot(n[rows], losses[rows], ".-", color=colour)
        ends.append((min(losses[rows[-1]], shown[1]), f"{budget:.3g} FLOPs", colour))
    axes.set(xscale="log")
    _mark_above(axes, n, losses, shown)
    label_ends(axes, ends)


def _best_of_each(rows: Sequence[ResultRow]) -> np.ndarray:
    """Returns parameters, tokens, budget and lowest loss [4, P] of each size at each budget."""
    others = [name for name in varied(rows) if name != "budget"]
    alike: dict[Any, list[ResultRow]] = {}
    for row in rows:
        alike.setdefault((row["budget"], row[_SIZE], *(row[n] for n in others)), []).append(row)
    best: dict[Any, tuple[float, ...]] = {}
    for (budget, size, *_), seeds in alike.items():
        loss = float(np.mean([row["validation_loss"] for row in seeds]))
        if loss < best.get((budget, size), (np.inf,))[-1]:
            best[budget, size] = (size, seeds[0]["training_tokens"], budget, loss)
    return np.array(list(best.values()), float).T


def _compute(rows: Sequence[ResultRow]) -> Plot:
    families = list(dict.fromkeys(row["family"] for row in rows))
    flops = [row["training_flops"] for row in rows]  # panels share their axis
    shown = _sensible(np.array([row["validation_loss"] for row in rows]))
    diverged = any(row["validation_loss"] > shown[1] for row in rows)

    def draw(*figure: Any) -> None:
        scale = by_size([row[_SIZE] for row in rows])
        for axes, family in zip(figure, families, strict=True):
            own = [row for row in rows if row["family"] == family]
            c = np.array([row["training_flops"] for row in own], float)
            losses = np.array([row["validation_loss"] for row in own])
            axes.scatter(c, losses, color=scale.to_rgba([row[_SIZE] for row in own]), s=16)
            best = frontier(c, losses)
            axes.plot(c[best], losses[best], color=RED, linewidth=1.2, drawstyle="steps-post")
            axes.set(xscale="log", yscale="log", title=plain(family) if len(families) > 1 else "")
            plain_ticks(axes.yaxis)
            if diverged:
                _mark_above(axes, c, losses, shown)
            if max(flops) < 30 * min(flops):
                few_decades(axes.xaxis)
        outer_labels(figure, LABELS["c"], VALIDATION)
        _size_bar(figure, scale, rows)

    caption = "Final loss by compute; line: the lowest loss of any run at each compute"
    if diverged:
        caption += "; triangles: losses above the axis"
    return Plot(caption, draw, len(families))


def _sensible(losses: np.ndarray) -> tuple[float, float]:
    """Returns the range of final losses but those of runs that diverged without failing."""
    return float(losses.min()), float(losses[losses <= _DIVERGED * np.median(losses)].max())


def _mark_above(axes: Any, x: np.ndarray, losses: np.ndarray, shown: tuple[float, float]) -> None:
    """Ends the axis of a range of losses, and marks those above it with triangles."""
    (low, top), high = shown, x[losses > shown[1]]
    axes.set_ylim(low * 0.98, top * 1.02)
    axes.plot(high, np.full(len(high), top * 1.02), "^", color=GREY, markersize=5, clip_on=False)


def _curves(curves: Sequence[LossCurve], kind: str) -> Plot:
    families = list(dict.fromkeys(curve.family for curve in curves))
    # The axis leaves out the first steps, which are alike and would squeeze the differences.
    # So would those of runs that diverged.
    starts = [curve.losses[curve.flops >= curve.flops[-1] / 50][0] for curve in curves]
    top = max(start for start in starts if start <= _FAR * np.median(starts)) * 1.02
    low = min(curve.losses.min() for curve in curves) * 0.98
    first = min(x for curve in curves for x in curve.flops[curve.losses <= top][:1])
    last = max(curve.flops[-1] for curve in curves)

    def draw(*figure: Any) -> None:
        scale = by_size([curve.parameters for curve in curves])
        for axes, family in zip(figure, families, strict=True):
            own = [curve for curve in curves if curve.family == family]
            for curve in own:
                colour = scale.to_rgba(curve.parameters)
                axes.plot(curve.flops, curve.losses, color=colour, linewidth=0.9)
                if curve.failed:
                    axes.plot(curve.flops[-1], curve.losses[-1], "x", color=colour, markersize=6)
            axes.plot(*frontier_of_curves(own), color=RED, linewidth=1.6)
            axes.set(xscale="log", yscale="log", title=plain(family) if len(families) > 1 else "")
            axes.set(xlim=(first / 1.2, last * 1.2), ylim=(low, top))
            plain_ticks(axes.yaxis)
            if last < 30 * first:
                few_decades(axes.xaxis)
        outer_labels(figure, LABELS["c"], f"{kind} loss, nats")
        _size_bar(figure, scale, [{_SIZE: curve.parameters} for curve in curves])

    caption = f"The {kind} loss along training; red: the lowest loss of any run at each compute"
    if any(curve.losses.max() > top for curve in curves):
        caption += "; higher losses, of the first steps and of runs that diverged, are not shown"
    if any(curve.failed for curve in curves):
        caption += "; cross: the run failed there"
    return Plot(caption, draw, len(families))


def _positions(measured: Sequence[tuple[ResultRow, PositionSums]]) -> Plot:
    """Returns one line for runs that differ only in seed; many lines get one panel a family."""
    rows = [row for row, _ in measured]
    size, families = size_column(rows), list(dict.fromkeys(row["family"] for row in rows))
    lines: dict[Any, list[tuple[ResultRow, PositionSums]]] = {}
    for panel, (row, sums) in zip(panels_of(rows, size), measured, strict=True):
        lines.setdefault((panel, size_of(row, size)), []).append((row, sums))
    named = len(lines) <= _MOST_NAMES
    panels = [""] if named or len(families) == 1 else families
    last = max(len(sums.tokens) for _, sums in measured)

    def draw(*figure: Any) -> None:
        scale, ends = by_size([row[_SIZE] for row in rows]), []
        for (panel, value), seeds in lines.items():
            row = seeds[0][0]
            family = families.index(row["family"])
            total = PositionSums(*np.sum([sums for _, sums in seeds], axis=0))
            bins = position_bins(total, _PER_OCTAVE)
            middle = [(each.first * each.last) ** 0.5 for each in bins]
            colour = scale.to_rgba(row[_SIZE])
            axes = figure[family] if len(figure) > 1 else figure[0]
            style = "-" if len(figure) > 1 else _STYLES[family % len(_STYLES)]
            axes.plot(middle, [each.nats for each in bins], style, color=colour, linewidth=1.4)
            name = ", ".join(filter(None, [panel, size_name(size, value)]))
            ends.append((bins[-1].nats, name, colour))
        for axes, title in zip(figure, panels, strict=True):
            axes.set(xscale="log", title=plain(title))
            some_ticks(axes.xaxis, [2**k for k in range(last.bit_length())], 12 // len(panels[:2]))
        outer_labels(figure, "position in the context, tokens", VALIDATION)
        if named:
            label_ends(figure[0], ends)
        else:
            _size_bar(figure, scale, rows)

    caption = "Loss by position in the context: position 1 is predicted from one token"
    return Plot(caption, draw, len(panels))


def _size_bar(figure: Sequence[Any], scale: Any, rows: Sequence[ResultRow]) -> None:
    """Draws the colour bar of sizes beside all panels, where sizes differ."""
    sizes = sorted({row[_SIZE] for row in rows})
    if len(sizes) > 1:
        bar = figure[0].figure.colorbar(scale, ax=list(figure), label=LABELS["n"])
        some = apart(sizes, _MOST_NAMES)
        bar.set_ticks(some, labels=[short(size) for size in some])
        bar.minorticks_off()
