"""Pictures of learning-rate curves, and of where they are lowest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.reports.matplotlib_figures import (
    GREY,
    RED,
    VALIDATION,
    Plot,
    colours,
    label_ends,
    outer_labels,
    plain,
    size_label,
    size_name,
    some_ticks,
)
from lm_jax.reports.svg_charts import COLOURS
from lm_jax.sweeps.learning_rate_curves import LearningRateCurve

_ABOVE = 1.25  # the highest loss shown, over the highest of the minima
_ROW = 0.035  # of the height: for what has no loss, a row a size
_MINIMUM: Any = {"color": RED, "markersize": 5, "zorder": 5}
_SMALL: Any = {"fontsize": 8, "color": GREY, "va": "center", "zorder": 4}


def learning_rate_plot(made: Sequence[LearningRateCurve], column: str) -> Plot:
    """The loss by learning rate, a panel for what else varies and a line for each size.

    Args:
      column: what the sizes are, of `size_column`.
    """
    panels, sizes = list(dict.fromkeys(b.panel for b in made)), sorted({b.size for b in made})
    shade = dict(zip(sizes, colours(len(sizes)), strict=True))
    top, bottom = _limits(made)
    losing = [size for size in sizes if any(b.failed.any() for b in made if b.size == size)]
    strip = _ROW * (len(losing) + 0.5) if losing else 0.0
    height = (top - bottom) / (1 - strip)

    def draw(*figure: Any) -> None:
        for axes, panel in zip(figure, panels, strict=True):
            axes.set(xscale="log", ylim=(bottom, bottom + height), title=plain(panel))
            if losing:  # no line is seen there
                axes.axhspan(top, bottom + height, color="white", zorder=3)
                place = (0.01, 1 - strip / 2)
                axes.annotate("failed", place, xycoords="axes fraction", **_SMALL)
                axes.set_yticks([y for y in axes.get_yticks() if bottom <= y <= top])
            ends, minima = [], []
            for curve in (b for b in made if b.panel == panel):
                colour, means = shade[curve.size], curve.means
                axes.plot(curve.rates, means, color=colour, linewidth=1.4)
                axes.plot(*_seeds(curve), ".", color=colour, markersize=5, alpha=0.7)
                high = curve.rates[means > top]
                axes.plot(high, np.full(len(high), top), "^", color=colour, markersize=5, zorder=4)
                if curve.failed.any():
                    lost = curve.rates[curve.failed > 0]
                    row = 1 - strip + _ROW * (losing.index(curve.size) + 0.75)
                    y = np.full(len(lost), bottom + height * row)
                    axes.plot(lost, y, "x", color=colour, markersize=5, zorder=4)
                best, known = curve.best(), means[np.isfinite(means)]
                if best:
                    face = "white" if best.at_edge else RED
                    axes.plot(best.rate, best.loss, "o", **_MINIMUM, markerfacecolor=face)
                    minima.append((best.rate, best.loss))
                    ends.append((min(known[-1], top), size_name(column, curve.size), colour))
            axes.plot(*np.array(minima or [(np.nan, np.nan)]).T, ":", color=RED, linewidth=1)
            some_ticks(axes.xaxis, sorted({rate for b in made for rate in b.rates}), 5)
            label_ends(axes, ends)
        outer_labels(figure, "learning rate", VALIDATION)

    caption = "Final loss by learning rate: seeds, their mean, the minimum (hollow: at the edge"
    caption += " of what was tried)"
    if losing:
        caption += "; crosses above: runs that failed"
    if any((b.means > top).any() for b in made):
        caption += "; triangles: losses above the axis"
    return Plot(caption, draw, len(panels))


def _limits(made: Sequence[LearningRateCurve]) -> tuple[float, float]:
    """The highest and the lowest loss shown: far from any minimum they would press all together."""
    losses = np.concatenate([x for curve in made for x in curve.losses])
    best = [found.loss for curve in made if (found := curve.best())]
    if not len(losses):
        return 1.0, 0.0
    top = min(losses.max(), _ABOVE * max(best, default=losses.max()))
    low = min([losses.min(), *best])
    return top, low - 0.05 * (top - low)


def _seeds(curve: LearningRateCurve) -> tuple[np.ndarray, np.ndarray]:
    counts = [len(x) for x in curve.losses]
    return np.repeat(curve.rates, counts), np.concatenate(curve.losses)


def best_learning_rate_plot(made: Sequence[LearningRateCurve], column: str) -> Plot:
    """The best learning rate by size, a line for what else varies.

    Args:
      column: what the sizes are, of `size_column`.
    """
    panels = list(dict.fromkeys(curve.panel for curve in made))

    def draw(axes: Any) -> None:
        axes.set(xscale="log", yscale="log", xlabel=size_label(column))
        axes.set(ylabel="best learning rate")
        ends = []
        for index, panel in enumerate(panels):
            colour, marker = COLOURS[index % len(COLOURS)], "osD^vP*X"[index % 8]
            of = [(b.size, best) for b in made if b.panel == panel and (best := b.best())]
            if not of:
                continue
            axes.plot([size for size, _ in of], [b.rate for _, b in of], color=colour)
            for size, best in of:
                face = "white" if best.at_edge else colour
                axes.plot([size, size], [best.low, best.high], color=colour, linewidth=0.8)
                axes.plot(size, best.rate, marker, color=colour, markerfacecolor=face, zorder=5)
            ends.append((of[-1][1].rate, panel, colour))
        some_ticks(axes.xaxis, sorted({b.size for b in made}))
        some_ticks(axes.yaxis, sorted({rate for b in made for rate in b.rates}), 8)
        axes.autoscale_view()
        label_ends(axes, ends if len(panels) > 1 else [])

    caption = "The best learning rate by size, between the rates tried beside it"
    return Plot(caption + " (hollow: at the edge)", draw)
