"""A run with batches whose losses are no numbers: it goes on, and counts them."""

import jax
import numpy as np

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


def test_a_run_counts_what_it_skipped_when_it_resumes_too(tmp_path, monkeypatch):
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
