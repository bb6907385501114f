"""Clocks that jump and writes that wait or fail, as drills bring them about."""

import errno
import json
import subprocess
import sys
import time

import pytest

from lm_jax.config.experiment import Experiment
from lm_jax.data import DataConfig
from lm_jax.errors import UserError
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.runs.drills.clock import Jump, jump
from lm_jax.runs.drills.report import applies
from lm_jax.runs.drills.surroundings import copied_data
from lm_jax.runs.drills.write_faults import WriteFault

_WRITES_TWICE = """
import json, sys, time
from pathlib import Path
from lm_jax.runs.drills import write_faults
folder, outside, fault = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
write_faults.begin(fault)
for path in (outside, folder / "a", folder / "b", folder / "b", folder / "c", outside):
    try:
        started = time.monotonic()
        path.write_text("x")
        print("written", time.monotonic() - started)
    except OSError as error:
        print(error.errno)
"""


def _outcomes(tmp_path, program=_WRITES_TWICE, **fields):
    """Returns what a program printed, and the log; without one, of six writes.

    They are to files outside, a, b, b, c, outside.
    """
    folder = tmp_path / "folder"
    folder.mkdir()
    plain = WriteFault(
        folder=str(folder), pattern="b", skip=0, error=0, lasts=False, seconds=0, log=""
    )
    fault = {**plain, "log": str(tmp_path / "log"), **fields}
    command = [sys.executable, "-c", program, folder, tmp_path / "x", json.dumps(fault)]
    found = subprocess.run(command, capture_output=True, text=True)
    if "cannot be made to fail" in found.stderr:
        pytest.skip("needs Linux 5.5")
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines(), (tmp_path / "log").read_text().split()


def test_the_chosen_write_fails_and_no_other(tmp_path):
    lines, log = _outcomes(tmp_path, skip=3, error=errno.EIO)
    assert [line.split()[0] for line in lines] == [
        *["written"] * 3,
        str(errno.EIO),
        *["written"] * 2,
    ]
    # Each file is made and written; closing it writes once more.
    assert log == ["a", "a", "b", "b", "b", "!b", "b", "c", "c"]


def test_a_full_disk_refuses_all_later_writes_of_its_folder(tmp_path):
    lines, _ = _outcomes(tmp_path, error=errno.ENOSPC, lasts=True)
    full = str(errno.ENOSPC)
    assert [line.split()[0] for line in lines] == [
        "written",
        "written",
        full,
        full,
        full,
        "written",
    ]


_MAKES_AND_RENAMES = """
import json, os, sys
from pathlib import Path
from lm_jax.runs.drills import write_faults
folder, _, fault = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
(folder / "a").write_text("x")
write_faults.begin(fault)
os.chdir(folder)
inside = os.open(folder, os.O_RDONLY)
def rename_within(source, target):
    os.rename(source, target, src_dir_fd=inside, dst_dir_fd=inside)
for act, *names in (
    (os.mkdir, folder / "d"), (os.mkdir, "e"), (os.replace, "a", folder / "b"), (open, "b"),
    (rename_within, "b", "c"), (os.makedirs, "f/g"), (os.listdir, "."), (os.unlink, "c"),
):
    try:
        act(*names)
        print("done")
    except OSError as error:
        print(error.errno)
"""


def test_making_a_directory_and_renaming_fail_as_writing_does(tmp_path):
    lines, log = _outcomes(tmp_path, _MAKES_AND_RENAMES, pattern="", error=0)
    assert lines == ["done"] * 8 and log == ["d", "e", "b", "c", "f", "f/g"]
    for number, name in enumerate(log):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines, log = _outcomes(folder, _MAKES_AND_RENAMES, pattern="", skip=number, error=errno.EIO)
        assert str(errno.EIO) in lines and f"!{name}" in log


def test_each_write_in_the_folder_waits(tmp_path):
    lines, _ = _outcomes(tmp_path, seconds=0.05)
    seconds = [float(line.split()[1]) for line in lines]
    assert min(seconds[1:5]) >= 0.05


def test_the_clock_jumps_and_monotonic_time_does_not(monkeypatch):
    monkeypatch.setattr(time, "time", time.time)  # restored at the end
    monkeypatch.setattr(time, "time_ns", time.time_ns)
    before, steady = time.time(), time.monotonic
    jump([Jump(0, 7200), Jump(0, -3600), Jump(1e6, 1e9)])
    assert time.time() - before == pytest.approx(3600, abs=600)
    assert time.time_ns() / 1e9 - before == pytest.approx(3600, abs=600)
    assert time.monotonic is steady


def test_data_is_attacked_in_a_copy(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a text")
    experiment = Experiment(
        model=TransformerConfig(), data=DataConfig(source="files", path=str(tmp_path / "texts"))
    )
    (tmp_path / "site").mkdir()
    copy = copied_data(experiment, tmp_path / "site")
    assert (copy / "a.txt").read_text() == "a text" and tmp_path / "site" in copy.parents
    assert applies("data", experiment)


def test_data_that_no_file_holds_is_not_attacked(tmp_path):
    experiment = Experiment(model=TransformerConfig())
    assert not applies("data", experiment) and applies("kill", experiment)
    with pytest.raises(UserError, match="the attack `data` changes files"):
        copied_data(experiment, tmp_path)
