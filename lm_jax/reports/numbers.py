"""Numbers as text: in tables, beside marks, and on axes."""

from typing import Any


def text_of(value: Any) -> str:
    """Returns a measured or configured value as a cell: 1,024, 0.012346, `a, b`."""
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) < 1e5 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def with_error(value: str, error: str | None) -> str:
    """Returns a value and its standard error, both as text."""
    return f"{value} ± {error}" if error else value


def interval(low: float, high: float) -> str:
    """Returns the bounds of an interval."""
    return f"{low:.5g} to {high:.5g}"


def short(value: float) -> str:
    """Returns a number in a few characters, for labels: 0.0012, 64, 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.4g}"


def tick(value: float) -> str:
    """Returns a round number of an axis with all its digits: 0.075, 2,500, 500k."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e5):
            return f"{value / size:.4g}{unit}"
    if value and abs(value) < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
