"""Whole runs in muP: what is trained on several devices, saved and read back is one model."""

import jax
import numpy as np
import pytest

from lm_jax.config.experiment import EvaluationConfig, SamplesConfig
from lm_jax.data import TokenizerConfig
from lm_jax.runs import train as trainer
from lm_jax.runs.evaluate import evaluate
from lm_jax.runs.generate import complete
from lm_jax.runs.trained_run import load
from tests.experiments import tiny
from tests.training.test_loop import losses

BASE = 8  # of 32: a table that is the output, too, is divided by 4


@pytest.mark.slow
def test_a_run_goes_on_and_is_read_back_in_its_parametrisation(monkeypatch, tmp_path):
    devices = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: devices[:1])
    config = tiny(mup_base_width=BASE, data__tokenizer=TokenizerConfig("byte"))
    config.schedule.peak_learning_rate = 1e-2
    one_device = trainer.train(config, tmp_path / "one_device")["validation"]["cross_entropy"]
    assert one_device < np.log(257) - 0.5
    config.mesh = "fsdp:2"
    monkeypatch.setattr(jax, "devices", lambda: devices[:2])
    asked = iter([False, True])
    trainer.train(config, tmp_path / "run", stop_requested=lambda step: next(asked, False))
    found = trainer.train(config, tmp_path / "run")["validation"]["cross_entropy"]
    assert found == pytest.approx(one_device, abs=1e-4)

    run = load(tmp_path / "run", log=lambda line: None)
    eval_config = EvaluationConfig(batch_size=16)
    again = evaluate(run, split="validation", eval_config=eval_config)["cross_entropy"]
    assert again == pytest.approx(found, abs=1e-5)
    text, samples = "The ", SamplesConfig(1, max_new_tokens=1, temperature=0)
    completed = complete(run, [text], samples)[0].text
    tokens = np.array([[run.tokenizer.end_of_document, *run.tokenizer.encode(text)]])
    apply = jax.jit(run.built.model.apply, static_argnames="train")
    logits, _ = apply(run.variables, {"inputs": tokens}, train=False)
    assert completed == text + run.tokenizer.decode([int(logits[0, -1].argmax())])


@pytest.mark.slow
def test_gradients_in_parts_are_those_of_the_whole_batch():
    """With plain descent, which unlike Adam and clipping knows the size of a gradient."""
    fields = {
        "mup_base_width": BASE,
        "optimizer__name": "sgd",
        "optimizer__clip_norm": 0.0,
        "schedule__peak_learning_rate": 0.1,
        "training__num_steps": 10,
    }
    whole, _ = losses(**fields)
    parts, _ = losses(training__gradient_accumulation_steps=2, **fields)
    assert whole[-1] < whole[0] - 0.1
    np.testing.assert_allclose(parts, whole, atol=1e-4)
