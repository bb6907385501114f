"""The style of all matplotlib figures, their files, and the helpers that draw them."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from lm_jax.errors import UserError
from lm_jax.reports.html import render
from lm_jax.reports.numbers import short

_STYLE: Any = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4de",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "lm_jax",
}
BLUE, RED, GREY = "#2459a8", "#d1542f", "#667085"
LABELS = {"n": "parameters N", "d": "tokens D", "c": "training FLOPs C", "s": "steps S"}
LOSS, VALIDATION = "loss", "validation loss, nats"
_COLUMNS = 3  # panels side by side, at most


class Plot(NamedTuple):
    """A function that draws on axes, and the caption below."""

    caption: str
    draw: Callable[..., None]  # (axes) -> None, or with several panels (axes, axes, ...) -> None
    panels: int = 1


class _Figure(NamedTuple):
    address: str
    caption: str
    is_wide: bool


def write_figures(plots: Mapping[str, Plot], directory: Path, provenance: str) -> Markup:
    """Writes each plot as NAME.svg and NAME.png, and returns all of them as HTML.

    Args:
      plots: the plots by name.
      directory: where the files go.
      provenance: what the plots were made from; the metadata of each file repeats it.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("plots need matplotlib; pip install -e '.[plots]'") from None

    matplotlib.use("Agg")
    with matplotlib.rc_context(_STYLE):
        figures = [_write(name, plot, directory, provenance) for name, plot in plots.items()]
    return render("figures.html", figures=figures)


def _write(name: str, plot: Plot, directory: Path, provenance: str) -> _Figure:
    from matplotlib import pyplot

    columns = 2 if plot.panels == 4 else min(plot.panels, _COLUMNS)
    rows = -(-plot.panels // columns)
    size = (6.4, 4.2) if plot.panels == 1 else (1.2 + 3.4 * columns, 0.6 + 3.2 * rows)  # inches
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    figure, grid = pyplot.subplots(rows, columns, figsize=size, **shared)
    for unused in grid.flat[plot.panels :]:
        unused.remove()
    plot.draw(*grid.flat[: plot.panels])
    about = {"Title": name, "Description": f"{plot.caption}. {provenance}"}
    for kind in ("svg", "png"):
        undated = {"Date": None} if kind == "svg" else {}
        figure.savefig(directory / f"{name}.{kind}", metadata=about | undated)
    pyplot.close(figure)
    svg = base64.b64encode((directory / f"{name}.svg").read_bytes()).decode()
    return _Figure(f"data:image/svg+xml;base64,{svg}", plot.caption, columns > 1)


def plain(text: str) -> str:
    """Returns a text whose dollar signs do not begin a formula."""
    return text.replace("$", r"\$")


def scatter(axes: Any, x: np.ndarray, y: np.ndarray, colour: np.ndarray) -> Any:
    """Points coloured by the logarithm of a third value."""
    from matplotlib.colors import LogNorm

    return axes.scatter(x, y, c=colour, s=14, cmap="viridis", norm=LogNorm())


def plain_ticks(axis: Any) -> None:
    """Numbers as 2.5 and not as powers of ten: losses span less than a decade."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

    axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def few_decades(axis: Any) -> None:
    """Ticks of a logarithmic axis that spans little more than a decade: 1, 2 and 5 of each."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e+0", "e").replace("e+", "e"))
    axis.set_minor_formatter(NullFormatter())


def colours(count: int) -> Any:
    """Colours from dark to light, in an order that nobody has to see hues for."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.85, count))


def by_size(sizes: Sequence[float]) -> Any:
    """The colours of sizes, by their logarithms: `to_rgba(size)`, and what a colour bar needs."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    low, high = min(sizes), max(sizes)
    shades = LinearSegmentedColormap.from_list("sizes", colours(64))
    return ScalarMappable(LogNorm(low, high if high > low else 2 * low), shades)


def apart(values: Sequence[float], parts: int) -> list[float]:
    """Of rising positive values the first, and each that is far enough from the one before.

    That is at least as many octaves as a part has, if all of them are cut into so many.
    """
    kept = list(values[:1])
    least = (values[-1] / values[0]) ** ((1 - 1e-9) / parts) if kept else 1.0
    for value in values[1:]:
        if value >= least * kept[-1]:
            kept.append(value)
    return kept


def some_ticks(axis: Any, values: Sequence[float], parts: int = 6) -> None:
    """Ticks of a logarithmic axis at values that there are, but for those too near to others."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(apart(values, parts)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: short(value))


def size_name(column: str, size: float) -> str:
    """A size as a label: `width 64`, `1.5M`."""
    return f"width {short(size)}" if column == "width" else short(size)


def size_label(column: str) -> str:
    """What an axis of sizes is of."""
    return "width" if column == "width" else LABELS["n"]


def outer_labels(figure: Sequence[Any], x: str, y: str) -> None:
    """Names of axes that several panels share: y at the left, x at the bottom of each column."""
    for axes in figure:
        place = axes.get_subplotspec()
        if place.is_first_col():
            axes.set_ylabel(y)
        below = len(figure) - 1 < figure.index(axes) + place.get_gridspec().ncols
        axes.set_xlabel(x if below else "")
        axes.tick_params(labelbottom=below)


def label_ends(axes: Any, ends: Sequence[tuple[float, str, Any]]) -> None:
    """Names of lines to the right of the axes, at the height where each ends, but not on another.

    Args:
      axes: with its limits set.
      ends: (y, name, colour) of each line.
    """
    if not ends:
        return
    apart = 0.05  # of the height of the axes
    heights = axes.transAxes.inverted().transform(
        axes.transData.transform([(axes.get_xlim()[0], y) for y, _, _ in ends])
    )[:, 1]
    order = np.argsort(heights, kind="stable")
    places = spread(np.clip(heights[order], 0, 1), apart)
    for index, place in zip(order, places, strict=True):
        _, name, colour = ends[index]
        axes.annotate(
            plain(name),
            (1.02, place),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color=colour,
            annotation_clip=False,
        )


def spread(places: np.ndarray, apart: float) -> np.ndarray:
    """Rising places moved as little as makes neighbours at least so far apart.

    Those that touch stand evenly about their common middle.
    """
    blocks: list[list[float]] = []  # sum of (place - own offset), how many
    for place in places:
        blocks.append([float(place), 1])
        while len(blocks) > 1:
            (lower, n), (upper, m) = blocks[-2:]
            if lower / n + apart * n <= upper / m:
                break
            blocks[-2:] = [[lower + upper - apart * n * m, n + m]]
    found = [total / n + apart * k for total, n in blocks for k in range(int(n))]
    return np.array(found)
