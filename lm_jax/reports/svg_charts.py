"""Line and bar charts as inline SVG: small, self-contained, and readable in both colour schemes.

Colours are classes that the page's style sheet defines, or `coloured`.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 26, 40
COLOURS = (  # of the curves of a comparison, of which there may be many
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
_STYLE = "text { fill: #667085; font: 12px sans-serif; } .grid { stroke: #e4e4de; }" + "".join(
    f" polyline.s{i} {{ fill: none; stroke: {colour}; stroke-width: 2; }} "
    f"circle.s{i} {{ fill: {colour}; }}"
    for i, colour in enumerate(COLOURS)
)


class Series(NamedTuple):
    """Points of one curve; `style` is line, faint or dots."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "line"


def line_chart(
    series: Sequence[Series], x_label: str, y_label: str, width: int = 360, height: int = 220
) -> str:
    """An SVG with axes, a legend and a read-out of the nearest point under the pointer.

    The page shows it at about `width` pixels, so that letters have their size.
    """
    curves = [curve for curve in map(_finite, series) if curve.x]
    if not curves:
        return ""
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y]
    x_ticks = _ticks(min(xs), max(xs))
    # The first steps of a faint curve would squeeze all that follows into a corner.
    y_ticks = _ticks(min(ys), _robust_top(curves))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = min(*y_ticks, *ys), max(y_ticks)

    def px(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * (width - _LEFT - _RIGHT)

    def py(y: float) -> float:
        share = (min(y, y_high) - y_low) / ((y_high - y_low) or 1)
        return height - _BOTTOM - share * (height - _TOP - _BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">']
    parts.append(f"<title>{escape(y_label)} by {escape(x_label)}</title>")
    for tick in y_ticks:
        parts.append(_line("grid", _LEFT, py(tick), width - _RIGHT, py(tick)))
        parts.append(_text(_LEFT - 8, py(tick) + 4, _number(tick), "end"))
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(_text(px(tick), height - _BOTTOM + 18, _number(tick), "middle"))
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(_text(middle, height - 4, x_label, "middle"))
    parts.append(_text(8, 14, y_label, "start"))
    for index, curve in enumerate(curves):
        points = [(px(x), py(y)) for x, y in zip(curve.x, curve.y, strict=True)]
        parts.append(_curve(curve, index, points))
    parts.append(_legend(curves, width))
    parts.append("</svg>")
    return "".join(parts)


def coloured(chart: str) -> str:
    """A line chart with colours of its own, one a curve, in place of the page's."""
    return chart.replace("<title>", f"<style>{_STYLE}</style><title>", 1)


def standalone(chart: str) -> str:
    """A coloured chart as the text of a file, which browsers and READMEs show."""
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def bar_chart(rows: Sequence[tuple[str, float, bool]], unit: str) -> str:
    """An SVG of horizontal bars (name, value, highlighted), in the order given."""
    if not rows:
        return ""
    chart_width, height, left, top = 960, 30, 170, 6
    largest = max(value for _, value, _ in rows) or 1
    total = top + height * len(rows) + 22
    parts = [f'<svg class="chart" viewBox="0 0 {chart_width} {total}" role="img">']
    for index, (name, value, strong) in enumerate(rows):
        y, width = top + index * height, value / largest * (chart_width - left - 70)
        style = "bar strong" if strong else "bar"
        parts.append(_text(left - 10, y + 19, name, "end", "strong" if strong else ""))
        parts.append(
            f'<rect class="{style}" x="{left}" y="{y + 4}" width="{width:.1f}" '
            f'height="{height - 9}" rx="3"/>'
        )
        parts.append(_text(left + width + 8, y + 19, f"{value:.3f}", "start"))
    parts.append(_text(left, total - 6, unit, "start"))
    return "".join([*parts, "</svg>"])


def scatter_chart(names: Sequence[str], points: Sequence[Sequence[float]]) -> str:
    """An SVG of named points, without axes: where they lie to each other."""
    width, height, margin = 960, 640, 40
    lows = [min(p[axis] for p in points) for axis in (0, 1)]
    spans = [(max(p[axis] for p in points) - lows[axis]) or 1 for axis in (0, 1)]
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">']
    for name, (x, y) in zip(names, points, strict=True):
        left = margin + (x - lows[0]) / spans[0] * (width - 2 * margin)
        top = height - margin - (y - lows[1]) / spans[1] * (height - 2 * margin)
        parts.append(f'<circle class="s1" cx="{left:.1f}" cy="{top:.1f}" r="2"/>')
        parts.append(_text(left + 4, top + 4, name, "start"))
    return "".join([*parts, "</svg>"])


def surface_chart(
    shares: Sequence[Sequence[float]],
    limits: tuple[float, float],
    points: Sequence[Sequence[float]],
    labels: Sequence[int],
) -> str:
    """An SVG of shares from 0 to 1 over a square, rows from below, and labelled points on it."""
    size, count = 420, len(shares)
    low, high = limits
    parts = [f'<svg class="chart" viewBox="0 0 {size} {size + 24}" role="img">']
    cell = size / count
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            parts.append(
                f'<rect x="{column * cell:.1f}" y="{size - (row + 1) * cell:.1f}" '
                f'width="{cell + 0.3:.1f}" height="{cell + 0.3:.1f}" class="share" '
                f'fill-opacity="{share:.2f}"/>'
            )
    for (x, y), label in zip(points, labels, strict=True):
        left, top = (x - low) / (high - low) * size, size - (y - low) / (high - low) * size
        parts.append(
            f'<circle class="s{2 - label}" cx="{left:.1f}" cy="{top:.1f}" r="7" stroke="white"/>'
        )
        parts.append(_text(left + 10, top + 4, f"({x:g}, {y:g}) is {label}", "start", "strong"))
    parts.append(_text(size / 2, size + 18, f"{low:g} to {high:g}, each way", "middle"))
    return "".join([*parts, "</svg>"])


def _finite(curve: Series) -> Series:
    points = [
        (x, y)
        for x, y in zip(curve.x, curve.y, strict=True)
        if isinstance(y, int | float) and math.isfinite(y)
    ]
    return curve._replace(x=[x for x, _ in points], y=[y for _, y in points])


def _robust_top(curves: Sequence[Series]) -> float:
    tops = []
    for curve in curves:
        values = sorted(curve.y)
        faint = curve.style == "faint" and len(values) > 20
        tops.append(values[int(0.99 * (len(values) - 1))] if faint else values[-1])
    return max(tops)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that span the range, about five of them."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def _number(value: float) -> str:
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e5):
            return f"{value / size:.4g}{name}"
    if value and abs(value) < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _curve(curve: Series, index: int, points: Sequence[tuple[float, float]]) -> str:
    data = escape(
        " ".join(f"{_number(x)}:{y:.6g}" for x, y in zip(curve.x, curve.y, strict=True)), quote=True
    )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = f'<polyline class="{curve.style} s{index}" points="{path}"/>'
    if curve.style == "dots" or len(points) == 1:
        marks = "".join(
            f'<circle class="s{index}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points
        )
    name = escape(curve.name, quote=True)
    return f'<g class="curve" data-name="{name}" data-values="{data}">{marks}</g>'


def _legend(curves: Sequence[Series], width: int) -> str:
    if len(curves) < 2:
        return ""
    parts, x = [], float(width - _RIGHT)
    for index, curve in reversed(list(enumerate(curves))):
        x -= 7.0 * len(curve.name)
        parts.append(_text(x, 14, curve.name, "start"))
        parts.append(f'<circle class="s{index}" cx="{x - 9:.1f}" cy="10" r="4"/>')
        x -= 30
    return "".join(parts)
