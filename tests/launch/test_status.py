"""launch.status on a sweep of runs that were written by hand."""

import json
import re
import subprocess
import sys

import pytest

from lm_jax.errors import UserError
from lm_jax.reports.status_table import status_lines
from lm_jax.runs.lock import locked
from lm_jax.runs.status import read_status
from lm_jax.sweeps.find_runs import find_runs
from lm_jax.telemetry.attempts import note_error, note_start
from tests.launch.programs import ROOT, environment

SLOW = ("jax", "numpy", "scipy", "flax", "matplotlib")


def write_run(directory, last_step, error="", **results):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"training": {"num_steps": 10}}')
    note_start(directory, 0)
    rows = [{"step": n, "kind": "train", "loss": 1 / n} for n in range(1, last_step + 1)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if error:
        note_error(directory, error)
    if results:
        (directory / "evaluation.json").write_text(json.dumps(results))
    return directory


@pytest.fixture
def sweep(tmp_path):
    """A sweep of four runs: finished, failed by its own word, failed by its log, and waiting."""
    sweep = tmp_path / "rates"
    write_run(sweep / "runs" / "a-1", 10, step=10, validation={"cross_entropy": 0.5})
    write_run(sweep / "runs" / "b-2", 3, error="the loss of step 4 is nan")
    write_run(sweep / "runs" / "c-3", 4)
    (sweep / "logs").mkdir()
    log = "error: of an earlier attempt\n\n--- begins: c\nerror: exit status 3\n"
    (sweep / "logs" / "c-3.log").write_text(log)
    plan = {name: {"address": str(n)} for n, name in enumerate("abcd", 1)}
    (sweep / "sweep.json").write_text(json.dumps(plan))
    return sweep


def run_status(exit_status, *arguments, err=""):
    """Returns what Python prints with these arguments, in a process of its own."""
    command = [sys.executable, *arguments]
    process = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (exit_status, err)
    return process.stdout


def states(*patterns):
    found = [read_status(r.name, r.workdir, r.log_error) for r in find_runs(patterns)[0]]
    return {status.workdir.rpartition("/")[2]: status.state for status in found}


def test_it_needs_no_jax_and_its_status_says_that_a_run_failed(sweep):
    code = f"""
import atexit, runpy, sys
atexit.register(lambda: print(sorted(sys.modules.keys() & {set(SLOW)}), file=sys.stderr))
sys.argv = ["status", "--json", {str(sweep)!r}]
runpy.run_module("launch.status", run_name="__main__", alter_sys=True)
"""
    found = json.loads(run_status(1, "-c", code, err="[]\n"))
    assert {name: n for name, n in found["states"].items() if n} == {
        "failed": 2,
        "waiting": 1,
        "finished": 1,
    }
    shown = [(each["state"], each["step"], each["remark"]) for each in found["runs"]]
    assert shown == [
        ("failed", 3, "the loss of step 4 is nan"),
        ("failed", 4, "exit status 3"),
        ("waiting", 0, ""),
        ("finished", 10, ""),
    ]


def test_the_table_is_sorted_and_watching_ends_with_the_runs(sweep):
    (sweep / "sweep.json").write_text(json.dumps({n: {"address": a} for n, a in ("a1", "b2")}))
    out = run_status(1, "-m", "launch.status", str(sweep), "--watch=0.1")
    above, titles, failed, finished, remark, disk, _, last = out.splitlines()
    assert above == f"in {sweep}/runs/"
    assert titles.split() == ["run", "state", "step", "done", "train", "valid", "row"]
    assert failed.split()[:5] == ["b", "failed", "3/10", "30%", "0.3333"]
    assert finished.split()[:6] == ["a", "finished", "10/10", "100%", "0.1000", "0.5000"]
    assert remark == "b: the loss of step 4 is nan" and disk.startswith("left on disk: ")
    assert json.loads(last)["failed"] is True


def test_runs_are_found_in_folders_and_by_globs_once(sweep):
    write_run(sweep.parent / "alone", 2)
    expected = {"a-1": "finished", "b-2": "failed", "c-3": "failed", "d-4": "waiting"}
    assert states(str(sweep)) == expected
    everything = expected | {"alone": "stopped"}
    assert states(str(sweep.parent)) == states(f"{sweep.parent}/*", str(sweep)) == everything
    with locked([sweep.parent / "new"]):  # it prepares its data
        assert states(str(sweep.parent)) == everything | {"new": "running"}
    (sweep / "sweep.json").write_text("{")
    runs, notes = find_runs([str(sweep), str(sweep / "logs")])
    assert [run.workdir.name for run in runs] == ["a-1", "b-2", "c-3"]
    assert notes == [
        f"{sweep / 'sweep.json'} is damaged: runs that wait are not known",
        f"no run and no sweep in {sweep / 'logs'}",
    ]
    with pytest.raises(UserError, match="no run and no sweep in .*missing; give work directories"):
        find_runs([str(sweep / "missing")])


def test_long_names_lose_what_all_begin_with(sweep):
    status = read_status("", sweep / "runs" / "b-2")
    names = [f"runs/{'rate' * 30}={rate},seed=0" for rate in (0.1, 1000)]
    lines = status_lines([status._replace(name=name) for name in names])
    assert [line.split()[0] for line in lines[2:4]] == ["…0.1,seed=0", "…1000,seed=0"]


@pytest.mark.parametrize("length", [1, 30, 300])
def test_the_table_fits_a_terminal(length, sweep):
    status = read_status("", sweep / "runs" / "b-2")._replace(
        state="running",
        step=123_456,
        num_steps=10_000_000,
        training_loss=12345.6789,
        validation_loss=-10.12345,
        per_second=999_950.0,
        seconds_left=1e6,
        restarts=12,
        skipped_updates=1234,
        goodput=0.999,
        free_bytes=12_300_000_000_000,
        row_age_seconds=5000.0,
        remark="x\n" * 100,
    )
    names = [f"runs/{letter}{'n' * length}{letter}" for letter in "xy"]
    lines = status_lines([status._replace(name=name) for name in names])
    assert max(map(len, lines)) <= 100 and len({line[:5] for line in lines}) > 2
    row = re.sub(" +", " ", lines[2])
    assert row.endswith("123k/10.0M 1% 1.2e+04 -10.1235 1.00M 11.6d 12 1234 100% 83m")
    assert lines[-1] == "left on disk: 12,300.0 GB"


@pytest.mark.parametrize("name", ["../secret", "/tmp/secret", "a\0b"])
def test_a_sweep_of_others_leads_to_no_run_beyond_its_folder(name, tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({name: {"address": "ab"}}))
    with pytest.raises(UserError, match="sweep.json is damaged: runs that wait are not known"):
        find_runs([str(tmp_path)])
