"""A run that forks from another is bit for bit the same run trained on its own."""

import json
import shutil

import jax
import numpy as np
import pytest

from lm_jax import atomic_files
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.runs import train as trainer
from lm_jax.runs.origin import origin
from lm_jax.runs.train import Request, train_runs
from lm_jax.runs.trained_run import load
from lm_jax.sweeps.directory import lock, log_of, log_start, status, workdir_of, write_plan
from lm_jax.sweeps.plan import make_plan, total_flops
from lm_jax.sweeps.results import results
from lm_jax.sweeps.search_space import grid, horizons, trials_of
from lm_jax.sweeps.warm_starts import (
    dependencies,
    fork,
    fork_step,
    predecessors,
    without_shared_steps,
)
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.training.loop import end_of_dispatch
from tests.experiments import tiny

TIMES = ("seconds", "tokens_per_second")


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


def base_of(text, **fields):
    """A run with 4 steps per dispatch, evaluated every 8; the last quarter of a run decays."""
    model = TransformerConfig(context_length=16, d_model=32, num_layers=1, num_heads=4)
    given = {"model": model, "data": text, "training__steps_per_call": 4} | fields
    given = {"schedule__name": "wsd", "schedule__decay_fraction": 0.25} | given
    experiment = tiny(**given)
    experiment.evaluation.every_steps = experiment.checkpoint.every_steps = 8
    experiment.checkpoint.keep_last, experiment.mesh = 1, "data:-1"
    experiment.samples.num_samples = 1
    return experiment


def plan_in(directory, experiments):
    plan = make_plan(trials_of(experiments), lambda _: {"vocab_size": 257})
    write_plan(directory, plan)
    return plan


def of_lengths(directory, base, lengths):
    return plan_in(directory, grid(base, {"training.num_steps": lengths}))


def train(directory, plan, run, stop_requested=lambda step: False):
    """Trains a run as a process of a sweep does."""
    fork(directory, plan, run)
    return trainer.train(
        run.experiment,
        workdir_of(directory, run),
        stop_requested,
        keep_step=fork_step(run.experiment),
    )


def assert_same(ours, theirs):
    """Asserts that two work directories hold the same run bit for bit, except for times."""
    one, other = (
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(workdir)]
        for workdir in (ours, theirs)
    )
    assert one == other and one
    found, expected = (json.loads((d / "evaluation.json").read_text()) for d in (ours, theirs))
    assert found["validation"] == expected["validation"]
    assert (ours / "samples.txt").read_text() == (theirs / "samples.txt").read_text()
    for which in ("last", "best"):
        a, b = (load(d, checkpoint=which, log=lambda _: None) for d in (ours, theirs))
        assert a.step == b.step
        jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def steps_on_disk(directory, run):
    workdir = workdir_of(directory, run) / "checkpoints"
    return sorted(int(path.name) for path in workdir.iterdir() if path.name.isdecimal())


@pytest.mark.slow
def test_a_fork_equals_the_same_run_alone(text, tmp_path):
    plan = of_lengths(tmp_path, base_of(text), [16, 24])
    for run in plan:
        train(tmp_path, plan, run)
    workdir = workdir_of(tmp_path, plan[1])
    trainer.train(plan[1].experiment, tmp_path / "alone")
    assert_same(workdir, tmp_path / "alone")
    assert steps_on_disk(tmp_path, plan[0]) == [8, 12, 16]  # 8 was the best until 12
    rows = results(tmp_path)
    assert [row["branch_step"] for row in rows] == [None, 12]
    assert [row["branch_of"] for row in rows] == [None, "num_steps=16"]
    assert [row["steps"] for row in rows] == [16, 24]
    assert rows[1]["training_flops"] == plan[1].cost.training_flops
    # By the clock of its own steps only: what stands before was another's time.
    found = json.loads((workdir / "evaluation.json").read_text())
    assert rows[1]["seconds"] == found["timings"]["total_seconds"]


@pytest.mark.slow
def test_each_run_of_a_chain_of_forks_equals_the_same_run_alone(text, tmp_path):
    plan = of_lengths(tmp_path, base_of(text), [16, 24, 40])
    for run in plan:
        train(tmp_path, plan, run)
        trainer.train(run.experiment, tmp_path / "alone" / run.name)
        assert_same(workdir_of(tmp_path, run), tmp_path / "alone" / run.name)
    assert [row["branch_step"] for row in results(tmp_path)] == [None, 12, 16]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["constant", "rsqrt", "wsd"])
def test_a_fork_that_was_stopped_and_resumed_equals_the_same_run_alone(name, text, tmp_path):
    """Its predecessor stopped before and after the step of the fork."""
    model = CausalCNNConfig(context_length=16, d_model=32, num_layers=2)
    fields = {"model": model, "optimizer__name": "muon", "schedule__name": name}
    plan = of_lengths(tmp_path, base_of(text, **fields), [18, 32])
    for stop in (8, 16):
        stopped = train(tmp_path, plan, plan[0], lambda step, stop=stop: step >= stop)
        assert stopped["stopped"]
    train(tmp_path, plan, plan[0])
    expected = 12 if name == "wsd" else 16  # 18 is no end of a dispatch of the longer run
    assert fork_step(plan[0].experiment) == expected
    train(tmp_path, plan, plan[1], lambda step: step >= 20)
    train(tmp_path, plan, plan[1])
    workdir = workdir_of(tmp_path, plan[1])
    forked = origin(workdir)
    assert (forked.run, forked.step) == ("num_steps=18", expected)
    trainer.train(plan[1].experiment, tmp_path / "alone")
    assert_same(workdir, tmp_path / "alone")


@pytest.mark.slow
def test_groups_fork_from_groups(text, tmp_path):
    base = base_of(text)
    plan = plan_in(tmp_path, grid(base, {"training.num_steps": [16, 24], "seed": [0, 1]}))
    short, long = plan[:2], plan[2:]
    for group in (short, long):
        for run in group:
            fork(tmp_path, plan, run)
        runs = {workdir_of(tmp_path, run): run.experiment for run in group}
        kept = {workdir: fork_step(experiment) for workdir, experiment in runs.items()}
        found = train_runs(runs, Request(keep_steps=kept))
        assert [each["vmapped_runs"] for each in found.values()] == [2, 2]
    for run, before in zip(long, short, strict=True):
        workdir = workdir_of(tmp_path, run)
        forked = origin(workdir)
        assert (forked.run, forked.step) == (before.name, 12)
        assert [each["devices"] for each in forked.environments] == [["cpu"] * 2]
        alone = trainer.train(run.experiment, tmp_path / "alone" / run.name)
        ours = json.loads((workdir / "evaluation.json").read_text())["validation"]["cross_entropy"]
        assert ours == pytest.approx(alone["validation"]["cross_entropy"], abs=1e-5)


def rows_of(experiment, last_step):
    """Returns the rows that a run logs, with their kinds and steps only."""
    every = experiment.evaluation.every_steps
    return [
        {"step": step, "kind": kind}
        for step in range(1, last_step + 1)
        for kind in ("train", "evaluation")[: 1 + (step % every == 0)]
    ]


def leave(directory, run, steps, rows=None):
    """Writes the metrics of a run and folders named like its checkpoints."""
    rows = rows_of(run.experiment, max(steps)) if rows is None else rows
    workdir = workdir_of(directory, run)
    for step in steps:
        (workdir / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
        (workdir / "checkpoints" / str(step) / "state").write_text(run.name)
    (workdir / "checkpoints" / "44.orbax-checkpoint-tmp").mkdir(exist_ok=True)
    (workdir / "data.json").write_text("{}")
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log_start(directory, run)


def test_a_fork_copies_what_the_run_itself_would_have_left(text, tmp_path):
    plan = of_lengths(tmp_path, base_of(text), [16, 24, 40])
    leave(tmp_path, plan[0], [8, 12, 16])
    assert fork(tmp_path, plan, plan[2]) == ("num_steps=16", 12)
    assert steps_on_disk(tmp_path, plan[2]) == [8, 12]  # 8 was the best until then
    workdir = workdir_of(tmp_path, plan[2])
    assert read_metrics(workdir) == rows_of(plan[2].experiment, 12)
    assert status(tmp_path, plan[2]) == "waiting"
    assert fork(tmp_path, plan, plan[2]) is None  # it has its own now
    leave(tmp_path, plan[1], [18, 20])
    assert fork(tmp_path, plan, plan[1]) is None
    shutil.rmtree(workdir)
    assert fork(tmp_path, plan, plan[2]) == ("num_steps=16", 12)  # 20 is not shared: >18


def test_a_row_that_exists_because_a_run_ends_is_not_copied(text, tmp_path):
    base = base_of(text, schedule__name="constant")
    plan = of_lengths(tmp_path, base, [20, 24])
    rows = rows_of(plan[1].experiment, 20)
    leave(tmp_path, plan[0], [20], [*rows, {"step": 20, "kind": "evaluation"}])
    assert fork(tmp_path, plan, plan[1]) == ("num_steps=20", 20)
    assert read_metrics(workdir_of(tmp_path, plan[1])) == rows


def test_a_run_starts_on_its_own_if_the_other_is_missing_or_under_way(text, tmp_path):
    plan = of_lengths(tmp_path, base_of(text), [16, 24])
    assert fork(tmp_path, plan, plan[1]) is None
    leave(tmp_path, plan[0], [10, 16])  # no end of a dispatch, and after the decay began
    assert fork(tmp_path, plan, plan[1]) is None
    leave(tmp_path, plan[0], [8])
    with lock(log_of(tmp_path, plan[0])):
        assert fork(tmp_path, plan, plan[1]) is None
    assert not workdir_of(tmp_path, plan[1]).exists()
    assert fork(tmp_path, plan, plan[1]) == ("num_steps=16", 8)


def test_a_run_that_logged_at_other_steps_is_not_forked(text, tmp_path):
    """Such a run was trained before the plan changed, and does not train again."""
    leave(tmp_path, of_lengths(tmp_path, base_of(text), [16, 24])[0], [8, 12])
    base = base_of(text)
    base.evaluation.every_steps = 4
    plan = of_lengths(tmp_path, base, [16, 24])
    assert fork(tmp_path, plan, plan[1]) is None
    assert not workdir_of(tmp_path, plan[1]).exists()


def test_a_killed_copy_leaves_no_work_directory(text, tmp_path, monkeypatch):
    plan = of_lengths(tmp_path, base_of(text), [16, 24])
    leave(tmp_path, plan[0], [8, 12])
    workdir = workdir_of(tmp_path, plan[1])
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.os, "rename", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            fork(tmp_path, plan, plan[1])
    assert not workdir.exists()
    assert fork(tmp_path, plan, plan[1]) == ("num_steps=16", 12)
    assert steps_on_disk(tmp_path, plan[1]) == [8, 12]
    assert not list(workdir.parent.glob("*.partial"))


@pytest.mark.parametrize(("per_call", "log_every"), [(4, 1), (7, 1), (6, 4)])
def test_a_fork_step_ends_a_dispatch_of_every_longer_run(per_call, log_every, text):
    fields = {"training__steps_per_call": per_call, "training__log_every_steps": log_every}
    longer, ends = base_of(text, training__num_steps=200, **fields), [0]
    while ends[-1] < 200:
        ends.append(end_of_dispatch(ends[-1], longer))
    for steps in (16, 37, 51, 64, 99):
        before_decay = steps - round(0.25 * steps)
        shared = [end for end in ends if end <= before_decay and end % log_every == 0]
        run = base_of(text, training__num_steps=steps, **fields)
        assert fork_step(run) == shared[-1] > 0
        assert all(end_of_dispatch(end, run) in ends for end in shared[:-1])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_that_decay_from_the_start_share_no_prefix(name, text, tmp_path):
    plan = of_lengths(tmp_path, base_of(text, schedule__name=name), [16, 24])
    assert [fork_step(run.experiment) for run in plan] == [0, 0]
    assert predecessors(plan) == {} and without_shared_steps(plan) == plan


def test_runs_that_differ_in_length_and_decay_only_share_a_prefix(text, tmp_path):
    base = base_of(text)
    runs_ = grid(base, {"training.num_steps": [40, 16, 24], "seed": [0, 1]})
    runs_ |= {"longer_fall": base_of(text, training__num_steps=24)}
    runs_["longer_fall"].schedule.decay_fraction = 0.5  # from step 12 on
    runs_["other_rate"] = base_of(text, training__num_steps=32, schedule__peak_learning_rate=2e-3)
    runs_["counts"] = tiny(model=NgramConfig(context_length=16), data=text)
    plan = plan_in(tmp_path, runs_)
    found = {name: before.name for name, before in predecessors(plan).items()}
    assert found == {
        "num_steps=24,seed=0": "num_steps=16,seed=0",
        "num_steps=40,seed=0": "num_steps=24,seed=0",
        "num_steps=24,seed=1": "num_steps=16,seed=1",
        "num_steps=40,seed=1": "num_steps=24,seed=1",
        "longer_fall": "num_steps=16,seed=0",
    }
    of_step = plan[0].cost.flops_per_step
    saved = total_flops(plan) - total_flops(without_shared_steps(plan))
    assert saved == of_step * (2 * (12 + 16) + 12)


def test_a_run_waits_for_the_run_that_it_forks_from(text, tmp_path):
    fields = {"training.num_steps": [24, 16], "schedule.final_fraction": [0.0, 0.1]}
    plan = plan_in(tmp_path, grid(base_of(text), fields))
    late, late_too, early, early_too = (run.name for run in plan)
    alone = dependencies(plan, {run.name: [run] for run in plan})
    assert alone == {early_too: {early}, late: {early}, late_too: {late}}
    # In groups of two, runs of equal length never wait for each other.
    assert dependencies(plan, {"long": plan[:2], "short": plan[2:]}) == {"long": {"short"}}
    assert dependencies(plan, {"long": plan[:2]}) == {}  # the short ones have ended


def test_horizons_are_whole_steps_of_every_size(text):
    sizes = grid(base_of(text), {"model.d_model": [32, 64]})
    found = horizons(sizes, [8_000, 16_000])
    assert list(found)[:2] == ["tokens=8000,d_model=32", "tokens=8000,d_model=64"]
    assert [e.training.num_steps for e in found.values()] == [62, 62, 125, 125]  # of 128 tokens
    with pytest.raises(UserError, match="are 8 steps of d_model=32; expected at least 50; give"):
        horizons(sizes, [1e3])
    with pytest.raises(UserError, match="two runs are called tokens=8000,d_model=32"):
        horizons(sizes, [8_000, 8_000])
