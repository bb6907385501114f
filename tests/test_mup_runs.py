"""Whole runs in muP: what is trained, saved, read back and split is one model."""

import jax
import numpy as np
import pytest

from lm_jax import runs, trainer
from lm_jax.data import TokenizerConfig
from lm_jax.experiment import EvaluationConfig, SamplesConfig
from tests.experiments import tiny
from tests.test_training import losses

BASE = 8  # of 32: a table that is the output, too, is divided by 4


@pytest.fixture
def two_devices(monkeypatch):
    devices = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda: devices)


def test_a_run_goes_on_and_is_read_back_in_its_parametrisation(two_devices, tmp_path):
    config = tiny(mup_base_width=BASE, mesh="fsdp:2", data__tokenizer=TokenizerConfig("byte"))
    config.checkpoint.every_steps = 10
    config.schedule.peak_learning_rate = 1e-2
    whole = trainer.train(config, tmp_path / "whole")
    asked = iter([False, True])
    trainer.train(config, tmp_path / "parts", stop_requested=lambda step: next(asked, False))
    parts = trainer.train(config, tmp_path / "parts")
    assert parts["step"] == whole["step"] and parts["validation"] == whole["validation"]
    assert whole["validation"]["cross_entropy"] < np.log(257) - 0.5

    run = runs.load(tmp_path / "parts", say=lambda line: None)
    found = runs.evaluate(run, split="validation", how=EvaluationConfig(batch_size=16))
    wanted = pytest.approx(whole["validation"]["cross_entropy"], abs=1e-5)
    assert found["cross_entropy"] == wanted
    text, how = "The ", SamplesConfig(1, max_new_tokens=1, temperature=0)
    completed = runs.complete(run, [text], how)[0].text
    tokens = np.array([[run.tokenizer.end_of_document, *run.tokenizer.encode(text)]])
    logits, _ = run.program.model.apply(run.variables, {"inputs": tokens}, train=False)
    assert completed == text + run.tokenizer.decode([int(logits[0, -1].argmax())])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_gradients_in_parts_are_those_of_the_whole_batch(optimizer):
    fields = {"mup_base_width": BASE, "optimizer__name": optimizer}
    whole, _ = losses(**fields)
    parts, _ = losses(training__gradient_accumulation_steps=2, **fields)
    np.testing.assert_allclose(parts, whole, atol=1e-4)
