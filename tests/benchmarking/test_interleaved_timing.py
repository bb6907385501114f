import itertools

import pytest

from lm_jax.benchmarking.interleaved_timing import Timings, quartiles, time_interleaved


def test_the_calls_alternate_and_the_first_round_is_kept_apart():
    taken, now = [], itertools.accumulate([0, 5, 0, 7, 0, 1, 0, 2, 0, 3, 0, 4])
    work = {name: lambda name=name: taken.append(name) for name in "ab"}
    timings = time_interleaved(work, 2, clock=lambda: next(now))
    assert taken == list("ababab")
    assert timings == Timings({"a": 5, "b": 7}, {"a": [1, 3], "b": [2, 4]})


def test_a_rate_uses_the_median_call_and_a_step_is_a_part_of_it():
    timings = Timings({"a": 9.0}, {"a": [4.0, 2.0, 8.0, 6.0, 10.0]})
    rate = timings.rate("a", units=1200, steps=4)
    assert rate["per_second"] == 200
    assert rate["seconds"] == {"median": 1.5, "lower_quartile": 1.0, "upper_quartile": 2.0}
    assert rate["first_call_seconds"] == 9.0


def test_a_ratio_compares_calls_of_one_round_with_the_fastest_baseline():
    rounds = {"ours": [1.0, 2.0, 4.0], "slow": [9.0, 9.0, 9.0], "other": [2.0, 6.0, 4.0]}
    timings = Timings({}, rounds | {"not compared": [0.1, 0.1, 0.1]})
    assert timings.ratios("ours", ["slow", "other"]) == {"ratio": 2.0, "ratio_range": [1.0, 3.0]}
    assert timings.ratios("ours", []) == {}


def test_quartiles_lie_between_the_values_next_to_them():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0]) == pytest.approx((1.75, 2.5, 3.25))
