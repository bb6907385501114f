"""Runs that train low-rank updates of another run: resumed, read, exported and begun from."""

import functools
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from lm_jax.config.experiment import EvaluationConfig
from lm_jax.errors import UserError
from lm_jax.interop.export_model import export_model
from lm_jax.runs.evaluate import evaluate
from lm_jax.runs.initial_state import fine_tuned, inherited_variables
from lm_jax.runs.train import train
from lm_jax.runs.trained_run import load


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)


def updates_of(source, num_steps=3):
    experiment = fine_tuned(None, source)
    experiment.fine_tuning.parameters, experiment.fine_tuning.lora_rank = "lora", 2
    experiment.training.num_steps, experiment.training.steps_per_call = num_steps, 1
    experiment.schedule.warmup_steps, experiment.model.scan_layers = 0, True
    return experiment


def test_a_run_of_updates_is_resumed_read_exported_and_begun_from(
    language_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
    source, place = shutil.copytree(language_model, tmp_path / "source"), tmp_path / "lora"
    experiment = updates_of(source)
    assert train(experiment, place, stop_requested=lambda step: True)["stopped"]
    shutil.rmtree(source)  # resuming needs no other run
    results = train(experiment, place)
    said, trained = capsys.readouterr().err, results["trained_parameters"]
    assert f"model: {results['parameters']:,} parameters, {trained:,} trained" in said
    run, before = load(place), load(language_model)
    assert results["parameters"] == run.num_parameters == before.num_parameters
    assert f"{trained:,}" in (place / "report.html").read_text()

    # What is read, exported and begun from has the updates in its kernels.
    measured = [
        evaluate(each, split="validation", eval_config=EvaluationConfig(batch_size=64))
        for each in (before, run)
    ]
    expected = [results["validation_before"], results["validation"]]
    losses = [[each["cross_entropy"] for each in found] for found in (measured, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert losses[0][1] < losses[0][0] - 1e-3
    export_model(place, tmp_path / "exported", log=lambda line: None)
    exported = load_file(tmp_path / "exported" / "model.safetensors")
    kernel_lio = run.variables["params"]["layers"]["feed_forward"]["down"]["kernel"]
    theirs = exported["transformer.h.1.mlp.c_proj.weight"]
    np.testing.assert_allclose(theirs, kernel_lio[1], atol=1e-7)
    again = fine_tuned(None, place)
    again.data.tokenizer.path = ""
    found = inherited_variables(again, run.tokenizer)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), found, run.variables)


def test_updates_of_a_model_that_the_run_has_only_in_part_are_refused(language_model, tmp_path):
    experiment = updates_of(language_model)
    experiment.model.norm_order = "both"  # norms that the run does not have
    with pytest.raises(UserError, match=r"does not train layers/attention_post_norm/.* has none"):
        train(experiment, tmp_path / "lora")
    assert not (tmp_path / "lora").exists()
