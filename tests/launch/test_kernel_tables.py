"""Tables of kernels: what they print and return of a program that is small enough to read."""

import jax
import pytest

from launch import kernel_tables
from lm_jax.build import build_experiment
from lm_jax.costs.accelerators import ACCELERATORS
from lm_jax.costs.model_flops import formula
from tests.costs.test_kernels import GPU
from tests.experiments import tiny


def test_the_prediction_is_of_the_kernels_that_are_printed(capsys):
    config = tiny(training__batch_size=16)
    built = build_experiment(config, {"vocab_size": 32}, jax.devices()[:1])
    found = kernel_tables.log_prediction(built, GPU, ACCELERATORS["h100"])
    printed = capsys.readouterr().out
    scores = 2 * 4 * 16 * 24
    assert found["kernels"]["fused attention"]["flops"] == (2 + 10) * scores * 8
    assert found["kernels"]["collectives"]["launches"] == 5
    step, tokens = found["predicted"], 16 * config.model.context_length
    assert step["tokens_per_second"] * step["step_seconds"] == pytest.approx(tokens)
    assert step["mfu_flops"] == "6N + 12 L d T"
    flops = formula(built.experiment.model).training * step["tokens_per_second"]
    assert step["mfu"] == pytest.approx(flops / 989e12)
    assert f"MFU {step['mfu']:.1%} by 6N + 12 L d T of 989 TFLOP/s" in printed
    assert sum(row["source"] == "models/transformer/blocks.py:161" for row in found["dearest"]) == 1
    assert "models/transformer/blocks.py:161" in printed and "the compiler" in printed
    assert found["float32_logits_bytes"] == 0
