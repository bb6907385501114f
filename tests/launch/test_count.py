"""What `launch.count` says of a model and of a run."""

import json

import pytest

from tests.launch.programs import TINY, launch


def test_count_says_what_a_model_costs_without_allocating():
    status, last, err = launch("count", "--model=gpt3_175b")
    assert status == 0, err
    results = json.loads(last)
    assert results["parameters"]["total"] == 174_604_259_328
    assert results["embedding"] + results["non_embedding"] == 174_604_259_328
    assert results["memory"]["lower_bound"] > 16 * 174_604_259_328 and "run" not in results
    assert results["flops"]["training"] == 3 * results["flops"]["forward"]
    assert results["flops"]["decoding"] == pytest.approx(2 * 174.6e9, rel=0.05)


def test_count_says_what_a_run_will_take():
    status, last, err = launch("count", *TINY, "--compile")
    assert status == 0, err
    results = json.loads(last)
    run, memory = results["run"], results["memory"]
    assert run["steps"] == 40 and run["tokens"] == 40 * 8 * 32
    assert run["flops"] == run["tokens"] * results["flops"]["training"]
    assert memory["total"] > memory["lower_bound"] > 16 * results["parameters"]["total"]
    assert memory["temporaries"] > memory["gradients"]


def test_count_of_a_model_that_counts_has_no_gradients_to_tell_of():
    status, last, err = launch("count", "--config=configs/ngram.py:reference")
    assert status == 0, err
    results = json.loads(last)
    assert results["flops"] == {"training": 0, "forward": 0, "decoding": 0}
    assert "memory" not in results and "run" not in results
