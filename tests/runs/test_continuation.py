"""Runs that go on: grown in their work directory, or forked into another with changes."""

import copy
import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lm_jax.build import build_experiment, training_batches
from lm_jax.config.serialization import to_dict
from lm_jax.data import DataConfig, LabelledTextConfig, TokenizerConfig, prepare
from lm_jax.errors import UserError
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.reports.compare_runs import compare
from lm_jax.runs import workdir
from lm_jax.runs.continuation import (
    Fork,
    fork_boundary,
    growth,
    last_step_before_decay,
    refuse_another_experiment,
)
from lm_jax.runs.initial_state import fine_tuned
from lm_jax.runs.origin import origin, rows_of_other_batches, rows_trained
from lm_jax.runs.replay import replay
from lm_jax.runs.train import train, train_fork
from lm_jax.runs.trained_run import load
from lm_jax.runs.vmapped_runs import RunGroup
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.training.checkpoints import finished_steps
from tests.experiments import tiny

TIMES = ("seconds", "tokens_per_second")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        first = jax.devices()[:1]
        patch.setattr(jax, "devices", lambda: first)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"{i} times {i + 3} is {i * (i + 3)}." for i in range(600)))
    return DataConfig(
        source="files", path=str(path), split="tail", tokenizer=TokenizerConfig("byte")
    )


def base_of(text, **fields):
    """A run of 8 steps, 4 to a dispatch, saved and measured every 4 with a constant rate."""
    model = CausalCNNConfig(context_length=16, d_model=16, num_layers=1)
    given = {"model": model, "data": copy.deepcopy(text), "training__steps_per_call": 4}
    given |= {"training__num_steps": 8, "schedule__name": "constant", "schedule__warmup_steps": 2}
    experiment = tiny(**given | fields)
    experiment.evaluation.every_steps = experiment.checkpoint.every_steps = 4
    experiment.checkpoint.keep_last = 4
    return experiment


def of_steps(experiment, num_steps):
    training = dataclasses.replace(experiment.training, num_steps=num_steps)
    return dataclasses.replace(experiment, training=training)


@pytest.fixture(scope="module")
def runs(text, tmp_path_factory):
    """A run of 8 steps, and the same of 12 steps alone."""
    place = tmp_path_factory.mktemp("runs")
    train(base_of(text), place / "short")
    train(of_steps(base_of(text), 12), place / "alone")
    return SimpleNamespace(short=place / "short", alone=place / "alone")


def assert_same(ours, theirs):
    """Asserts that two work directories hold the same run bit for bit, except for times."""
    rows, expected = (
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(directory)]
        for directory in (ours, theirs)
    )
    assert rows == expected
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, max(steps) + 1))  # neither gap nor repetition
    a, b = (load(directory, log=lambda _: None) for directory in (ours, theirs))
    assert a.step == b.step
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def test_a_fork_of_a_constant_schedule_equals_the_longer_run_alone(runs, text, tmp_path, capsys):
    results = train_fork(of_steps(base_of(text), 12), tmp_path / "fork", runs.short)
    assert results["step"] == 12
    said = f"fork of {runs.short} at step 8 (training.num_steps: 8 -> 12)"
    assert said in capsys.readouterr().err
    assert_same(tmp_path / "fork", runs.alone)
    found = origin(tmp_path / "fork")
    assert (found.run, found.step, found.rows) == (str(runs.short), 8, 64)
    assert found.changes == ["training.num_steps: 8 -> 12"]
    page = (tmp_path / "fork" / "report.html").read_text()
    assert f"Forked from {runs.short} at step 8 with training.num_steps: 8 -&gt; 12." in page
    rows = compare([tmp_path / "fork", runs.alone])  # one configuration, and yet no two seeds
    settings = {row.name: row.settings for row in rows}
    assert settings == {"fork": {"fork_of": "short at step 8"}, "alone": {}}


def test_a_grown_run_equals_the_longer_run_alone(runs, text, tmp_path):
    directory = shutil.copytree(runs.short, tmp_path / "grown")
    longer = of_steps(base_of(text), 12)
    assert growth(longer, directory) == "training.num_steps grows from 8 to 12"
    assert train(longer, directory)["step"] == 12
    assert_same(directory, runs.alone)
    with pytest.raises(UserError, match=r"another experiment \(training.num_steps: 12 -> 8\)"):
        train(base_of(text), directory)


def test_a_grown_run_that_was_killed_has_not_ended(runs, text, tmp_path):
    longer = of_steps(base_of(text), 12)
    directory = shutil.copytree(runs.short, tmp_path / "grown")
    (directory / "config.json").write_text(json.dumps(to_dict(longer)))
    assert workdir.results_of(longer, directory) is None
    assert workdir.results_of(longer, runs.alone)["step"] == 12


def test_a_fork_with_other_batches_reads_on_where_its_origin_stopped(runs, text, tmp_path):
    changed = of_steps(base_of(text), 10)
    changed.training.batch_size, changed.schedule.peak_learning_rate = 3, 1e-4
    results = train_fork(changed, tmp_path / "fork", runs.short, 4)
    assert results["step"] == 10
    rows = [row for row in read_metrics(tmp_path / "fork") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 11))
    # 4 steps of 8 rows of 16 tokens, then 6 steps of 3 rows.
    assert [row["tokens"] for row in rows[3:5]] == [512, 560] and rows[-1]["tokens"] == 800
    assert rows[4]["learning_rate"] == pytest.approx(1e-4)
    extra = rows_of_other_batches(tmp_path / "fork", changed)
    assert extra == 4 * 8 - 4 * 3
    assert rows_trained(tmp_path / "fork", changed, 10) == 4 * 8 + 6 * 3
    dataset = prepare(text)
    built = build_experiment(changed, dataset.sizes)
    plain = training_batches(built, dataset)
    (continued,) = (RunGroup([built]).batches(dataset, [rows]) for rows in [extra])
    # 32 rows were read: 10 batches of 3 and two rows, so the batch of step 4 is number 11.
    np.testing.assert_array_equal(continued[4]["inputs"], plain[11]["inputs"])


def test_a_fork_leaves_out_batches_and_counts_none_of_their_tokens(runs, text, tmp_path, capsys):
    longer, fork, second = of_steps(base_of(text), 12), tmp_path / "fork", tmp_path / "second"
    train_fork(longer, fork, runs.short, 4, skip_batches=3)
    assert "short at step 4 (24 rows skipped" in capsys.readouterr().err
    dataset = prepare(text)
    plain = training_batches(build_experiment(longer, dataset.sizes), dataset)
    found = replay(fork, 6, num_rows=0)
    assert found.compared == [5, 6, 7, 8] and not found.differing
    np.testing.assert_array_equal(found.batch["inputs"], plain[5 + 3]["inputs"])
    assert read_metrics(fork)[-2]["tokens"] == 12 * 8 * 16
    train_fork(of_steps(longer, 16), second, fork, 8, skip_batches=2)
    assert origin(second).skipped_rows == (3 + 2) * 8
    train_fork(of_steps(longer, 16), second, fork, 8, skip_batches=2)  # it is finished
    with pytest.raises(UserError, match="second began with another number of skipped batches than"):
        Fork(fork, 8, second, 1)


def test_a_fork_resumes_without_its_origin(runs, text, tmp_path):
    source = shutil.copytree(runs.short, tmp_path / "short")
    longer, directory = of_steps(base_of(text), 12), tmp_path / "fork"
    assert train_fork(longer, directory, source, 4, lambda step: True)["step"] == 8
    with pytest.raises(UserError, match="was forked from .*short at step 4, not from .* at step 8"):
        Fork(source, 8, directory)
    with pytest.raises(UserError, match="was forked from .*short at step 4, not from .*alone"):
        Fork(runs.alone, None, directory)
    shutil.rmtree(source)
    train_fork(longer, directory, source)
    assert_same(directory, runs.alone)


def test_a_fork_reads_other_data_with_its_own_tokenizer(runs, text, tmp_path):
    (tmp_path / "other.txt").write_text("entirely other words " * 300)
    longer = of_steps(base_of(text), 9)
    longer.data.path, longer.data.drop_repeated_paragraphs = str(tmp_path / "other.txt"), False
    train_fork(longer, tmp_path / "fork", runs.short)
    found = workdir.read_experiment(tmp_path / "fork")
    assert found.data.tokenizer.path == str(runs.short)
    changed = [change.partition(":")[0] for change in origin(tmp_path / "fork").changes]
    assert changed[:2] == ["data.drop_repeated_paragraphs", "data.path"]


def test_a_fork_of_changed_files_has_to_say_so(runs, text, tmp_path):
    source = shutil.copytree(runs.short, tmp_path / "short")
    found = json.loads((source / "data.json").read_text())
    (source / "data.json").write_text(json.dumps(found | {"fingerprint": "another"}))
    longer = of_steps(base_of(text), 12)
    with pytest.raises(UserError, match=r"the data changed since .*say so with --config.data.tok"):
        train_fork(longer, tmp_path / "fork", source)
    (source / "data.json").write_text(json.dumps(found | {"sizes": {"vocab_size": 300}}))
    with pytest.raises(UserError, match=r"sizes of the data are .*257.* and those of .*300"):
        train_fork(longer, tmp_path / "fork", source)
    assert not (tmp_path / "fork").exists()


@pytest.mark.parametrize(
    ("fields", "step", "message"),
    [
        ({"optimizer__name": "lion"}, None, "keeps its architecture, .*optimizer.name: 'adamw' ->"),
        ({"seed": 3}, None, "keeps .*seed: 0 -> 3"),
        ({"training__num_steps": 8}, None, "num_steps is 8, and .* is forked at step 8; give"),
        ({"training__num_steps": 12}, 5, "no checkpoint of step 5; its checkpoints are 4, 8"),
    ],
)
def test_what_a_fork_cannot_change_is_one_line(fields, step, message, runs, text, tmp_path):
    with pytest.raises(UserError, match=message):
        train_fork(base_of(text, **fields), tmp_path / "fork", runs.short, step)
    assert not (tmp_path / "fork").exists()


def test_a_fork_begins_in_an_empty_place_only(runs, text, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty, and it is no fork of"):
        Fork(runs.short, None, tmp_path)
    with pytest.raises(UserError, match="holds no config.json"):
        Fork(tmp_path, None, tmp_path / "fork")


def test_a_fork_of_a_carried_state_keeps_its_batch_size(text, tmp_path):
    carried = base_of(text, model=RecurrentConfig(context_length=16, carry_state=True))
    begun(tmp_path / "run", carried, [8])
    changed = of_steps(carried, 16)
    changed.training.batch_size = 4
    with pytest.raises(UserError, match="a state for each of the 8 rows .* cannot have 4"):
        Fork(tmp_path / "run", None, tmp_path / "fork").experiment(changed)


def test_fine_tuning_takes_architecture_and_tokenizer_of_the_run(text, tmp_path):
    base = base_of(text, mup_base_width=8, seed=3)
    begun(tmp_path / "run", base, [])
    given = tiny(objective="classification", data=LabelledTextConfig(path="texts.tsv"))
    found = fine_tuned(given, tmp_path / "run")
    assert (found.model, found.mup_base_width, found.seed) == (base.model, 8, 0)
    assert (found.objective, found.data.path) == ("classification", "texts.tsv")
    assert found.data.tokenizer.path == found.fine_tuning.workdir == str(tmp_path / "run")
    own = fine_tuned(None, tmp_path / "run")
    assert (own.training.num_steps, own.data.path, own.seed) == (8, text.path, 3)


def begun(directory, experiment, steps):
    """Writes a configuration, and folders named like checkpoints of these steps."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(to_dict(experiment)))
    for step in steps:
        (directory / "checkpoints" / str(step)).mkdir(parents=True)


def grown(directory, experiment, steps, longer):
    begun(directory, experiment, steps)
    refuse_another_experiment(of_steps(experiment, longer), directory)


WSD = {"schedule__name": "wsd", "schedule__decay_fraction": 0.25}  # decays from step 12 of 16 on


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"schedule__name": "constant"}, [8, 16]),
        ({"schedule__name": "rsqrt"}, [16]),
        (WSD, [8, 12]),
        ({"schedule__name": "cosine"}, []),  # nothing is kept of its steps
    ],
)
def test_a_run_grows_while_its_rates_are_those_of_the_longer_run(fields, steps, text, tmp_path):
    grown(tmp_path / "run", base_of(text, training__num_steps=16, **fields), steps, 32)


@pytest.mark.parametrize(
    ("fields", "steps", "message"),
    [
        (
            {"schedule__name": "cosine"},
            [16],
            r"cosine schedule of 16 steps, whose learning rates all change .* fork it: python -m "
            r"launch.train --from_workdir=\S+run --workdir=NEW --config.training.num_steps=32$",
        ),
        ({"schedule__name": "linear"}, [4], "the linear schedule of 16 steps"),
        (WSD, [4, 8, 16], "has decayed since step 12 .* --from_step=8$"),
        (WSD, [13, 16], r"decayed since step 12 .* no checkpoint from before is left .*13, 16\)"),
    ],
)
def test_a_run_whose_rates_would_change_is_forked_instead(fields, steps, message, text, tmp_path):
    with pytest.raises(UserError, match=message):
        grown(tmp_path / "run", base_of(text, training__num_steps=16, **fields), steps, 32)


@pytest.mark.parametrize(
    ("fields", "step"),
    [(WSD, 12), ({"schedule__name": "constant"}, 0), ({"schedule__name": "cosine"}, 0)],
)
def test_a_run_keeps_the_last_step_before_its_decay(fields, step, text):
    assert last_step_before_decay(base_of(text, training__num_steps=16, **fields)) == step
    fields = fields | {"training__log_every_steps": 8}
    logged = last_step_before_decay(base_of(text, training__num_steps=16, **fields))
    assert logged == step // 8 * 8


def test_a_run_keeps_a_step_before_its_decay_however_short_it_is(text, tmp_path):
    short = base_of(text, training__log_every_steps=50, schedule__name="wsd")  # 6 + 2 steps
    assert fork_boundary(6, short) == 0 and last_step_before_decay(short) == 4
    short.training.steps_per_call = 10
    short.evaluation.every_steps = short.checkpoint.every_steps = 0
    short.checkpoint.keep_last = 1
    assert last_step_before_decay(short) == 6
    train(short, tmp_path / "short")
    assert finished_steps(tmp_path / "short" / "checkpoints") == [6, 8]
    train_fork(of_steps(short, 16), tmp_path / "fork", tmp_path / "short", 6)
    assert finished_steps(tmp_path / "fork" / "checkpoints") == [10, 16]


def test_a_run_grown_within_a_dispatch_says_that_it_may_be_rounded_otherwise(text, tmp_path):
    begun(tmp_path / "run", base_of(text, training__num_steps=10), [8, 10])
    assert "step 10 ends no dispatch" in growth(of_steps(base_of(text), 12), tmp_path / "run")


def test_arrays_that_fit_nowhere_are_named_with_both_shapes(runs, text, tmp_path):
    wider = base_of(text, model=CausalCNNConfig(context_length=16, d_model=24, num_layers=1))
    wider.fine_tuning.workdir = str(runs.short)
    shapes = r"\w+/\w+ \[[\d, ]*24\] here, \[[\d, ]*16\] there"
    with pytest.raises(
        UserError, match=f"no array of .*other shapes: .*{shapes}.*; take over its architecture"
    ):
        train(wider, tmp_path / "wider")
