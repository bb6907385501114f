"""Plots of learning-rate curves and of their minima."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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

_ABOVE = 1.25  # highest loss shown / highest minimum, where it shows enough of each curve
_FEWEST = 3  # points of each curve that are shown, unless they are far above all minima
_FAR = 2.0  # a loss / the median of the minima, above which a run has diverged
_WIDEST = 4.0  # points of a line
_ROW = 0.035  # height of the row of failed runs of a size, as a share of the axes
_BESIDE = 1.04  # ratio of the places of markers of one size
_MARGIN = 0.05  # room below and above the losses, as a share of their range
_MINIMUM: Any = {"color": RED, "markersize": 5, "zorder": 5}
_SMALL: Any = {"fontsize": 9, "color": GREY, "va": "center", "zorder": 4}


class _Limits(NamedTuple):
    """The vertical axis of all panels: losses below, a strip for failed runs above."""

    bottom: float  # lowest loss shown
    top: float  # highest loss shown
    strip: float  # height of the strip of failed runs, as a share of the axes
    sizes: list[float]  # sizes with failed runs, one row each in the strip

    @property
    def edge(self) -> float:
        """Where the losses end: above the highest one shown, so that its marker is whole."""
        return self.top + _MARGIN / (1 + _MARGIN) * (self.top - self.bottom)

    @property
    def height(self) -> float:
        return (self.edge - self.bottom) / (1 - self.strip)

    def row(self, size: float) -> float:
        """Returns the height, on the axis of losses, of the failed runs of a size."""
        share = 1 - self.strip + _ROW * (self.sizes.index(size) + 0.75)
        return self.bottom + self.height * share


def learning_rate_plot(made: Sequence[LearningRateCurve], column: str) -> Plot:
    """Returns the loss by learning rate, with a line for each size.

    Runs that differ in more than size, learning rate and seed get panels of their own.

    Args:
      made: the curves.
      column: what the sizes are, from `size_column`.
    """
    panels, sizes = list(dict.fromkeys(c.panel for c in made)), sorted({c.size for c in made})
    shade = dict(zip(sizes, colours(len(sizes)), strict=True))
    limits = _limits(made)

    def draw(*figure: Any) -> None:
        for axes, panel in zip(figure, panels, strict=True):
            axes.set(
                xscale="log",
                ylim=(limits.bottom, limits.bottom + limits.height),
                title=plain(panel),
            )
            _draw_strip(axes, limits)
            ends, minima = [], []
            own = [c for c in made if c.panel == panel]
            for above, curve in enumerate(reversed(own)):  # lines below are wider: none hides
                colour = shade[curve.size]
                _draw_curve(axes, curve, colour, limits, 1.4 + 1.2 * (len(own) - 1 - above))
                if best := curve.best():
                    minima.append((best.rate, best.loss))
                    last = curve.means[np.isfinite(curve.means)][-1]
                    ends.append((min(last, limits.edge), size_name(column, curve.size), colour))
            axes.plot(*np.array(minima or [(np.nan, np.nan)]).T, ":", color=RED, linewidth=1)
            some_ticks(axes.xaxis, sorted({rate for c in made for rate in c.rates}), 5)
            label_ends(axes, ends)
        outer_labels(figure, "learning rate", VALIDATION)

    caption = "Final loss by learning rate: seeds, their mean, and the lowest mean (red; hollow: at"
    caption += " the edge of the rates tried)"
    if len(sizes) > 1:
        caption += "; dotted: the lowest means from size to size"
    if limits.sizes:
        caption += "; crosses above: runs that failed"
    if any((x > limits.top).any() for c in made for x in c.losses):
        caption += "; triangles: losses above the axis"
    return Plot(caption, draw, len(panels))


def _limits(made: Sequence[LearningRateCurve]) -> _Limits:
    """Returns limits that leave out losses far above every minimum.

    A single rate, or a size, that diverged without failing decides on no limit.
    """
    failing = sorted({curve.size for curve in made if curve.failed.any()})
    strip = _ROW * (len(failing) + 0.5) if failing else 0.0
    losses = np.concatenate([x for curve in made for x in curve.losses])
    if not len(losses):
        return _Limits(0.0, 1.0, strip, failing)
    best = [found.loss for curve in made if (found := curve.best())]
    most = _FAR * float(np.median(best)) if best else losses.max()
    lowest = [np.sort(c.means[np.isfinite(c.means)])[:_FEWEST] for c in made]
    enough = [means[means <= most].max(initial=0.0) for means in lowest]
    minima = [loss for loss in best if loss <= most] or [losses.max()]
    top = min(losses.max(), max([_ABOVE * max(minima), *enough]))
    low = min([losses.min(), *best])
    return _Limits(low - _MARGIN * (top - low), top, strip, failing)


def _draw_strip(axes: Any, limits: _Limits) -> None:
    if not limits.sizes:
        return
    end = limits.bottom + limits.height
    axes.axhspan(limits.edge, end, color="white", zorder=3)  # hides the lines that end there
    position = (0.01, 1 - limits.strip / 2)
    axes.annotate("failed", position, xycoords="axes fraction", **_SMALL)
    axes.set_yticks([y for y in axes.get_yticks() if limits.bottom <= y <= limits.edge])


def _draw_curve(
    axes: Any, curve: LearningRateCurve, colour: Any, limits: _Limits, width: float
) -> None:
    means, marks = curve.means, {"color": colour, "markersize": 5}
    shown = [x[x <= limits.top] for x in curve.losses]
    rates = np.repeat(curve.rates, [len(x) for x in shown])
    axes.plot(curve.rates, means, color=colour, linewidth=min(width, _WIDEST))
    axes.plot(rates, np.concatenate(shown), ".", **marks, alpha=0.7)
    high = curve.rates[[bool((x > limits.top).any()) for x in curve.losses]]
    axes.plot(high, np.full(len(high), limits.edge), "^", **marks, zorder=4, clip_on=False)
    if curve.failed.any():
        lost = curve.rates[curve.failed > 0]
        axes.plot(lost, np.full(len(lost), limits.row(curve.size)), "x", **marks, zorder=4)
    if best := curve.best():
        face = "white" if best.at_edge else RED
        axes.plot(best.rate, best.loss, "o", **_MINIMUM, markerfacecolor=face)


def best_learning_rate_plot(made: Sequence[LearningRateCurve], column: str) -> Plot:
    """Returns the best learning rate by size, with a line for each panel of the other plot.

    Args:
      made: the curves.
      column: what the sizes are, from `size_column`.
    """
    panels = list(dict.fromkeys(curve.panel for curve in made))

    def draw(axes: Any) -> None:
        axes.set(xscale="log", yscale="log", xlabel=size_label(column))
        axes.set(ylabel="best learning rate")
        ends = []
        for index, panel in enumerate(panels):
            colour, marker = COLOURS[index % len(COLOURS)], "osD^vP*X"[index % 8]
            found = [(c.size, best) for c in made if c.panel == panel and (best := c.best())]
            if not found:
                continue
            bests = [best for _, best in found]
            drawn = [best.estimated_rate or best.rate for best in bests]
            # Markers of one size stand side by side, so that none hides another.
            beside = [size * _BESIDE ** (index - (len(panels) - 1) / 2) for size, _ in found]
            axes.plot(beside, drawn, color=colour)
            for x, best, rate in zip(beside, bests, drawn, strict=True):
                face = "white" if best.at_edge else colour
                axes.plot([x, x], [best.low, best.high], color=colour, linewidth=0.8)
                axes.plot(x, rate, marker, color=colour, markerfacecolor=face, zorder=5)
            ends.append((drawn[-1], panel, colour))
        some_ticks(axes.xaxis, sorted({c.size for c in made}))
        some_ticks(axes.yaxis, sorted({rate for c in made for rate in c.rates}), 8)
        axes.autoscale_view()
        label_ends(axes, ends if len(panels) > 1 else [])

    caption = "The best learning rate by size, estimated by a parabola over the best rate tried and"
    caption += " its neighbours, to which the bars reach (hollow: at the edge of the rates tried)"
    return Plot(caption, draw)
