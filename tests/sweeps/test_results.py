"""The table of a sweep, built from runs of every status in its directory."""

import csv
import json
from pathlib import Path

import pytest

from lm_jax.config.serialization import dumps
from lm_jax.errors import UserError
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.scaling_laws.observations import known_columns, read_points
from lm_jax.sweeps.directory import (
    lock,
    log_failure,
    log_of,
    read_plan,
    refuse_another_sweep,
    status,
    workdir_of,
    write_plan,
)
from lm_jax.sweeps.plan import make_plan
from lm_jax.sweeps.results import (
    read_results,
    results,
    seconds_of,
    varied_fields,
    workdir_of_row,
    write_results,
)
from lm_jax.sweeps.search_space import Trial, grid, trials_of
from tests.experiments import tiny

ROOT = Path(__file__).parents[2]
STATES = ("finished", "failed", "stopped", "waiting")


@pytest.fixture
def directory(tmp_path):
    """A sweep with a run of each status, as real processes would leave them."""
    trials = {
        f"seed={seed}": Trial(tiny(seed=seed, model__d_model=32 * seed), {"budget": 2e9})
        for seed in range(1, 5)
    }
    plan = make_plan(trials_of(trials), lambda _: {"vocab_size": 257})
    write_plan(tmp_path, plan)
    finished, failed, stopped, _ = plan
    for run in (finished, failed, stopped):
        workdir = workdir_of(tmp_path, run)
        workdir.mkdir()
        (workdir / "config.json").write_text(dumps(run.experiment))
    say(tmp_path, failed, "error: of an attempt before\n--- begins: b\nerror: the loss is nan\n?\n")
    say(tmp_path, stopped, "--- begins: c\nerror: a full disk\n--- begins: c\nstep 3\n")
    workdir = workdir_of(tmp_path, finished)
    validation = {"cross_entropy": 3.25, "bits_per_character": 2.5}
    outcome = {"parameters": 7, "validation": validation, "timings": {"total_seconds": 11.0}}
    (workdir / "evaluation.json").write_text(json.dumps(outcome))
    machine = {"commit": "abc", "versions": {"jax": "1", "numpy": "2"}, "devices": ["cpu", "cpu"]}
    (workdir / "environment.json").write_text(json.dumps(machine))
    # Two processes: the first one took 5 seconds until the checkpoint from which the other went on.
    rows = [{"step": step, "kind": "train", "seconds": s} for step, s in ((1, 4), (2, 5), (3, 2))]
    rows += [{"step": s, "kind": "evaluation", "cross_entropy": x} for s, x in ((1, 3.0), (2, 4.0))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def say(directory, run, text):
    log_of(directory, run).write_text(text)


def test_a_row_has_the_status_of_its_run(directory):
    rows = results(directory)
    assert tuple(row["status"] for row in rows) == STATES
    assert [row["error"] for row in rows] == [None, "the loss is nan", "", ""]
    assert [row["status"] for row in results(directory, ["seed=3"])][2] == "running"


def test_a_finished_run_has_its_results(directory):
    row = results(directory)[0]
    expected = {"validation_loss": 3.25, "best_validation_loss": 3.0, "bits_per_character": 2.5}
    expected |= {"seconds": 16.0, "commit": "abc", "versions": "jax=1 numpy=2", "device": "cpu"}
    expected |= {
        "family": "transformer",
        "seed": 1,
        "model.d_model": 32,
        "budget": 2e9,
        "steps": 20,
    }
    assert row | expected == row
    (planned, *_) = read_plan(directory)
    assert row["training_flops"] == planned.cost.training_flops
    assert all(row["validation_loss"] is None for row in results(directory)[1:])


def test_a_fork_lists_the_versions_that_trained_its_prefix_too(directory):
    (planned, *_) = read_plan(directory)
    before = [{"commit": "abb", "devices": ["cpu"]}, {"commit": "abc", "versions": {"jax": "0"}}]
    fork = {"run": "1e6", "step": 2, "environments": before}
    workdir = workdir_of(directory, planned)
    (workdir / "branch.json").write_text(json.dumps(fork))
    write_results(directory, results(directory))
    row = read_results(directory / "results.csv")[0]
    expected = {"commit": "abb; abc", "versions": "jax=0; jax=1 numpy=2", "device": "cpu"}
    assert row | expected | {"branch_of": "1e6", "branch_step": 2} == row


def test_a_scaling_law_finds_its_columns_by_default(directory):
    path = write_results(directory, results(directory))
    known = known_columns(path)
    columns = {name: known[name] for name in ("n", "d", "c", "s", "loss")}
    points = read_points(path, columns, ["status=finished"])
    assert len(points) == 1 and points["loss"][0] == 3.25
    assert points["d"][0] == 20 * 8 * 32 and points["s"][0] == 20
    assert known["budget"] == "budget"
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert not list(directory.glob("*.partial"))


def test_results_survive_a_round_trip(directory):
    rows = results(directory)
    rows[0]["address"] = "12e4567890"  # a hash, and no number
    read = read_results(write_results(directory, rows))
    assert read == [{name: None if v == "" else v for name, v in row.items()} for row in rows]
    planned = read_plan(directory)[1]
    assert workdir_of_row(directory, read[1]) == workdir_of(directory, planned)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows; expected the results.csv of launch.sweep"),
        ("n,d,loss\n1,2,3\n", "has no column address, family, name, non_embedding_parameters"),
    ],
)
def test_another_table_is_refused(tmp_path, text, message):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(tmp_path / "results.csv")


def test_a_truncated_row_is_refused(directory):
    path = write_results(directory, results(directory))
    whole = path.read_text()
    for cut in (whole[:-40], whole[:-1]):
        path.write_text(cut)
        with pytest.raises(UserError, match="rows of another length than its header, or is cut o"):
            read_results(path)
    with pytest.raises(UserError, match="results.csv is cut off in its last line"):
        known_columns(path)


def test_columns_are_the_fields_that_differ_or_that_only_some_runs_have(directory):
    assert varied_fields(read_plan(directory)) == ["model.d_model"]
    models = {"gpt": tiny().model, "lstm": RecurrentConfig(context_length=32)}
    both = make_plan(trials_of(grid(tiny(), {"model": models})), lambda _: {"vocab_size": 257})
    assert {"model.cell", "model.num_heads"} <= set(varied_fields(both))
    assert "model.context_length" not in varied_fields(both)


def test_a_plan_survives_a_round_trip(directory):
    plan = read_plan(directory)
    write_plan(directory, plan)
    assert read_plan(directory) == plan
    with pytest.raises(UserError, match="holds no sweep: there is no sweep.json"):
        read_plan(directory / "runs")
    (directory / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="sweep.json holds no runs"):
        read_plan(directory)
    (directory / "sweep.json").write_text('{"a": {"address": "b"}}')
    with pytest.raises(UserError, match="sweep.json: run .a.: it holds no labels; restore it"):
        read_plan(directory)


def test_a_directory_of_other_files_or_another_sweep_is_refused(directory, tmp_path_factory):
    trials = trials_of({"other": tiny(seed=9)})
    with pytest.raises(UserError, match=r"holds another sweep \(seed=1, ...\), of which this one"):
        refuse_another_sweep(directory, trials)
    with pytest.raises(UserError, match="holds no sweep"):
        refuse_another_sweep(directory / "runs", trials)
    same = {run.name: Trial(run.experiment) for run in read_plan(directory)[:1]}
    refuse_another_sweep(directory, trials | same)
    refuse_another_sweep(tmp_path_factory.mktemp("empty"), trials)


def test_a_failure_that_a_process_could_not_log_is_logged_for_it(directory):
    run = read_plan(directory)[3]
    log_failure(directory, run, "its process ended with signal 9")
    assert status(directory, run) == "failed"
    assert results(directory)[3]["error"] == "its process ended with signal 9"


@pytest.mark.parametrize(
    ("file", "content", "status"),
    [
        ("evaluation.json", '{"parameters": 7, "validation": {}, "timings": 3}', "stopped"),
        ("evaluation.json", "[]", "stopped"),
        ("environment.json", '{"versions": 3, "devices": 4}', "finished"),
        ("metrics.jsonl", '{"step": 1, "kind": "train"}', "finished"),
        ("metrics.jsonl", '{"step": 1, "kind": "evaluation"}', "finished"),
    ],
)
def test_an_edited_file_of_a_run_does_not_hide_the_table(file, content, status, directory):
    (workdir_of(directory, read_plan(directory)[0]) / file).write_text(content)
    assert results(directory)[0]["status"] == status


def test_a_text_among_the_numbers_of_a_table_is_named(directory):
    path = write_results(directory, results(directory))
    path.write_text(path.read_text().replace("3.25", "x.25"))
    with pytest.raises(UserError, match="seed=1 has validation_loss 'x.25'; expected"):
        read_results(path)


def test_a_lock_keeps_others_out_until_it_ends(tmp_path):
    path = tmp_path / "lock"
    with lock(path):
        with pytest.raises(UserError, match="another process is at work"):
            with lock(path):
                pass
    with lock(path):
        pass


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/results").glob("*.csv")), ids=lambda path: path.stem
)
def test_results_of_earlier_versions_are_read(path):
    """Some were written before runs could fork, so they lack `branch_of` and `branch_step`."""
    rows = read_results(path)
    assert {"name", "status", "validation_loss", "seconds"} <= set(rows[0])
    assert all(isinstance(row["address"], str) for row in rows)
    known = known_columns(path)
    points = read_points(path, {name: known[name] for name in "ndc"}, ["status=finished"])
    assert len(points) == sum(row["status"] == "finished" for row in rows)


@pytest.mark.parametrize("key", ["vmapped_runs", "fan"])
def test_a_vmapped_run_has_its_share_of_the_seconds(key):
    """Results of earlier versions call the number of runs trained together `fan`."""
    metrics = [{"kind": "train", "seconds": s} for s in (2.0, 6.0, 1.0)]  # two processes
    assert seconds_of({"timings": {"total_seconds": 4.0}, key: 5}, metrics) == 2.0
