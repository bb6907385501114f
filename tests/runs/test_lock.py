"""A work directory belongs to one training at a time."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from lm_jax.errors import UserError
from lm_jax.runs import lock
from lm_jax.runs.lock import locked
from lm_jax.runs.train import train
from tests.experiments import tiny

HOLD = """
import pathlib, sys, time
from lm_jax.runs.lock import locked
with locked([pathlib.Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_is_refused_and_names_who_trains(tmp_path):
    run, experiment = tmp_path / "run", tiny(mesh="auto")
    with locked([run]), pytest.raises(UserError) as told:
        train(experiment, run)
    who = f"process {os.getpid()} on {socket.gethostname()} is training in {run}"
    assert str(told.value) == f"{who}; wait for it or stop it, or choose another --workdir"
    assert not list(tmp_path.iterdir())  # what was made for the lock is gone


def test_the_lock_of_a_killed_process_is_taken_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {process.pid} on "), locked([tmp_path]):
            pass
    finally:
        process.kill()
        process.communicate()
    with locked([tmp_path]):
        assert json.loads((tmp_path / "running.json").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_process_id_that_is_used_again_holds_nothing(tmp_path):
    with locked([tmp_path]):
        owner = json.loads((tmp_path / "running.json").read_text())
    (tmp_path / "running.json").write_text(json.dumps(owner | {"started": "1"}))
    with locked([tmp_path]):
        pass


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_DEAD_SECONDS", 1.0)


@pytest.mark.parametrize("content", ["elsewhere", ""])
def test_on_another_machine_a_heartbeat_tells(content, quick, tmp_path, capfd):
    path = tmp_path / "running.json"
    with locked([tmp_path]):
        owner = json.loads(path.read_text()) | {"machine": content, "host": content}
    path.write_text(json.dumps(owner) if content else "")  # just now
    with locked([tmp_path]):  # nobody touches it
        pass
    assert "waiting for up to 1 s for a sign of its life" in capfd.readouterr().err
    path.write_text(json.dumps(owner) if content else "")
    os.utime(path, (time.time() - 3600,) * 2)
    with locked([tmp_path]):
        pass
    assert not capfd.readouterr().err  # it was dead for long


def test_on_another_machine_a_live_process_is_not_robbed(quick, monkeypatch, tmp_path):
    with locked([tmp_path]):
        monkeypatch.setattr(lock, "_machine", lambda: "elsewhere")
        with pytest.raises(UserError, match="is training in"), locked([tmp_path]):
            pass


def test_one_of_many_who_come_at_once_gets_a_dead_lock(tmp_path):
    with locked([tmp_path]):
        owner = json.loads((tmp_path / "running.json").read_text())
    (tmp_path / "running.json").write_text(json.dumps(owner | {"started": "1"}))
    held, barrier = [], threading.Barrier(8)

    def come():
        try:
            barrier.wait()
            with locked([tmp_path]):
                held.append(1)
                barrier.wait()  # until all have tried
        except UserError:
            barrier.wait()

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [1]
