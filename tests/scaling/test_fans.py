"""Each run of a fan beside the same run alone."""

import jax
import numpy as np
import pytest

from lm_jax import data, programs, sharding, training
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.recurrent import RecurrentConfig
from lm_jax.models.transformer import TransformerConfig
from lm_jax.scaling import fans
from tests.experiments import tiny

MODELS = {
    "transformer": TransformerConfig(context_length=16, d_model=32, num_layers=1, num_heads=4),
    "lstm": RecurrentConfig(context_length=16, d_hidden=32, dropout_rate=0.1),
    "cnn": CausalCNNConfig(context_length=16, d_model=32, num_layers=2),
}
RUNS = [
    {"seed": 0, "schedule__peak_learning_rate": 1e-2},
    {"seed": 0, "schedule__peak_learning_rate": 3e-3, "optimizer__weight_decay": 0.5},
    {"seed": 1, "schedule__name": "wsd", "schedule__warmup_steps": 2},
    {"seed": 2, "schedule__name": "constant", "schedule__peak_learning_rate": 2e-3},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"{i} times {i + 3} is {i * (i + 3)}." for i in range(600)))
    config = DataConfig(source="files", path=str(path), split="tail")
    config.tokenizer = TokenizerConfig("byte")
    return config, data.prepare(config)


def fan_of(config, model, optimizer, fields=RUNS):
    return [tiny(model=model, data=config, optimizer__name=optimizer, **each) for each in fields]


def alone(experiment, dataset):
    """The losses of all steps, and the parameters after them."""
    program = programs.compile_experiment(
        experiment, dataset.description["sizes"], jax.devices()[:1]
    )
    losses = []
    hooks = training.Hooks(
        log=lambda step, metrics: losses.extend(metrics["loss"].tolist()),
        evaluate=lambda step, state: None,
        save=lambda step, state: None,
        stop_requested=lambda step: False,
    )
    arguments = (program.model, program.optimizer, program.example, program.mesh)
    state = training.init_state(*arguments, experiment.seed)
    with sharding.on_mesh(program.mesh):
        state = training.fit(
            training.jit_train_steps(program.train_step),
            state,
            programs.training_batches(program, dataset),
            experiment,
            program.mesh,
            hooks,
        )
    return np.array(losses), state


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("transformer", "adamw"),
        pytest.param("lstm", "sgd", marks=pytest.mark.slow),
        pytest.param("cnn", "muon", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_a_fan_is_that_run_alone(name, optimizer, corpus):
    config, dataset = corpus
    fan = fan_of(config, MODELS[name], optimizer)
    found = fans.train(fan, dataset, jax.devices()[:1])
    for trained, experiment in zip(found, fan, strict=True):
        losses, state = alone(experiment, dataset)
        assert len(losses) == 20 and losses[-1] < losses[0]
        np.testing.assert_allclose(trained.losses, losses, atol=1e-5)
        for ours, theirs in zip(
            jax.tree.leaves(trained.state.params), jax.tree.leaves(state.params), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert list(trained.validation) == [20] and int(trained.state.step) == 20
    first, *others = (trained.validation[20]["cross_entropy"] for trained in found)
    assert all(abs(first - other) > 1e-3 for other in others)


def test_a_run_that_diverges_leaves_the_others_alone(corpus):
    config, dataset = corpus
    fields = [{"schedule__peak_learning_rate": rate} for rate in (1e-2, 1e30)]
    fan = fan_of(config, MODELS["transformer"], "sgd", fields)
    for experiment in fan:
        experiment.optimizer.clip_norm = 0.0
    good, bad = fans.train(fan, dataset, jax.devices()[:1])
    assert np.isfinite(good.losses).all() and not np.isfinite(bad.losses[-1])
    np.testing.assert_allclose(good.losses, alone(fan[0], dataset)[0], atol=1e-5)
    assert np.isnan(bad.validation[20]["cross_entropy"])
    with pytest.raises(training.NonFiniteLoss, match="nan"):
        fans.train([fan[1]] * 2, dataset, jax.devices()[:1])


def test_runs_are_grouped_by_what_their_step_is():
    runs = {
        "a": tiny(seed=1),
        "b": tiny(model__d_model=64),
        "c": tiny(seed=2, schedule__name="linear", optimizer__weight_decay=0.3),
        "d": tiny(optimizer__name="sgd"),
        "e": tiny(training__num_steps=30),
    }
    assert fans.fans_of(runs) == [["a", "c"], ["b"], ["d"], ["e"]]
    with pytest.raises(ValueError, match="not of one shape"):
        fans.train([runs["a"], runs["b"]], None)
