"""A run with batches whose losses are no numbers: it goes on, and counts them."""

import jax
import numpy as np
import pytest

from lm_jax.runs import vmapped_runs
from lm_jax.runs.train import train
from lm_jax.telemetry.json_files import read_metrics
from tests.experiments import tiny


def poisoned(batches, steps):
    """Batches whose weights are not finite at some steps."""

    class Poisoned:
        note, facts = batches.note, batches.facts

        def __getitem__(self, step):
            batch = batches[step]
            if step in steps:
                batch = batch | {"weights": np.full_like(batch["weights"], np.nan)}
            return batch

    return Poisoned()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_run_counts_what_it_skipped_when_it_resumes_too(tmp_path, monkeypatch, dtype):
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: first)
    monkeypatch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
    made = vmapped_runs.training_batches
    monkeypatch.setattr(
        vmapped_runs, "training_batches", lambda *given: poisoned(made(*given), {1, 2, 5})
    )
    config = tiny(
        samples__num_samples=0,
        evaluation__baselines=False,
        training__num_steps=8,
        training__steps_per_call=2,
        training__log_every_steps=2,
        compute_dtype=dtype,
    )
    config.checkpoint.every_steps = 4

    def counts(directory):
        rows = [row for row in read_metrics(directory) if row["kind"] == "train"]
        return [(row["step"], row["skipped_updates"], row["loss"] is None) for row in rows]

    expected = [(2, 1, False), (4, 2, False), (6, 3, False), (8, 3, False)]
    train(config, tmp_path, stop_requested=lambda step: step == 4)
    assert counts(tmp_path) == expected[:2]
    train(config, tmp_path)
    assert counts(tmp_path) == expected
    assert "3 updates were skipped" in (tmp_path / "report.html").read_text()
    scales = [row.get("loss_scale") for row in read_metrics(tmp_path) if row["kind"] == "train"]
    halved = [2.0**16, 2.0**14, 2.0**14, 2.0**13]  # of steps 0, 3 and 4, the mean of 6 and 7
    assert scales == (halved if dtype == "float16" else [None] * 4)
