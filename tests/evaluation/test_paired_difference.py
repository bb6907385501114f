"""Differences on the same documents are found where each figure alone is uncertain."""

import math

import numpy as np
import pytest
from scipy import stats

from lm_jax.evaluation.metrics import _ratio_standard_error
from lm_jax.evaluation.paired_difference import paired_difference

COUNTS = np.ones(60)


def documents(shift, spread=0.1):
    """Nats of 60 documents that differ by 3 among each other and by `shift` between two runs."""
    random = np.random.default_rng(1)
    hardness = random.normal(5, 3, 60)
    return hardness + shift + random.normal(0, spread, 60), hardness


def test_a_difference_far_below_the_spread_of_documents_is_found():
    first, second = documents(0.23)
    alone = np.std(second, ddof=1) / math.sqrt(60)
    found = paired_difference(first, second, COUNTS)
    assert alone > found.difference  # each figure's own error hides it
    assert found.low > 0 and found.p_value < 0.001 and found.documents == 60


def test_the_interval_and_the_p_value_are_those_of_a_paired_t_test():
    for shift in (0.0, 0.03):
        first, second = documents(shift)
        found = paired_difference(first, second, COUNTS)
        exact = stats.ttest_rel(first, second)
        low, high = exact.confidence_interval()
        assert found.difference == pytest.approx((first - second).mean())
        assert found.low == pytest.approx(low, abs=0.003)
        assert found.high == pytest.approx(high, abs=0.003)
        assert found.p_value == pytest.approx(exact.pvalue, rel=0.25)


def test_long_documents_weigh_by_their_counts():
    first, second = documents(0.1)
    counts = np.random.default_rng(2).integers(5, 50, 60).astype(float)
    found = paired_difference(first * counts, second * counts, counts)
    assert found.difference == pytest.approx(((first - second) * counts).sum() / counts.sum())
    exact = _ratio_standard_error((first - second) * counts, counts)
    assert found.standard_error == pytest.approx(exact, rel=0.06)


def test_equal_runs_do_not_differ_and_one_document_says_nothing():
    _, second = documents(0)
    found = paired_difference(second, second, COUNTS)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert paired_difference(second[:1], second[:1], COUNTS[:1]) is None
