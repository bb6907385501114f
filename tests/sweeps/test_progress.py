"""What a sweep says while it runs."""

import os
import signal

import pytest

from lm_jax.costs.run_cost import Cost
from lm_jax.sweeps import execute
from lm_jax.sweeps.plan import PlannedRun
from lm_jax.sweeps.progress import describe_best, describe_progress
from tests.experiments import tiny
from tests.sweeps.sweep_rows import row


@pytest.fixture
def plan():
    cost = Cost(2000, 1000, 100, 6400, 384_000, 8000)
    return [PlannedRun(name, name, tiny(seed=i), {}, cost) for i, name in enumerate("abcd")]


def rows(**losses):
    made = [row(n, validation_loss=losses.get(n)) | {"branch_step": None} for n in "abcd"]
    return [r | {"status": "finished" if r["validation_loss"] else "running"} for r in made]


def test_runs_of_one_process_are_counted_once(plan):
    head, *runs = describe_progress(plan, rows(a=2.5, b=2.25), ["a", "b"], 1, None)
    assert head.startswith("2 of 4 finished, 50% of the FLOPs, about")
    assert runs == ["  a, validation loss 2.5000", "  b, validation loss 2.2500"]


def test_a_run_alone_takes_one_line(plan):
    (line,) = describe_progress(plan, rows(a=2.5), ["a"], 1, None)
    assert line.startswith("1 of 4 finished") and line.endswith(": a, validation loss 2.5000")


def test_the_best_of_several_finished_runs_is_named():
    assert describe_best(rows(a=2.5, b=2.25)) == ["lowest validation loss: 2.2500, b"]
    assert describe_best(rows(a=2.5)) == []


def test_a_stop_is_told_once_and_before_the_runs_have_ended(tmp_path, monkeypatch):
    told: list[str] = []

    def run_all(commands, logs, shares, stop_requested, on_exit, dependencies):
        assert not stop_requested() and not told
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested() and stop_requested()
        assert told == ["stop"]

    monkeypatch.setattr(execute.local_executor, "run_all", run_all)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ignore, stop = lambda *_: None, lambda: told.append("stop")
        assert execute.execute(tmp_path, [], [], 1, [], ignore, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
