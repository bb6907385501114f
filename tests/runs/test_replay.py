"""A step that is replayed is the one that the run took, and its bad rows are named."""

import shutil

import jax
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.runs import replay as replays
from lm_jax.runs import vmapped_runs
from lm_jax.runs.replay import replay
from lm_jax.runs.train import train, train_fork
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.training.loop import NonFiniteLoss
from tests.experiments import tiny

BAD_STEPS, BAD_ROW = {7, 8, 9}, 5  # steps counted from 1


class Poisoned:
    """Batches of which one row has a target that weighs no number, at some steps."""

    def __init__(self, batches):
        self.batches, self.note, self.facts = batches, batches.note, batches.facts

    def __getitem__(self, step):
        batch = self.batches[step]
        if step + 1 in BAD_STEPS:
            weights = batch["weights"].copy()
            weights[BAD_ROW, 3] = np.nan
            batch = {**batch, "weights": weights}
        return batch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of twelve steps, three of which are bad, that was stopped once at the sixth."""
    with pytest.MonkeyPatch.context() as patch:
        first, made = jax.devices()[:1], vmapped_runs.training_batches
        patch.setattr(jax, "devices", lambda: first)
        patch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
        for module in (vmapped_runs, replays):
            patch.setattr(module, "training_batches", lambda *given: Poisoned(made(*given)))
        config = tiny(training__num_steps=12, training__steps_per_call=3, checkpoint__every_steps=6)
        directory = tmp_path_factory.mktemp("replay") / "run"
        train(config, directory, stop_requested=lambda step: step == 6)
        train(config, directory)
        yield directory, config


@pytest.mark.parametrize("step", [6, 8])
def test_a_step_is_what_the_run_recorded_of_it(run, step):
    directory, _ = run
    before = sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*"))
    found = replay(directory, step, num_rows=1)
    row = next(r for r in read_metrics(directory) if r["step"] == step and r["kind"] == "train")
    assert found.start == (0 if step <= 6 else 6)
    assert found.compared == list(range(found.start + 1, -(-step // 3) * 3 + 1))
    assert not found.differing
    is_bad = step in BAD_STEPS
    assert found.metrics["skipped"] == is_bad
    assert [found.metrics["loss"]] == [row["loss"]] or (is_bad and row["loss"] is None)
    assert (found.rows[0].row == BAD_ROW) or not is_bad
    assert np.isnan(found.rows[0].gradient_norm) == is_bad
    assert len(found.texts) == len(found.rows) and max(map(len, found.texts)) > 20
    assert sorted((path, path.stat().st_mtime_ns) for path in directory.rglob("*")) == before


def test_rows_that_were_recorded_otherwise_are_named(run, tmp_path):
    copy = shutil.copytree(run[0], tmp_path / "copy")
    text = (copy / "metrics.jsonl").read_text()
    row = next(r for r in read_metrics(copy) if r["step"] == 11 and r["kind"] == "train")
    (copy / "metrics.jsonl").write_text(text.replace(str(row["loss"]), str(row["loss"] + 1e-6)))
    assert replay(copy, 10, num_rows=0).differing == [11]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, tmp_path):
    copy, said = shutil.copytree(run[0], tmp_path / "copy"), []
    for path in (copy / "checkpoints/6/default").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
    found = replay(copy, 9, num_rows=0, log=said.append)
    assert found.start == 0 and not found.differing
    assert "step 6" in said[0] and said[0].endswith("; an earlier one is read")


def test_a_run_that_stops_says_how_to_look_at_its_last_step(run, tmp_path):
    _, config = run
    config = tiny(training__num_steps=12, training__stop_after_skipped=3)
    with pytest.raises(NonFiniteLoss, match=r"launch.replay --workdir=.*/bad --step=9$"):
        train(config, tmp_path / "bad")


def test_what_was_not_trained_here_is_refused(run, tmp_path):
    directory, config = run
    for step in (0, 13):
        with pytest.raises(UserError, match=f"has no step {step}; expected one from 1 to .* 12"):
            replay(directory, step)
    fork = tmp_path / "fork"
    config = tiny(training__num_steps=14, training__steps_per_call=3, checkpoint__every_steps=6)
    train_fork(config, fork, directory, 12)
    with pytest.raises(UserError, match=f"its origin took step 8; .* --workdir={directory}"):
        replay(fork, 8)
    assert replay(fork, 13, num_rows=0).start == 12
