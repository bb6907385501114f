"""Shares with intervals, and how far confidence stands from accuracy."""

from typing import Any, NamedTuple

import numpy as np

_BINS = 10


class Bin(NamedTuple):
    """The answers whose confidence lies between two bounds."""

    low: float
    high: float
    answers: int
    confidence: float  # mean
    accuracy: float  # share that is right


class Calibration(NamedTuple):
    """Confidence and accuracy in bins of equal width; empty bins are left out."""

    bins: list[Bin]
    error: float  # expected calibration error: mean |accuracy - confidence| of an answer's bin


def calibration(confidences: np.ndarray, is_right: np.ndarray) -> Calibration:
    """Returns the reliability of confidences [N] in 0 to 1 (Guo et al. 2017, equation 3)."""
    numbers = np.clip(np.ceil(confidences * _BINS).astype(int) - 1, 0, _BINS - 1)
    bins = []
    for number in np.unique(numbers):
        inside = numbers == number
        mean, share = float(confidences[inside].mean()), float(is_right[inside].mean())
        low = int(number) / _BINS
        bins.append(Bin(low, (int(number) + 1) / _BINS, int(inside.sum()), mean, share))
    gaps = sum(each.answers * abs(each.accuracy - each.confidence) for each in bins)
    return Calibration(bins, gaps / max(len(confidences), 1))


def share_with_interval(name: str, count: int, total: int) -> dict[str, Any]:
    """Returns count / total under a name, and its 95% interval (Wilson 1927) as NAME_interval."""
    from scipy import stats

    found = stats.binomtest(count, total).proportion_ci(method="wilson")
    return {name: count / total, f"{name}_interval": [float(found.low), float(found.high)]}
