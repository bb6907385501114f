"""The style of all matplotlib figures, their files, and the helpers that draw them."""

import base64
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from lm_jax.atomic_files import write_bytes
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
_SINGLE = (5.2, 3.6)  # inches; two stand side by side on a page, and one fills a telephone
_LONGEST_TITLE, LONGEST_NAME = 48, 28  # letters above a panel, and beside a line
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


def require_matplotlib() -> None:
    """Raises UserError if matplotlib is not installed; to be called before work for plots."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("plots need matplotlib; pip install -e '.[plots]'")


def write_figures(plots: Mapping[str, Plot], directory: Path, provenance: str) -> Markup:
    """Writes each plot as NAME.svg and NAME.png, and returns all of them as HTML.

    Args:
      plots: the plots by name.
      directory: where the files go.
      provenance: what the plots were made from; the metadata of each file repeats it.

    Raises:
      UserError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(_STYLE):
        figures = [_write(name, plot, directory, provenance) for name, plot in plots.items()]
    return render("figures.html", figures=figures)


def _write(name: str, plot: Plot, directory: Path, provenance: str) -> _Figure:
    from matplotlib import pyplot

    columns = 2 if plot.panels == 4 else min(plot.panels, _COLUMNS)
    rows = -(-plot.panels // columns)
    size = _SINGLE if plot.panels == 1 else (1.2 + 3.4 * columns, 0.6 + 3.2 * rows)  # inches
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    figure, grid = pyplot.subplots(rows, columns, figsize=size, **shared)
    for unused in grid.flat[plot.panels :]:
        unused.remove()
    plot.draw(*grid.flat[: plot.panels])
    about = {"Title": name, "Description": f"{plot.caption}. {provenance}"}
    for kind in ("svg", "png"):
        undated = {"Date": None} if kind == "svg" else {}
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, metadata=about | undated)
        write_bytes(directory / f"{name}.{kind}", drawn.getvalue())
    pyplot.close(figure)
    svg = base64.b64encode((directory / f"{name}.svg").read_bytes()).decode()
    return _Figure(f"data:image/svg+xml;base64,{svg}", plot.caption, columns > 1)


def plain(text: str, longest: int = _LONGEST_TITLE) -> str:
    """Returns a name whose dollar signs do not begin a formula.

    Args:
      longest: letters above which its middle is left out, so that it leaves room for the axes.
    """
    if len(text) > longest:
        end = longest // 2
        text = f"{text[: longest - end - 1]}…{text[-end:]}"
    return text.replace("$", r"\$")


def scatter(axes: Any, x: np.ndarray, y: np.ndarray, colour: np.ndarray) -> Any:
    """Draws points coloured by the logarithm of a third value."""
    from matplotlib.colors import LogNorm

    return axes.scatter(x, y, c=colour, s=14, cmap=_shades(), norm=LogNorm())


def plain_ticks(axis: Any) -> None:
    """Labels an axis with plain numbers such as 2.5: losses span less than a decade."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

    axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())


def few_decades(axis: Any) -> None:
    """Puts ticks at 1, 2 and 5 of each decade, for an axis that spans few decades."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("e+0", "e").replace("e+", "e"))
    axis.set_minor_formatter(NullFormatter())


def colours(count: int) -> Any:
    """Returns colours [count, 4] from dark to light, which differ without hues too.

    The lightest still stands out on white, and on black where a page inverts the figure.
    """
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0, 0.6, count))


def by_size(sizes: Sequence[float]) -> Any:
    """Returns the colour map of log sizes, with `to_rgba(size)`, for lines and a colour bar."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    low, high = min(sizes), max(sizes)
    return ScalarMappable(LogNorm(low, high if high > low else 2 * low), _shades())


def _shades() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shades", colours(64))


def apart(values: Sequence[float], parts: int) -> list[float]:
    """Thins sorted positive values to a minimum distance on a logarithmic axis.

    Args:
      values: rising; the first one is kept.
      parts: the minimum distance is this part of the whole span.
    """
    kept = list(values[:1])
    ratio = (values[-1] / values[0]) ** ((1 - 1e-9) / parts) if kept else 1.0
    for value in values[1:]:
        if value >= ratio * kept[-1]:
            kept.append(value)
    return kept


def some_ticks(axis: Any, values: Sequence[float], parts: int = 6) -> None:
    """Puts ticks of a logarithmic axis at the given values, thinned by `apart`."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(apart(values, parts)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: short(value))


def size_name(column: str, size: float) -> str:
    """Returns a size as a label: `width 64`, `1.5M`."""
    return f"width {short(size)}" if column == "width" else short(size)


def size_label(column: str) -> str:
    """Returns the label of an axis of sizes."""
    return "width" if column == "width" else LABELS["n"]


def outer_labels(figure: Sequence[Any], x: str, y: str) -> None:
    """Labels the axes that panels share: y at the left, x at the bottom of each column."""
    for axes in figure:
        cell = axes.get_subplotspec()
        if cell.is_first_col():
            axes.set_ylabel(y)
        below = len(figure) - 1 < figure.index(axes) + cell.get_gridspec().ncols
        axes.set_xlabel(x if below else "")
        axes.tick_params(labelbottom=below)


def label_ends(axes: Any, ends: Sequence[tuple[float, str, Any]]) -> None:
    """Names lines to the right of the axes, at the height of their ends, without overlaps.

    Args:
      axes: with its limits set.
      ends: (y, name, colour) of each line.
    """
    if not ends:
        return
    apart = 0.06  # share of the height of the axes
    heights = axes.transAxes.inverted().transform(
        axes.transData.transform([(axes.get_xlim()[0], y) for y, _, _ in ends])
    )[:, 1]
    order = np.argsort(heights, kind="stable")
    positions = spread(np.clip(heights[order], 0, 1), apart)
    for index, position in zip(order, positions, strict=True):
        _, name, colour = ends[index]
        axes.annotate(
            plain(name, LONGEST_NAME),
            (1.02, position),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )


def clear_places(
    axes: Any, curves: Sequence[np.ndarray], drawn: np.ndarray
) -> list[tuple[float, float]]:
    """Returns the place of a label on each curve, away from edges, drawn points and other labels.

    A curve that has no clear place gets no label.
    """
    edge, apart = 0.08, 0.07  # shares of the axes

    def on_axes(x: np.ndarray) -> np.ndarray:
        return axes.transAxes.inverted().transform(axes.transData.transform(x))

    taken, places = on_axes(drawn), []
    for curve in curves:
        inside = on_axes(curve)
        is_inside = ((inside > edge) & (inside < 1 - edge)).all(1)
        inside, curve = inside[is_inside], curve[is_inside]
        if not len(curve):
            continue
        gaps = np.linalg.norm(inside[:, None] - taken, axis=-1).min(1)
        clearest = int(gaps.argmax())
        if gaps[clearest] > apart:
            places.append((float(curve[clearest, 0]), float(curve[clearest, 1])))
            taken = np.vstack([taken, inside[clearest]])
    return places


def spread(positions: np.ndarray, apart: float) -> np.ndarray:
    """Returns rising positions moved as little as possible to a distance of at least `apart`.

    The method is least squares: positions that touch form a block about their common mean.
    """
    blocks: list[list[float]] = []  # sum of (position - own offset), number of positions
    for position in positions:
        blocks.append([float(position), 1])
        while len(blocks) > 1:
            (lower, n), (upper, m) = blocks[-2:]
            if lower / n + apart * n <= upper / m:
                break
            blocks[-2:] = [[lower + upper - apart * n * m, n + m]]
    found = [total / n + apart * k for total, n in blocks for k in range(int(n))]
    return np.array(found)
