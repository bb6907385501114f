"""Line, bar, scatter and surface charts as inline SVG, readable in both colour schemes.

Colours are classes of the page's style sheet; a standalone chart brings its own.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from lm_jax.reports.html import render
from lm_jax.reports.numbers import ticks

_BROAD, _SLIM = 960, 336  # pixels of a chart that fills a page, and one on a telephone
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 26, 40  # margins
_LONGEST_NAME, _WIDEST_LETTER = 24, 7.6  # letters, and pixels of one, of a map
_LETTER, _LINE = 7.0, 18  # width of a letter of a legend, and height of its lines
COLOURS = (  # one a curve; page.css has the same, and lighter ones for dark pages
    "#2459a8",
    "#d1542f",
    "#2c8a57",
    "#8a4fb5",
    "#b58a00",
    "#0f8f9c",
    "#c03a77",
    "#6b7280",
    "#7a5230",
    "#4f6d1f",
)


class Series(NamedTuple):
    """Points of one curve; `style` is line, faint or dots."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "line"
    colour: int | None = None  # index of `COLOURS`; None: the position among the curves


class _Scale(NamedTuple):
    """The linear map from a range of values to a range of pixels."""

    low: float
    high: float
    first: float  # pixels of `low`
    last: float

    def __call__(self, value: float) -> float:
        share = (min(value, self.high) - self.low) / ((self.high - self.low) or 1)
        return self.first + share * (self.last - self.first)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    width: int = 320,
    height: int = 200,
    standalone: bool = False,
) -> Markup:
    """Returns an SVG with axes, a legend and the values that `charts.js` shows under the pointer.

    Points that are not finite are left out; without any point the result is empty.

    Args:
      series: the curves.
      x_label: what the horizontal axis shows.
      y_label: what the vertical axis shows.
      width: the width in pixels at which a page shows the chart, so that letters have their size.
      height: the height at this width; further lines of the label and of a legend are added.
      standalone: whether the SVG can be a file of its own, with a colour for each curve.
    """
    curves = [curve for curve in map(_finite, series) if curve.x]
    if not curves:
        return Markup()
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y]
    # The first steps of a faint curve would squeeze all later ones into a corner.
    y_ticks = _ticks(min(ys), _robust_top(curves))
    low, high = min(xs), max(xs)
    apart = 0.0 if high > low else abs(low) / 2 or 1.0  # one place stands in the middle
    px = _Scale(low - apart, high + apart, _LEFT, width - _RIGHT)
    y_lines = textwrap.wrap(y_label, int((width - 16) / _LETTER))
    legend, lines = _legend(curves, width, y_lines)
    height += _LINE * lines
    py = _Scale(min(*y_ticks, *ys), max(y_ticks), height - _BOTTOM, _TOP + _LINE * lines)
    x_ticks = [low] if apart else [x for x in _ticks(low, high) if low <= x <= high]
    return render(
        "svg/line_chart.svg",
        width=width,
        height=height,
        left=_LEFT,
        right=width - _RIGHT,
        bottom=height - _BOTTOM,
        x_label=x_label,
        y_label=y_label,
        y_lines=[(14 + _LINE * index, line) for index, line in enumerate(y_lines)],
        x_ticks=[
            (min(px(x), width - _LETTER * len(label) / 2), label)
            for x, label in zip(x_ticks, ticks(x_ticks), strict=True)
        ],
        y_ticks=[(py(y), label) for y, label in zip(y_ticks, ticks(y_ticks), strict=True)],
        curves=[_curve(curve, index, px, py) for index, curve in enumerate(curves)],
        legend=legend,
        standalone=standalone,
        colours=COLOURS,
    )


def both_widths(draw: Callable[[int], Markup]) -> Markup:
    """Returns a chart as wide pages show it, and as narrow ones do; empty where it is.

    Args:
      draw: width in pixels -> the chart.
    """
    broad = draw(_BROAD)
    return render("svg/both_widths.html", broad=broad, slim=draw(_SLIM)) if broad else Markup()


def bar_chart(
    rows: Sequence[tuple[str, float, bool]], unit: str, width: int = 960, form: str = "{:.3f}"
) -> Markup:
    """Returns an SVG of horizontal bars (name, value, highlighted), in the order given.

    Args:
      rows: the bars.
      unit: what the values are.
      width: the width in pixels at which a page shows the chart.
      form: the format of the values.
    """
    if not rows:
        return Markup()
    bar_height, left, top = 30, 170 if width > 500 else 130, 6
    units = textwrap.wrap(unit, int((width - left) / _LETTER))
    largest = max(value for _, value, _ in rows) or 1
    bars = [
        {
            "name": shortened(name, int((left - 10) / _LETTER)),
            "y": top + index * bar_height,
            "length": value / largest * (width - left - 70),
            "label": form.format(value),
            "is_strong": is_strong,
        }
        for index, (name, value, is_strong) in enumerate(rows)
    ]
    return render(
        "svg/bar_chart.svg",
        width=width,
        height=top + bar_height * len(rows) + 4 + _LINE * len(units),
        left=left,
        bar_height=bar_height,
        bars=bars,
        unit=unit,
        units=[
            (top + bar_height * len(rows) + 16 + _LINE * index, line)
            for index, line in enumerate(units)
        ],
    )


def scatter_chart(
    names: Sequence[str], points: Sequence[Sequence[float]], width: int = 960
) -> tuple[Markup, int]:
    """Returns an SVG of named points [N, 2] without axes, and how many have no room for a name.

    The points stand by their ranks in both directions, so that a few far ones do not squeeze the
    others into a clump. Names that come first are placed first; none overlaps another or a point.
    """
    height, margin = (640, 40) if width > 500 else (760, 20)
    px, py = (
        _by_rank([point[axis] for point in points], first, last)
        for axis, first, last in ((0, margin, width - margin), (1, height - margin, margin))
    )
    texts = [shortened(name, _LONGEST_NAME) for name in names]
    labels = _label_places(list(zip(px, py, strict=True)), texts, width, height)
    placed = [(x, y, name, label) for x, y, name, label in zip(px, py, names, labels, strict=True)]
    chart = render("svg/scatter_chart.svg", width=width, height=height, points=placed)
    return chart, labels.count(None)


def _by_rank(values: Sequence[float], first: float, last: float) -> list[float]:
    """Returns pixels at equal distances, in the order of the values."""
    order = sorted(range(len(values)), key=values.__getitem__)
    step = (last - first) / max(len(values) - 1, 1)
    places = {index: first + step * rank for rank, index in enumerate(order)}
    return [places[index] for index in range(len(values))]


def _label_places(
    points: Sequence[tuple[float, float]], texts: Sequence[str], width: float, height: float
) -> list[tuple[float, float, str] | None]:
    """Returns (x, baseline, text) of each text beside its point; None where there is no room."""
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    found: list[tuple[float, float, str] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        wide = _WIDEST_LETTER * len(text) + 4  # one letter may be wider than most
        starts = [
            (x + dx, y + dy)
            for dx in (6, -6 - wide, -wide / 2)
            for dy in (4, -6, 15)
            if dx != -wide / 2 or dy != 4
        ]
        boxes = [(left, base - 11, left + wide, base + 3) for left, base in starts]
        free = next(
            (
                (left, base, box)
                for (left, base), box in zip(starts, boxes, strict=True)
                if box[0] >= 0
                and box[1] >= 0
                and box[2] <= width
                and box[3] <= height
                and not any(_overlap(box, other) for other in taken)
            ),
            None,
        )
        found.append((free[0], free[1], text) if free else None)
        if free:
            taken.append(free[2])
    return found


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def surface_chart(
    shares: Sequence[Sequence[float]],
    limits: tuple[float, float],
    points: Sequence[Sequence[float]],
    labels: Sequence[int],
) -> Markup:
    """Returns an SVG of shares from 0 to 1 over a square, with labelled points on it.

    Args:
      shares: [K, K], rows from the bottom to the top.
      limits: the range of both inputs.
      points: [N, 2].
      labels: [N], 0 or 1.
    """
    size, count = 420, len(shares)
    low, high = limits
    cell = size / count
    px, py = _Scale(low, high, 0, size), _Scale(low, high, size, 0)
    return render(
        "svg/surface_chart.svg",
        size=size,
        side=cell + 0.3,
        cells=[
            (column * cell, size - (row + 1) * cell, share)
            for row, values in enumerate(shares)
            for column, share in enumerate(values)
        ],
        points=[
            (px(x), py(y), label, f"({x:g}, {y:g}) is {label}")
            for (x, y), label in zip(points, labels, strict=True)
        ],
        caption=f"{low:g} to {high:g} in both directions",
    )


def _finite(curve: Series) -> Series:
    points = [
        (x, y)
        for x, y in zip(curve.x, curve.y, strict=True)
        if isinstance(y, int | float) and abs(y) < 1e300
    ]
    return curve._replace(x=[x for x, _ in points], y=[y for _, y in points])


def _robust_top(curves: Sequence[Series]) -> float:
    """Returns the largest value, but for the top 1% of faint curves."""
    tops = []
    for curve in curves:
        values = sorted(curve.y)
        faint = curve.style == "faint" and len(values) > 20
        tops.append(values[int(0.99 * (len(values) - 1))] if faint else values[-1])
    return max(tops)


def _ticks(low: float, high: float) -> list[float]:
    """Returns about five round numbers that span the range."""
    if high - low <= 1e-300:  # no tick is between numbers so small
        apart = 0.5 * max(abs(low), abs(high))
        apart = apart if apart > 1e-300 else 0.5
        low, high = low - apart, high + apart
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def _curve(curve: Series, index: int, px: _Scale, py: _Scale) -> dict[str, Any]:
    readings = (f"{x:,.6g}:{y:.6g}" for x, y in zip(curve.x, curve.y, strict=True))
    return {
        "name": curve.name,
        "colour": _colour(curve, index),
        "style": curve.style,
        "points": [(px(x), py(y)) for x, y in zip(curve.x, curve.y, strict=True)],
        "readings": " ".join(readings),
    }


def _colour(curve: Series, index: int) -> int:
    return (index if curve.colour is None else curve.colour) % len(COLOURS)


def _legend(
    curves: Sequence[Series], width: int, label: Sequence[str]
) -> tuple[list[tuple[str, float, float, str]], int]:
    """Returns the entries (classes, x, y, name), and how many lines they and the label add to one.

    They stand at the right of the label where there is room, else on lines of their own. One curve
    needs no legend.

    Args:
      label: the lines of the label of the vertical axis.
    """
    if len(curves) < 2:
        return [], len(label) - 1
    room = width - _RIGHT - _LEFT
    names = [shortened(curve.name, int(room / _LETTER) - 3) for curve in curves]
    widths = [_LETTER * len(name) + 30 for name in names]
    beside = sum(widths) <= width - _RIGHT - 8 - _LETTER * len(label[-1])
    x = float(width - _RIGHT - sum(widths)) if beside else float(_LEFT)
    line = len(label) - 1 if beside else len(label)
    entries = []
    for index, (curve, name, wide) in enumerate(zip(curves, names, widths, strict=True)):
        if x + wide > width - _RIGHT + 1e-6:
            x, line = float(_LEFT), line + 1
        style = f"{'faint ' if curve.style == 'faint' else ''}s{_colour(curve, index)}"
        entries.append((style, x + 22, 14.0 + _LINE * line, name))
        x += wide
    return entries, line


def shortened(text: str, most: int) -> str:
    """Returns a text of at most `most` letters, with an ellipsis for its middle."""
    if len(text) <= most:
        return text
    end = max((most - 1) // 2, 1)
    return f"{text[: max(most - 1 - end, 1)]}…{text[-end:]}"


def smooth(values: Sequence[float]) -> list[float]:
    """Returns an exponential mean over about a fiftieth of the run."""
    weight, smoothed, mean = smoothing_weight(len(values)), [], values[0] if values else 0.0
    for value in values:
        mean += weight * (value - mean)
        smoothed.append(mean)
    return smoothed


def smoothing_weight(count: int) -> float:
    """Returns the weight of a new value in `smooth`; 1 where nothing is smoothed."""
    return min(1.0, 50 / max(count, 1))
