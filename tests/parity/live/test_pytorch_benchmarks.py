"""Benchmarks that do the same work in PyTorch in the same run."""

import json

import pytest

from lm_jax.benchmarking import decode, evaluate
from lm_jax.benchmarking.pytorch_baseline import find_baselines
from lm_jax.benchmarking.train_step import measure
from lm_jax.config.experiment import OptimizerConfig
from lm_jax.costs.model_flops import count_parameters
from tests.benchmarking.programs import LSTM, check_measured, small

pytest.importorskip("torch")


@pytest.mark.parametrize("model", [None, LSTM])
def test_the_train_step_is_measured_beside_pytorch(model):
    built = small(**({"model": model} if model else {}))
    baselines = find_baselines(built, "eager")
    result = measure(built, 2, baselines.training)
    assert list(result["programs"]) == ["lm_jax", "pytorch"] and "eager" in baselines.note
    check_measured(built, result)
    low, high = result["ratio_range"]
    assert low <= result["ratio"] <= high


def test_pytorchs_model_has_the_same_parameters():
    from lm_jax.benchmarking import pytorch_models

    config = small().experiment.model
    for use_bias in (True, False):
        config.use_bias = use_bias
        theirs = sum(p.numel() for p in pytorch_models.GPT(config).parameters())
        assert theirs == count_parameters(config)["total"]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model__norm": "rms_norm"}, "model.norm rms_norm"),
        ({"model__activation": "swiglu"}, "model.activation swiglu"),
        ({"optimizer": OptimizerConfig("muon")}, "causal_lm by muon"),
    ],
)
def test_what_pytorch_would_do_otherwise_is_not_compared(fields, what):
    found = find_baselines(small(**fields), "auto")
    assert not found.training and what in found.note


def test_evaluation_is_measured():
    built = small()
    result = evaluate.measure(built, 3, 1, find_baselines(built, "eager").evaluation)
    json.dumps(result)
    assert list(result["programs"]) == ["lm_jax", "pytorch"]
    assert result["targets_per_step"] == 64 and result["steps_per_round"] == 3


def test_hugging_face_decodes_the_same():
    pytest.importorskip("transformers")
    result = decode.measure(small(), batch_size=2, new_tokens=3, rounds=1, mode="auto")
    assert list(result["programs"]) == ["lm_jax", "hugging_face"] and result["ratio"] > 0
