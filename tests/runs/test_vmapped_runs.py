"""Each run of a group beside the same run alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.runs import trained_run as runs
from lm_jax.runs.train import Request, train, train_runs
from lm_jax.runs.vmapped_runs import groups_of
from lm_jax.telemetry.json_files import read_metrics
from tests.experiments import tiny

MODELS = {
    "transformer": TransformerConfig(context_length=16, d_model=32, num_layers=1, num_heads=4),
    "lstm": RecurrentConfig(context_length=16, d_hidden=32, dropout_rate=0.1),
    "cnn": CausalCNNConfig(context_length=16, d_model=32, num_layers=2),
}
RUNS = {
    "low": {"seed": 0, "schedule__peak_learning_rate": 3e-3, "optimizer__weight_decay": 0.5},
    "seed": {"seed": 1, "schedule__name": "wsd", "schedule__warmup_steps": 2},
    "constant": {"seed": 2, "schedule__name": "constant", "schedule__peak_learning_rate": 2e-3},
}


@pytest.fixture(autouse=True)
def two_devices(monkeypatch, without_analysis):
    devices = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda: devices)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"{i} times {i + 3} is {i * (i + 3)}." for i in range(600)))
    config = DataConfig(source="files", path=str(path), split="tail")
    config.tokenizer = TokenizerConfig("byte")
    return config


def run_of(text, model, optimizer, fields):
    experiment = tiny(model=MODELS[model], data=text, optimizer__name=optimizer, **fields)
    experiment.evaluation.every_steps, experiment.mesh = 10, "data:2"
    return experiment


def rows(directory, kind, name):
    return {r["step"]: r[name] for r in read_metrics(directory) if r["kind"] == kind}


def assert_same(ours, theirs):
    """That a work directory holds what another does."""
    losses, expected = (rows(place, "train", "loss") for place in (ours, theirs))
    assert losses.keys() == expected.keys() and len(losses) == 20
    for step, loss in expected.items():
        assert losses[step] == pytest.approx(loss, abs=1e-5), step
    measured, figures = (rows(place, "evaluation", "cross_entropy") for place in (ours, theirs))
    assert measured == pytest.approx(figures, abs=1e-5) and [step for step in figures if step] == [
        10,
        20,
    ]
    one, other = (runs.load(place, log=lambda line: None) for place in (ours, theirs))
    assert one.step == other.step == 20
    for leaf, same in zip(
        jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True
    ):
        np.testing.assert_allclose(leaf, same, atol=1e-4)


def test_each_run_of_a_group_is_what_it_is_alone_even_beside_one_that_diverges(text, tmp_path):
    rates = RUNS | {"low": {"schedule__peak_learning_rate": 1e30, "schedule__warmup_steps": 0}}
    group = {tmp_path / n: run_of(text, "transformer", "adamw", rates[n]) for n in RUNS}
    bad, good, other = train_runs(group).values()
    assert bad.keys() == {"error"}
    assert bad["error"].startswith("the validation loss of step 10 is not a number: this state was")
    assert not (tmp_path / "low" / "evaluation.json").exists()
    assert not list((tmp_path / "low" / "checkpoints").glob("[0-9]*"))
    assert abs(good["validation"]["cross_entropy"] - other["validation"]["cross_entropy"]) > 1e-3
    place = tmp_path / "constant"
    assert json.loads((place / "evaluation.json").read_text())["vmapped_runs"] == len(RUNS)
    assert (place / "report.html").stat().st_size > 0
    alone = train(group[place], tmp_path / "alone")
    assert_same(place, tmp_path / "alone")
    assert other["validation"].keys() == alone["validation"].keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        ("transformer", "adamw"),
        ("lstm", "sgd"),
        ("cnn", "muon"),
    ],
)
def test_a_run_of_a_group_equals_that_run_alone(model, optimizer, text, tmp_path):
    group = {tmp_path / name: run_of(text, model, optimizer, RUNS[name]) for name in RUNS}
    found = train_runs(group)
    for place, experiment in group.items():
        assert json.loads((place / "evaluation.json").read_text())["vmapped_runs"] == len(RUNS)
        assert (place / "report.html").stat().st_size > 0
        if place.name == "seed":
            continue  # its seed and its schedule differ, as those of `constant` do
        alone = train(experiment, tmp_path / "alone" / place.name)
        assert_same(place, tmp_path / "alone" / place.name)
        assert found[place]["validation"].keys() == alone["validation"].keys()
    first, *others = (found[place]["validation"]["cross_entropy"] for place in group)
    assert all(abs(first - other) > 1e-3 for other in others)


@pytest.mark.slow
def test_a_group_that_was_stopped_goes_on_to_the_same_bits(text, tmp_path):
    def group_in(name):
        fields = [RUNS["low"], RUNS["seed"]]
        return {
            tmp_path / name / str(i): run_of(text, "transformer", "adamw", each)
            for i, each in enumerate(fields)
        }

    stopped = train_runs(group_in("stopped"), Request(lambda step: step >= 10))
    assert [(found["step"], found["stopped"]) for found in stopped.values()] == [(10, True)] * 2
    train_runs(group_in("stopped"))
    train_runs(group_in("whole"))
    for name in ("0", "1"):
        ours, theirs = (rows(tmp_path / d / name, "train", "loss") for d in ("stopped", "whole"))
        assert ours == theirs and len(ours) == 20
    again = train_runs(
        group_in("stopped"), Request(lambda step: pytest.fail("a finished run was trained"))
    )
    assert all("validation" in found for found in again.values())


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others_alone(text, tmp_path):
    fields = [{"schedule__peak_learning_rate": rate} for rate in (1e-2, 1e30)]
    group = {
        tmp_path / str(i): run_of(text, "transformer", "sgd", each) for i, each in enumerate(fields)
    }
    for experiment in group.values():
        experiment.optimizer.clip_norm = 0.0
    good, bad = train_runs(group).values()
    train(group[tmp_path / "0"], tmp_path / "alone")
    assert_same(tmp_path / "0", tmp_path / "alone")
    assert "validation" in good and bad.keys() == {"error"}
    assert bad["error"].startswith("the validation loss of step 10 is not a number")
    assert not (tmp_path / "1" / "evaluation.json").exists()
    assert not list((tmp_path / "1" / "checkpoints").glob("[0-9]*"))
    worse = dataclasses.replace(group[tmp_path / "1"], seed=1)
    both = train_runs({tmp_path / "a": group[tmp_path / "1"], tmp_path / "b": worse})
    assert all(found["error"].startswith("the validation loss of") for found in both.values())


@pytest.mark.slow
def test_runs_at_different_steps_each_go_on_from_their_own(text, tmp_path):
    group = {tmp_path / name: run_of(text, "transformer", "adamw", RUNS[name]) for name in RUNS}
    ahead = dict(list(group.items())[:1])
    train_runs(ahead, Request(lambda step: step >= 10))
    before = rows(tmp_path / "low", "train", "loss")
    found = train_runs(group)
    assert [results.get("vmapped_runs", 1) for results in found.values()] == [1, 2, 2]
    after = rows(tmp_path / "low", "train", "loss")
    assert len(after) == 20 and {step: after[step] for step in before} == before


@pytest.mark.slow
def test_a_group_begins_with_the_parameters_of_the_run_that_it_tunes(text, tmp_path):
    train(run_of(text, "transformer", "adamw", RUNS["low"]), tmp_path / "before")
    group = {}
    for name in ("seed", "constant"):
        group[tmp_path / name] = run_of(text, "transformer", "adamw", RUNS[name])
        group[tmp_path / name].fine_tuning.workdir = str(tmp_path / "before")
    train_runs(group)
    train(group[tmp_path / "seed"], tmp_path / "alone")
    assert_same(tmp_path / "seed", tmp_path / "alone")
    first = rows(tmp_path / "seed", "train", "loss")[1]
    assert first < rows(tmp_path / "before", "train", "loss")[1] - 0.5


def test_parameters_that_are_split_are_refused(text, tmp_path):
    group = {tmp_path / name: run_of(text, "transformer", "adamw", RUNS[name]) for name in RUNS}
    for experiment in group.values():
        experiment.mesh = "fsdp:2"
    with pytest.raises(UserError, match="split their batches only, and the mesh is fsdp:2"):
        train_runs(group)
    assert not list(tmp_path.iterdir())


def test_runs_are_grouped_by_what_their_step_is(tmp_path):
    runs = {
        "a": tiny(seed=1),
        "b": tiny(model__d_model=64),
        "c": tiny(seed=2, schedule__name="linear", optimizer__weight_decay=0.3),
        "d": tiny(optimizer__name="sgd"),
        "e": tiny(training__num_steps=30),
    }
    assert groups_of(runs) == [["a", "c"], ["b"], ["d"], ["e"]]
    with pytest.raises(UserError, match="2 runs are not of one shape"):
        train_runs({tmp_path / name: runs[name] for name in "ab"})
    assert not list(tmp_path.iterdir())
