"""Processes that run several at a time: their shares, dependencies, stops and failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_jax.errors import UserError
from lm_jax.sweeps import local_executor
from tests.launch.programs import ROOT


def python(code):
    return [sys.executable, "-S", "-c", code]


def run(tmp_path, commands, processes=1, stop=lambda: False, dependencies=None):
    """Returns (name, exit status, names still running) of each command, in the order of ending."""
    outcomes = []
    local_executor.run_all(
        commands,
        {name: tmp_path / f"{name}.log" for name in commands},
        local_executor.shares(processes),
        stop,
        lambda *outcome: outcomes.append(outcome),
        dependencies or {},
    )
    return outcomes


def test_each_process_has_its_log_and_its_status(tmp_path):
    commands = {"a": python("print('said')"), "b": python("import sys; sys.exit('error: no')")}
    (tmp_path / "a.log").write_text("before\n")
    assert run(tmp_path, commands) == [("a", 0, []), ("b", 1, [])]
    assert (tmp_path / "a.log").read_text() == "before\nsaid\n"
    assert (tmp_path / "b.log").read_text() == "error: no\n"


def test_two_processes_run_at_a_time_each_on_its_cores(tmp_path):
    """Each waits until the other has started, so neither would end if they did not overlap."""
    code = (
        "import json, os, pathlib, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "(place / '{0}').write_text(json.dumps(sorted(os.sched_getaffinity(0))))\n"
        "while not (place / '{1}').exists(): time.sleep(0.01)\n"
    )
    before = os.sched_getaffinity(0)
    commands = {"a": python(code.format("a", "b")), "b": python(code.format("b", "a"))}
    outcomes = run(tmp_path, commands, processes=2)
    assert sorted((name, status) for name, status, _ in outcomes) == [("a", 0), ("b", 0)]
    cores = [json.loads((tmp_path / name).read_text()) for name in "ab"]
    assert len(cores[0]) == len(cores[1]) == max(len(before) // 2, 1)
    assert len(before) == 1 or not set(cores[0]) & set(cores[1])
    assert os.sched_getaffinity(0) == before


def test_a_process_waits_for_its_dependencies_while_others_run(tmp_path):
    fails = "import sys, time; time.sleep(0.5); sys.exit(1)"
    commands = {"c": python(""), "b": python(""), "a": python(fails), "d": python("")}
    outcomes = run(tmp_path, commands, 2, dependencies={"c": {"b"}, "b": {"a", "of another time"}})
    ended = [name for name, *_ in outcomes]
    assert sorted(ended) == ["a", "b", "c", "d"] and ended.index("d") < ended.index("a")
    assert ended.index("a") < ended.index("b") < ended.index("c")


def test_a_stop_reaches_running_processes_and_starts_no_other(tmp_path):
    waits = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75));"
        "print(1, flush=True); time.sleep(60)"
    )
    log = tmp_path / "a.log"

    def stop():
        return log.exists() and log.read_text() == "1\n"

    assert run(tmp_path, {"a": python(waits), "b": python("")}, stop=stop) == [("a", 75, [])]
    assert not (tmp_path / "b.log").exists()


def test_processes_end_when_their_parent_is_killed(tmp_path):
    child = (
        f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r});"
        "from lm_jax.sweeps.local_executor import stop_with_parent;"
        "stop_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path;"
        "from lm_jax.sweeps import local_executor as local;"
        f"local.run_all({{'a': {python(child)!r}}}, {{'a': Path({str(tmp_path / 'log')!r})}},"
        "local.shares(1), lambda: False, print)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    pid = int(wait_for_text(tmp_path / "log"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid):
    """Returns whether a process runs; a zombie, which no parent waited for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_for_text(path):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} stays empty")


def test_an_error_in_the_parent_leaves_no_process_behind(tmp_path):
    def fails(*_):
        raise OSError("the disk is full")

    code = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    ends = f"import os, time\nwhile not os.path.getsize({str(tmp_path / 'a')!r}): time.sleep(0.01)"
    commands = {"a": python(code), "b": python(ends)}
    logs = {name: tmp_path / name for name in commands}
    shares = [local_executor.Share(None, None), local_executor.Share(None, None)]
    with pytest.raises(OSError, match="the disk is full"):
        local_executor.run_all(commands, logs, shares, lambda: False, fails)
    assert not is_alive(int((tmp_path / "a").read_text()))


def test_gpus_are_divided_and_not_shared(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert [share.gpus for share in local_executor.shares(2)] == ["3,5", "6,7"]
    with pytest.raises(UserError, match="--processes=5, but there are 4 GPUs"):
        local_executor.shares(5)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert [share.gpus for share in local_executor.shares(2)] == [None, None]


def test_more_processes_than_cores_get_one_core_each():
    some = sorted(os.sched_getaffinity(0))
    found = local_executor.shares(2 * len(some))
    assert [share.cores for share in found] == [(core,) for core in [*some, *some]]
