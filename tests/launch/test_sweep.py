"""`launch.sweep` as real processes that are stopped, killed and resumed."""

import csv
import json
import signal
import time

import pytest

from tests.launch.programs import launch, start, wait_for_step

SWEEP = """
from lm_jax.sweeps.search_space import grid
from tests.experiments import tiny

def get_sweep():
    base = tiny(training__num_steps=NUM_STEPS, evaluation__every_steps=250)
    base.data.tokenizer.kind = "byte"
    base.evaluation.batch_size = 512
    base.checkpoint.every_steps = 50
    return grid(base, {"schedule.peak_learning_rate": [1e30, 1e-3]})
"""
BROKEN, SOUND = "peak_learning_rate=1e+30", "peak_learning_rate=0.001"


def write(directory, num_steps, text=SWEEP):
    path = directory / "sweep.py"
    path.write_text(text.replace("NUM_STEPS", str(num_steps)))
    return path


def sweep(config, directory, *more):
    status, last, err = launch("sweep", f"--config={config}", f"--sweepdir={directory}", *more)
    return status, json.loads(last) if last.startswith("{") else {}, err


def rows_of(directory):
    """Returns the rows of results.csv by name, without times."""
    with (directory / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row.pop("seconds") or 1) > 0 for row in rows)
    return {row["name"]: row for row in rows}


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    directory = tmp_path / "sweep"
    status, outcome, err = sweep(write(tmp_path, 10), directory)
    assert status == 1, err
    assert (outcome["runs"], outcome["finished"]) == (2, 1)
    assert "lower schedule.peak_learning_rate" in outcome["errors"][BROKEN]
    rows = rows_of(directory)
    assert rows[BROKEN]["status"] == "failed" and rows[BROKEN]["validation_loss"] == ""
    assert rows[BROKEN]["error"] == outcome["errors"][BROKEN]
    sound = rows[SOUND]
    assert sound["status"] == "finished" and 3 < float(sound["validation_loss"]) < 6
    assert float(sound["schedule.peak_learning_rate"]) == 1e-3
    (workdir,) = (directory / "runs").glob(f"{SOUND}-*")
    run = json.loads((workdir / "evaluation.json").read_text())
    assert float(sound["validation_loss"]) == run["validation"]["cross_entropy"]
    assert int(sound["parameters"]) == run["parameters"]
    trained = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    tokens = [row["tokens"] for row in trained if row["kind"] == "train"]
    assert int(sound["training_tokens"]) == tokens[-1]

    # A task of a cluster's array comes to the same, and says so where the table looks for it.
    status, _, err = launch("sweep", f"--sweepdir={directory}", "--run=0")
    assert status == 1 and rows[BROKEN]["error"] in err
    before = (directory / "results.csv").read_bytes()
    (directory / "results.csv").unlink()
    status, last, err = launch("sweep", f"--sweepdir={directory}", "--table")
    assert status == 0, err
    assert json.loads(last)["finished"] == 1
    assert (directory / "results.csv").read_bytes() == before


@pytest.mark.slow
def test_runs_of_one_shape_are_trained_together(tmp_path):
    directory = tmp_path / "sweep"
    status, outcome, err = sweep(write(tmp_path, 10), directory, "--together=2")
    assert status == 1 and outcome["finished"] == 1, err
    rows = rows_of(directory)
    assert rows[BROKEN]["status"] == "failed" and "loss of step" in rows[BROKEN]["error"]
    (workdir,) = (directory / "runs").glob(f"{SOUND}-*")
    run = json.loads((workdir / "evaluation.json").read_text())
    assert run["vmapped_runs"] == 2
    assert float(rows[SOUND]["validation_loss"]) == run["validation"]["cross_entropy"] < 6
    assert "2 runs together" in log_of(directory, BROKEN)


@pytest.mark.slow
def test_a_sweep_that_was_stopped_and_killed_resumes_to_the_same_table(tmp_path):
    config = write(tmp_path, 1000)
    status, _, err = sweep(config, tmp_path / "whole")
    assert status == 1, err
    directory = tmp_path / "broken"
    arguments = [f"--config={config}", f"--sweepdir={directory}"]

    process, workdir = begun(arguments, directory, 20)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert json.loads(out.splitlines()[-1])["stopped"] and out.count("\nstopping: ") == 1
    assert rows_of(directory)[SOUND]["status"] == "stopped"
    reached = max(int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdigit())
    assert 20 <= reached < 1000

    process, _ = begun(arguments, directory, reached + 20)
    process.kill()  # its run notices, saves and ends; that of the next command waits for it
    process.communicate(timeout=60)
    status, outcome, err = sweep(config, directory)
    assert status == 1 and outcome["finished"] == 1, err
    assert "resuming from the checkpoint" in log_of(directory, SOUND)
    assert rows_of(directory) == rows_of(tmp_path / "whole")


def begun(arguments, directory, step, name=SOUND):
    """Starts a sweep and returns its process when a run has reached a step, and its workdir."""
    process = start("sweep", *arguments)
    while not (found := list((directory / "runs").glob(f"{name}-*[0-9a-f]"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    wait_for_step(found[0], process, step)
    assert process.poll() is None, process.communicate()
    return process, found[0]


def log_of(directory, name):
    (path,) = (directory / "logs").glob(f"{name}-*")
    return path.read_text()


USER_ERROR = "from lm_jax.errors import UserError\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(): pass", "has no get_sweep()"),
        (f"{USER_ERROR}def get_sweep(): raise UserError('no rates')", "sweep.py: no rates"),
        (SWEEP.replace("tiny(", "tiny(model__num_heads=5, "), "model.d_model 32 is not"),
    ],
)
def test_a_mistaken_sweep_prints_one_line_and_writes_nothing(tmp_path, text, message):
    status, _, err = sweep(write(tmp_path, 10, text), tmp_path / "sweep")
    assert status == 1 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "sweep").exists()


HORIZONS = """
from lm_jax.sweeps.search_space import grid
from tests.experiments import tiny

def get_sweep():
    base = tiny(schedule__name="wsd", checkpoint__every_steps=50)
    base.data.tokenizer.kind = "byte"
    return grid(base, {"training.num_steps": LENGTHS})
"""


@pytest.mark.slow
def test_a_longer_run_forks_from_a_shorter_one_and_gives_the_same_table(tmp_path):
    """Kills the sweep while the longer run, which the plan has first, trains."""
    config = tmp_path / "sweep.py"
    whole = {}
    for length in (100, 1000):
        config.write_text(HORIZONS.replace("LENGTHS", f"[{length}]"))
        status, _, err = sweep(config, tmp_path / str(length))
        assert status == 0, err
        whole |= rows_of(tmp_path / str(length))
    config.write_text(HORIZONS.replace("LENGTHS", "[1000, 100]"))
    status, plan, err = sweep(config, tmp_path / "branches", "--plan")
    assert status == 0, err
    assert plan["training_flops"] == sum(int(row["training_flops"]) for row in whole.values())
    assert plan["training_flops_with_forks"] == plan["training_flops"] * 1020 // 1100

    arguments = [f"--config={config}", f"--sweepdir={tmp_path / 'branches'}"]
    process, _ = begun(arguments, tmp_path / "branches", 120, "num_steps=1000")
    process.kill()
    process.communicate(timeout=60)
    status, _, err = sweep(config, tmp_path / "branches")
    assert status == 0, err
    log = log_of(tmp_path / "branches", "num_steps=1000")
    assert "num_steps=1000 goes on from step 80 of num_steps=100\n" in log
    rows = rows_of(tmp_path / "branches")
    assert rows["num_steps=1000"].pop("branch_step") == "80"
    assert rows["num_steps=1000"].pop("branch_of") == "num_steps=100"
    for name, row in rows.items():
        expected = {column: value for column, value in whole[name].items() if column in row}
        assert {column: row[column] for column in expected} == expected
