"""Numbers as text: in tables, beside marks, and on axes."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

_BOUND_DIGITS = 3  # of the bounds of a wide interval
_MOST_PLACES = 5  # of the labels of an axis; smaller numbers are written with exponents


def text_of(value: Any, digits: int = 5) -> str:
    """Returns a measured or configured value as a cell: 1,024, 0.012346, `a, b`.

    Args:
      digits: significant digits of a fraction.
    """
    if isinstance(value, float):
        return f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    if isinstance(value, bool):
        return str(value).lower()  # as a flag takes it
    if isinstance(value, int):
        return f"{value:,}"
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return shown if shown.isprintable() else repr(shown)  # a line break would break the table


def decimals_of(error: float) -> int:
    """Returns the decimal places that show two significant digits of an error."""
    if not math.isfinite(error):
        return 0
    return max(0, 1 - math.floor(math.log10(float(f"{abs(error):.1e}"))))


def with_error(value: float, error: float | None, form: str = ".4f") -> str:
    """Returns a value and its standard error with two significant digits of the error.

    Args:
      form: the format of a value without an error.
    """
    if not error or not math.isfinite(error):
        return f"{value:{form}}"
    places = decimals_of(error)
    return f"{value:,.{places}f} ± {error:,.{places}f}"


def bounded(value: float, low: float, high: float) -> tuple[str, str]:
    """Returns a value and the bounds of its interval, with digits that tell them apart."""
    span = high - low
    largest = max(abs(low), abs(high))
    finer = largest / span if 0 < span < math.inf else 100
    digits = _BOUND_DIGITS + max(0, math.floor(math.log10(finer)))
    return significant(value, digits), f"{significant(low, digits)} to {significant(high, digits)}"


def significant(value: float, digits: int) -> str:
    """Returns a number with significant digits, and an exponent where it is large or small."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if not -4 <= exponent < 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def timing(value: float) -> str:
    """Returns a time or a rate with three digits, all that repeats of it: 0.0123, 4.5, 127,000."""
    rounded = float(f"{value:.2e}")
    if not rounded or not math.isfinite(rounded):
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.0f}" if exponent > 1 else f"{rounded:.{2 - exponent}f}"


def four_digits(value: Any) -> str:
    """Returns a float with four significant digits, and any other value as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(value: float) -> str:
    """Returns a number in a few characters, for labels: 0.0012, 64, 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.4g}"


def on_card(value: float) -> str:
    """Returns a count in at most seven characters: 999,999, 2.17M."""
    return f"{value:,.0f}" if abs(value) < 999_999.5 else short(value)


def bytes_of(count: int) -> str:
    """Returns a number of bytes in three digits: 123 kB, 4.56 MB."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= 0.9995 * size:
            return f"{significant(count / size, 3)} {unit}"
    return f"{count} bytes"


def ticks(values: Sequence[float]) -> list[str]:
    """Returns the round numbers of an axis, all with one unit and as many decimals.

    The largest decides on the unit: 0.05 and 0.10; 2,000 and 2,500; 0.5M and 1.0M.
    """
    largest = max(map(abs, values), default=0)
    units = ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, ""))
    size, unit = next((s, u) for s, u in units if u == "" or largest >= max(s, 1e5))
    exponents = [Decimal(f"{value / size:.5g}").normalize().as_tuple().exponent for value in values]
    places = max([0, *(-int(exponent) for exponent in exponents)])
    if places > _MOST_PLACES:
        return [f"{value:.1e}" for value in values]
    return [f"{value / size:,.{places}f}{unit if value else ''}" for value in values]
