import json
from pathlib import Path

import jax
import pytest

from lm_jax.data import TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.runs.train import train
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.training.profiler import Tracer, operation, parse_steps
from tests.experiments import tiny


@pytest.mark.parametrize(("text", "steps"), [("10-15", (10, 15)), ("7", (7, 7))])
def test_steps_are_a_range_or_one(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["", "15-10", "0-3", "a-b", "3-", "-3", "1-2-3"])
def test_other_steps_are_refused_in_one_line(text):
    with pytest.raises(UserError, match=f"--profile_steps={text}; expected FIRST-LAST"):
        parse_steps(text)


def test_operations_are_those_of_xla_without_their_numbers():
    xla = {"hlo_op", "hlo_module"}
    assert operation("dot.31", xla) == "dot" and operation("wrapped_add", xla) == "wrapped_add"
    assert operation("while.2", xla) is None and operation("end: dot.31", xla) is None
    assert operation("ThreadpoolListener::StartRegion", {"_ct"}) is None


def config():
    bytes_ = TokenizerConfig("byte")
    return tiny(data__tokenizer=bytes_, evaluation__every_steps=0, mesh="auto")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        patch.setattr("lm_jax.runs.recorder.inspect", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def profiled(tmp_path_factory, one_device):
    workdir = tmp_path_factory.mktemp("profiled") / "run"
    return workdir, train(config(), workdir, profile_steps=(7, 12))


@pytest.mark.slow
def test_whole_dispatches_are_traced(profiled):
    workdir, results = profiled
    assert results["profile"]["directory"] == str(workdir / "profile")
    assert results["profile"]["steps"] == [6, 15]  # in dispatches of 5
    (trace,) = (workdir / "profile").glob("plugins/profile/*/*.trace.json.gz")
    assert trace.stat().st_size > 0
    seconds = results["profile"]["seconds"]
    assert "dot" in seconds and all(value >= 0 for value in seconds.values())
    assert list(seconds.values()) == sorted(seconds.values(), reverse=True)


def test_a_trace_changes_no_bit(profiled, tmp_path):
    train(config(), tmp_path / "run")
    ours, theirs = (
        [row["loss"] for row in read_metrics(workdir) if row["kind"] == "train"]
        for workdir in (profiled[0], tmp_path / "run")
    )
    assert ours == theirs and len(ours) == 20


def test_the_report_says_where_the_time_went(profiled):
    workdir, results = profiled
    goodput = results["goodput"]
    assert goodput["steps"] > 0 and goodput["compiling"] > 0 and goodput["checkpoints"] > 0
    booked = sum(goodput.values()) - goodput["share"]
    assert booked <= results["timings"]["total_seconds"] + 1e-6
    assert json.loads((workdir / "evaluation.json").read_text())["goodput"] == goodput
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "Wall time by activity" in page and "waiting for input" in page
    assert "operations in steps 6 to 15" in page


def test_steps_that_will_not_be_taken_are_refused(profiled, tmp_path):
    with pytest.raises(UserError, match="takes no step"):
        train(config(), profiled[0], profile_steps=(1, 2))
    with pytest.raises(UserError, match="this run takes 20"):
        train(config(), tmp_path / "run", profile_steps=(10, 21))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="goes on after 15"):
        Tracer(lambda state, batches: (state, {}), Path("profile"), (10, 15), done=15)
