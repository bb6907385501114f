import numpy as np
import pytest

from lm_jax.benchmarking.default_experiments import default_experiments, published
from lm_jax.benchmarking.pytorch_baseline import find_baselines
from lm_jax.benchmarking.train_step import measure, prepare, random_batches
from tests.benchmarking.programs import LSTM, check_measured, compiled, small


@pytest.mark.parametrize("model", [None, LSTM])
def test_the_train_step_is_measured(model):
    built = small(**({"model": model} if model else {}))
    result = measure(built, 2, {})
    assert list(result["programs"]) == ["lm_jax"]
    check_measured(built, result)


def test_a_dispatch_trains():
    built = small(schedule__warmup_steps=0)
    batches = random_batches(built, 2)
    assert batches["inputs"].shape == (2, 4, 16) and set(batches) == {
        "inputs",
        "targets",
        "weights",
    }
    step = prepare(built, batches)
    step.work()
    step.work()  # its state was donated, and replaced


@pytest.mark.parametrize("name", ["bert_base", "t5_small", "resnet18"])
def test_every_objective_gets_batches_of_its_own(name):
    built = compiled(published(name))
    batches = random_batches(built, 1)
    for key, shape in built.example.items():
        assert batches[key].shape[2:] == shape.shape[1:] and batches[key].dtype == shape.dtype
    assert batches["targets"].shape == batches["weights"].shape
    assert 0 <= batches["targets"].min() <= batches["targets"].max()
    assert np.all(batches["weights"] == 1)


def test_mode_none_has_no_baselines():
    assert find_baselines(small(), "none").training == {}


def test_default_experiments_are_small_on_cpu_and_gpt2_on_an_accelerator():
    assert [e.model.d_model for e in default_experiments("train", False).values()] == [128, 384]
    (gpt2,) = default_experiments("train", True).values()
    tokens = gpt2.training.batch_size * gpt2.model.context_length
    assert tokens == 524_288 and gpt2.model.num_layers == 12
    assert next(iter(default_experiments("lstm", True).values())).model.d_hidden == 1024
