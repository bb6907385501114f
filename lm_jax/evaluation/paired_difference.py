"""Differences of two runs on the same documents, with a bootstrap over documents."""

from typing import Any, NamedTuple

import numpy as np

_RESAMPLES = 10_000
_BATCH = 10_000_000  # documents drawn at a time, over all resamples


class PairedDifference(NamedTuple):
    """The difference of two ratios with one denominator, such as bits per character."""

    difference: float  # first minus second
    standard_error: float
    low: float  # 95% interval
    high: float
    p_value: float  # two-sided, for no difference
    documents: int


def paired_difference(
    first: np.ndarray, second: np.ndarray, counts: np.ndarray
) -> PairedDifference | None:
    """Returns sum(first - second) / sum(counts) and how far it moves when documents are resampled.

    What makes a document hard for both runs cancels, so the difference is known far better than
    either figure. The interval is the percentile interval of the bootstrap, and the p-value is the
    one at which that interval would reach 0 (Efron and Tibshirani 1993, sections 13.3 and 15.4).
    None for fewer than two documents.

    Args:
      first, second: sums of each document, [D].
      counts: what the sums are divided by, [D], such as characters.
    """
    from scipy import stats

    if len(counts) < 2:
        return None

    def ratio(differences: np.ndarray, counts: np.ndarray, axis: int = -1) -> Any:
        return differences.sum(axis) / counts.sum(axis)

    differences = first - second
    found = stats.bootstrap(
        (differences, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=max(_BATCH // len(counts), 1),
        method="percentile",
        random_state=np.random.default_rng(0),
    )
    drawn = found.bootstrap_distribution
    sides = [1 + np.count_nonzero(drawn <= 0), 1 + np.count_nonzero(drawn >= 0)]
    return PairedDifference(
        difference=float(ratio(differences, counts)),
        standard_error=float(found.standard_error),
        low=float(found.confidence_interval.low),
        high=float(found.confidence_interval.high),
        p_value=min(1.0, 2 * min(sides) / (1 + len(drawn))),
        documents=len(counts),
    )
