"""What a run does, told from work directories that were written by hand or by training."""

import json
import os
import subprocess
import sys
import time

import pytest

from lm_jax.errors import UserError
from lm_jax.runs.lock import locked
from lm_jax.runs.status import read_status
from lm_jax.runs.train import train
from lm_jax.telemetry.attempts import note_error, note_start, read_attempts
from tests.experiments import tiny


def rows(first, last, every, seconds_per_step, rate=500.0):
    """Rows of a start at `first`, 100 tokens a step."""
    return [
        {"step": step, "kind": "train", "loss": 4.0 - step / 1000, "tokens": 100 * step}
        | {"tokens_per_second": rate, "seconds": (step - first) * seconds_per_step}
        for step in range(first + every, last + 1, every)
    ]


@pytest.fixture
def run(tmp_path):
    """A run of 1,000 steps, started at 0 and again at 200, that logged step 400."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.json").write_text('{"training": {"num_steps": 1000}}')
    note_start(directory, 0)
    note_start(directory, 200)
    evaluation = {"step": 300, "kind": "evaluation", "cross_entropy": 3.5}
    found = [*rows(0, 200, 10, 9.0), *rows(200, 400, 10, 0.25), evaluation]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    return directory


def finish(run, **more):
    results = {"step": 1000, "validation": {"cross_entropy": 2.5}, "goodput": {"share": 0.75}}
    (run / "evaluation.json").write_text(json.dumps(results | more))


def test_a_running_run_and_what_is_left_of_it(run):
    with locked([run]):
        status = read_status("mine", run)
    assert (status.name, status.state, status.pid) == ("mine", "running", os.getpid())
    assert (status.step, status.num_steps, status.restarts) == (400, 1000, 1)
    assert status.training_loss == pytest.approx(3.6) and status.validation_loss == 3.5
    assert (status.unit, status.per_second) == ("tokens", 500)
    # The rows of the start before, which took 9 s a step, say nothing of the pace now.
    assert status.seconds_left == pytest.approx(600 * 0.25)
    assert status.goodput == pytest.approx((100 / 500) / 0.25)  # of 0.25 s a step 0.2 s are steps
    assert status.free_bytes > 0 and 0 <= status.row_age_seconds < 60 and not status.remark


def test_a_rate_of_less_than_three_seconds_of_steps_is_not_shown(run):
    for step, rate in ((229, None), (231, 1000)):  # 2.9 and 3.1 s since the start at 200
        row = {"step": step, "kind": "train", "loss": 1.0, "tokens": 100 * step, "seconds": 9.0}
        (run / "metrics.jsonl").write_text(json.dumps(row | {"tokens_per_second": 1000}) + "\n")
        status = read_status("", run)
        assert (status.per_second, status.unit) == (rate, "tokens" if rate else "")


def test_a_run_that_holds_nothing_is_stopped_failed_or_finished(run):
    status = read_status("", run)
    assert (status.state, status.seconds_left, status.remark) == ("stopped", None, "")
    note_error(run, "the loss of step 401\nis nan")
    status = read_status("", run)
    assert (status.state, status.remark) == ("failed", "the loss of step 401 is nan")
    note_start(run, 400)  # started once more
    assert read_status("", run).state == "stopped" and read_status("", run).restarts == 2
    assert read_status("", run, "exit status 3")[2:3] == ("failed",)
    finish(run, step=400)  # before it grew
    assert read_status("", run).state == "stopped"
    finish(run)
    status = read_status("", run, "of an earlier attempt")
    assert (status.state, status.step, status.goodput) == ("finished", 1000, 0.75)
    assert status.validation_loss == 2.5 and not status.remark
    finish(run, step=400, ended_early="no improvement")
    assert read_status("", run).state == "finished"
    assert read_status("", run.parent / "later").state == "waiting"


def test_a_count_based_run_is_one_step(run):
    (run / "evaluation.json").write_text('{"step": 1, "validation": {"cross_entropy": 2.5}}')
    assert read_status("", run)[2:5] == ("finished", 1, 1)


def test_a_killed_process_leaves_a_dead_run(run):
    hold = "import pathlib, sys, time; from lm_jax.runs.lock import locked\n"
    hold += "with locked([pathlib.Path(sys.argv[1])]): print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", hold, run], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"\n"
        assert read_status("", run)[2] == "running"
    finally:
        process.kill()
        process.communicate()
    before = sorted(run.iterdir())
    status = read_status("", run, "its process ended with signal 9")
    assert status.state == "dead" and f"process {process.pid} on " in status.remark
    assert sorted(run.iterdir()) == before  # it reads only
    finish(run)  # killed after its last write
    assert read_status("", run).state == "finished"


@pytest.mark.parametrize(("age", "state"), [(0, "running"), (59, "running"), (61, "dead")])
def test_on_another_machine_the_heartbeat_tells(age, state, run):
    with locked([run]):
        owner = json.loads((run / "running.json").read_text()) | {"machine": "m", "host": "far"}
    (run / "running.json").write_text(json.dumps(owner))
    os.utime(run / "running.json", (time.time() - age,) * 2)
    assert read_status("", run)[2] == state


def test_a_member_of_a_group_that_failed_is_not_running(run):
    note_start(run, 400)
    note_error(run, "it diverged")
    with locked([run]):
        assert read_status("", run)[2] == "failed"
        note_start(run, 400)
        assert read_status("", run)[2] == "running"


@pytest.mark.parametrize("content", [b"", b"\xff{", b"[" * 300, b"[1]"])
@pytest.mark.parametrize("name", ["config.json", "attempts.json", "evaluation.json"])
def test_a_damaged_file_costs_one_remark_and_hides_nothing_else(name, content, run):
    (run / name).write_bytes(content)
    status = read_status("", run)
    assert (status.state, status.step, status.validation_loss) == ("stopped", 400, 3.5)
    assert status.remark.count(name) == 1 and "\n" not in status.remark
    assert (status.num_steps is None) == (name == "config.json")
    assert (status.restarts is None) == (name == "attempts.json")
    if name == "attempts.json":
        with pytest.raises(UserError):
            read_attempts(run)
        note_start(run, 400)  # training goes on
        assert read_status("", run).restarts == 0


def test_damaged_rows_and_a_damaged_lock_are_survived(run):
    (run / "metrics.jsonl").write_bytes(b"\xff\n{}\n\n[")
    (run / "running.json").write_bytes(b"{")  # it is being written
    status = read_status("", run)
    assert (status.state, status.step, status.training_loss) == ("running", 200, None)
    assert status.remark == f"{run / 'metrics.jsonl'} holds 2 damaged lines"


@pytest.mark.parametrize("steps", [10**400, True, "x", None], ids=["huge", "true", "text", "null"])
def test_a_number_of_steps_that_is_none_leaves_the_time_left_unknown(steps, run):
    (run / "config.json").write_text(json.dumps({"training": {"num_steps": steps}}))
    status = read_status("", run)
    assert (status.num_steps, status.seconds_left, status.step) == (None, None, 400)


def test_a_row_whose_rate_is_no_number_of_this_world_has_no_rate(run):
    row = {"step": 400, "kind": "train", "tokens": 10**400, "tokens_per_second": 10**400}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert read_status("", run).per_second is None
    row["tokens_per_second"] = 5.0
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert read_status("", run).per_second is None


@pytest.mark.slow
def test_training_notes_its_starts_and_why_it_failed(tmp_path):
    # SGD at this rate overflows float32 within a few steps.
    wild = tiny(mesh="auto", optimizer__name="sgd", optimizer__clip_norm=0.0)
    wild.schedule.peak_learning_rate = 1e30
    with pytest.raises(UserError, match="the loss of step") as told:
        train(wild, tmp_path / "run")
    (attempt,) = read_attempts(tmp_path / "run")
    assert attempt["error"] == str(told.value) and attempt["step"] == 0
    assert attempt["pid"] == os.getpid() and 0 <= time.time() - attempt["started"] < 600
    status = read_status("", tmp_path / "run")
    assert (status.state, status.remark) == ("failed", str(told.value))
