"""--output is refused before any work, and what a program writes replaces a file as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from launch import program
from lm_jax.errors import UserError
from tests.launch.programs import ROOT

SOURCES = {
    path: path.read_text() for top in ("launch", "lm_jax") for path in ROOT.glob(f"{top}/**/*.py")
}


def test_an_output_that_can_be_written_is_returned_and_not_made(tmp_path):
    assert program.output_file(None) is None and program.output_directory("") is None
    for path in (tmp_path / "out.tsv", tmp_path / "new" / "deep" / "out.tsv"):
        assert program.output_file(str(path)) == path
        assert program.output_directory(str(path)) == path
    assert program.output_directory(str(tmp_path)) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("kept")
    assert program.output_file(str(file)) == file
    for check, path, message in (
        (program.output_file, tmp_path, "is a directory; give the path of a file"),
        (program.output_file, "/dev/null", "is no regular file; give the path of a file"),
        (program.output_directory, file, "is a file; give the path of a directory"),
        (program.output_file, file / "out.tsv", f"{file} is a file, no directory"),
        (program.output_directory, file / "page", f"{file} is a file, no directory"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            check(str(path))
    monkeypatch.setattr("os.access", lambda *arguments: False)  # root may write everywhere
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written; give another path"):
        program.output_file(str(file))
    assert file.read_text() == "kept"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("call", ["program.log('text')", "None"])
def test_results_on_a_full_disk_are_one_line(call):
    code = f"from launch import program; program.run(lambda: {{'a': {call}}}, uses_jax=False)"
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        )
    expected = "error: No space left on device; make room and run the same command again\n"
    assert (found.returncode, found.stderr) == (1, expected)


def test_every_program_checks_its_output_first():
    found = {path.stem: text for path, text in SOURCES.items() if '"output", None' in text}
    assert len(found) >= 4  # the flags are found at all
    for name, text in found.items():
        main = text[text.index("def main") :].split('"""', 2)[2]
        first = main.strip().splitlines()[:4]
        assert any("program.output_" in line for line in first), name


def test_files_that_are_read_later_are_written_whole():
    # Caches, checkpoints and forks write into a directory that is renamed at the end.
    elsewhere = ("lm_jax/data/", "lm_jax/runs/origin.py", "lm_jax/digests.py")
    elsewhere += ("lm_jax/training/checkpoint_handler.py",)
    in_place = {
        path.relative_to(ROOT).as_posix()
        for path, text in SOURCES.items()
        if ".write_text(" in text
    }
    assert {name for name in in_place if not name.startswith(elsewhere)} == set()
