"""Progress of longer work: a bar on a terminal, a line now and then in a log file."""

import re
from types import SimpleNamespace

import pytest

from lm_jax import progress
from lm_jax.data.readers import texts_in


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


def work(clock, seconds, step):
    clock.now = 100.0
    for second in progress.shown(range(seconds), seconds, "working"):
        clock.now = 100.0 + second * step


def test_a_log_file_has_a_line_every_ten_seconds_and_none_for_short_work(clock, capsys):
    work(clock, 9, 1.0)
    assert capsys.readouterr().err == ""
    work(clock, 35, 1.0)
    assert capsys.readouterr().err == "11/35: working\n21/35: working\n31/35: working\n"


def test_a_terminal_has_a_bar_after_two_seconds(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    work(clock, 10, 0.1)
    assert capsys.readouterr().err == ""
    work(clock, 10, 1.0)
    printed = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "/10" in printed and "working" in printed


def test_reading_a_folder_shows_how_many_files_were_read(clock, capsys, tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.txt").write_text(f"text {number}")
    stepping = iter(range(10_000))
    progress.time.monotonic = lambda: float(next(stepping))
    assert len(texts_in(str(tmp_path)).train) == 40
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.endswith(f": reading {tmp_path}") for line in lines)
    assert lines[0].startswith("9/40") and lines[3].startswith("39/40")
