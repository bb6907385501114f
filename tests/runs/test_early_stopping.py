"""A run that does not learn ends early; hooks receive what it logs."""

import json

import jax
import pytest

from lm_jax.data import TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.objectives.validation import validate
from lm_jax.runs.train import train, train_runs
from lm_jax.runs.vmapped_runs import groups_of
from lm_jax.telemetry.json_files import read_metrics
from tests.experiments import tiny

LOGGER = """
import contextlib, json
@contextlib.contextmanager
def to_file(workdir, config):
    with open(workdir / "mine.jsonl", "a") as file:
        yield lambda step, metrics: file.write(json.dumps([step, metrics]) + "\\n")
"""


def experiment(**fields):
    """Learns nothing: its learning rate is 0."""
    fields = {"schedule__peak_learning_rate": 0.0, "evaluation__every_steps": 4} | fields
    fields |= {"training__stop_after_no_improvement": 2}
    return tiny(data__tokenizer=TokenizerConfig("byte"), **fields)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        patch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that ended at step 12 of 20, its results, and what its hook received."""
    place, seen = tmp_path_factory.mktemp("ended"), []
    (place / "my_logger.py").write_text(LOGGER)
    config = experiment(logger=f"{place / 'my_logger.py'}:to_file")
    results = train(config, place / "run", on_metrics=lambda *row: seen.append(row))
    return config, place / "run", results, seen


def test_a_run_that_does_not_improve_is_finished(ended):
    config, workdir, results, _ = ended
    assert results["step"] == 12 and "validation" in results
    assert "of step 4" in results["ended_early"]
    assert results["ended_early"] in (workdir / "report.html").read_text()
    assert train(config, workdir)["step"] == 12


def test_the_hook_and_the_logger_receive_what_is_logged(ended):
    _, workdir, _, seen = ended
    rows = read_metrics(workdir)
    assert [step for step, _ in seen] == [row["step"] for row in rows]
    assert seen[-1][1]["evaluation/cross_entropy"] == rows[-1]["cross_entropy"]
    assert seen[0][1]["train/loss"] == rows[0]["loss"]
    logged = [json.loads(line) for line in (workdir / "mine.jsonl").read_text().splitlines()]
    assert [step for step, _ in logged] == [step for step, _ in seen]


def test_a_run_killed_after_its_end_takes_no_further_step(ended):
    config, workdir, results, _ = ended
    before = read_metrics(workdir)
    (workdir / "evaluation.json").unlink()
    again = train(config, workdir)
    assert {name: again[name] for name in ("step", "ended_early")} == {
        name: results[name] for name in ("step", "ended_early")
    }
    assert [(row["step"], row["kind"]) for row in read_metrics(workdir)] == [
        (row["step"], row["kind"]) for row in before
    ]


@pytest.mark.slow
def test_a_stopped_run_remembers_its_evaluations(tmp_path):
    config = experiment()
    assert train(config, tmp_path, stop_requested=lambda step: step == 8)["stopped"]
    assert train(config, tmp_path)["step"] == 12


def test_runs_that_may_end_early_are_trained_one_by_one(tmp_path):
    runs = {"a": experiment(), "b": experiment(seed=1)}
    assert groups_of(runs) == [["a"], ["b"]]
    with pytest.raises(UserError, match="stop_after_no_improvement ends runs at different steps"):
        train_runs({tmp_path / name: run for name, run in runs.items()})
    assert not list(tmp_path.iterdir())


def test_early_stopping_needs_evaluations():
    with pytest.raises(UserError, match="set evaluation.every_steps"):
        validate(experiment(evaluation__every_steps=0))
