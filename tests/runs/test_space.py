"""A run waits for space on a full disk."""

import errno
import resource
from pathlib import Path

import numpy as np
import pytest

from lm_jax.config.experiment import CheckpointConfig
from lm_jax.errors import is_full, names_path
from lm_jax.runs import space
from lm_jax.runs.lock import locked
from lm_jax.runs.space import has_space, train_with_space
from lm_jax.training.checkpoints import Checkpoints, finished_steps


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(space, "_POLL_SECONDS", 0.0)


def _fails_once(number):
    errors = [OSError(number, "said by the system", "file")]

    def train():
        if errors:
            raise errors.pop()
        return {"step": 40}

    return train


def test_a_run_goes_on_when_there_is_space(tmp_path, monkeypatch):
    answers, said = [False, False, True, True], []
    monkeypatch.setattr(space, "has_space", lambda directory: answers.pop(0))
    found = train_with_space(_fails_once(errno.ENOSPC), tmp_path, lambda: False, said.append)
    assert found == {"step": 40} and not answers
    assert len(said) == 2 and "waiting for space" in said[0]


def test_an_error_of_a_checkpoint_is_waited_for(tmp_path):
    config = CheckpointConfig()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def train():
        with Checkpoints(tmp_path / "checkpoints", config) as checkpoints:
            checkpoints.save(1, {"x": np.arange(100_000, dtype=np.float32)})
        return {"step": 1}

    def log(line):
        said.append(line)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    said: list[str] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert train_with_space(train, tmp_path, lambda: False, log) == {"step": 1}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "file too large" in said[0] and "waiting for space" in said[0]
    assert finished_steps(tmp_path / "checkpoints") == [1]


def test_another_error_is_not_waited_for(tmp_path):
    with pytest.raises(PermissionError):
        train_with_space(_fails_once(errno.EACCES), tmp_path, lambda: False, print)


def test_a_stop_ends_the_waiting(tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "30").mkdir(parents=True)
    monkeypatch.setattr(space, "has_space", lambda directory: False)
    found = train_with_space(_fails_once(errno.ENOSPC), tmp_path, lambda: True, lambda line: None)
    assert found["stopped"] and found["step"] == 30


def test_space_is_what_the_newest_checkpoint_takes_and_leaves_nothing(tmp_path):
    (tmp_path / "checkpoints" / "30").mkdir(parents=True)
    (tmp_path / "checkpoints" / "30" / "arrays").write_bytes(bytes(2**20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        found = []
        for limit in (2 * 2**20 - 1, 2 * 2**20):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            found.append(has_space(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_short_write_of_numpy_names_the_file_and_a_full_disk():
    with pytest.raises(OSError) as told, names_path(Path("run")):
        raise OSError("48645 requested and 4513 written")
    assert told.value.filename == "run" and is_full(told.value)


def test_a_full_disk_leaves_no_half_of_a_lock_and_names_it(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError) as told, locked([tmp_path]):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.value.filename == str(tmp_path / "running.json") and not list(tmp_path.iterdir())
