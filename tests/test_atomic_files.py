"""Files are written whole, and never through a link that somebody planted."""

import os
import stat

import pytest

from lm_jax.atomic_files import (
    make_directory,
    new_directory,
    open_atomically,
    open_to_append,
    write_bytes,
)
from lm_jax.config.experiment import CheckpointConfig
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError
from lm_jax.telemetry.json_files import write_json, write_text
from lm_jax.telemetry.run_log import RunLog
from lm_jax.training.checkpoints import Checkpoints
from tests.experiments import tiny


@pytest.fixture
def secret(tmp_path):
    """A file outside of the work directory, and a folder that holds another."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    yield tmp_path / "outside"
    assert (tmp_path / "outside" / "kept.txt").read_text() == "mine"
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("target", ["kept.txt", "new.txt"])
def test_a_link_is_replaced_and_its_target_stays(secret, target, tmp_path):
    path = tmp_path / "run" / "report.html"
    for write in (
        lambda: write_text(path, "page"),
        lambda: write_json(path, {}),
        lambda: write_bytes(path, b"page"),
    ):
        path.unlink(missing_ok=True)
        path.symlink_to(secret / target)
        write()
        assert path.is_file() and not path.is_symlink()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", ["samples.partial", ".samples.txt.partial", "samples.txt.partial"])
def test_a_link_with_the_name_of_an_unfinished_file_is_left_alone(secret, name, tmp_path):
    (tmp_path / "run" / name).symlink_to(secret / "kept.txt")
    write_text(tmp_path / "run" / "samples.txt", "text")
    assert (tmp_path / "run" / name).is_symlink()


def _write_text(path, content):
    with open_atomically(path) as file:
        file.write(content.decode())


def test_a_file_has_the_rights_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_nothing_is_left_of_what_fails(tmp_path):
    for whole in (open_atomically, new_directory):
        with pytest.raises(KeyError), whole(tmp_path / "made"):
            raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_bytes, _write_text])
def test_a_file_that_cannot_be_renamed_is_named_and_the_old_one_stays(write, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        write(tmp_path / "a", b"new")
    assert raised.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_directory_appears_when_it_is_whole(tmp_path):
    with new_directory(tmp_path / "made") as unfinished:
        (unfinished / "file").write_text("text")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made" / "file").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_nothing_is_added_behind_a_link(secret, tmp_path):
    link = tmp_path / "run" / "metrics.jsonl"
    for target in ("kept.txt", "new.txt"):
        link.unlink(missing_ok=True)
        link.symlink_to(secret / target)
        with pytest.raises(UserError, match="metrics.jsonl is a link, and files are written"):
            open_to_append(link)


def _log(run):
    RunLog(run, total_steps=1, tensorboard=True, shows=False)


def _checkpoints(run):
    Checkpoints(run / "checkpoints", CheckpointConfig())


def _tokenizer(run):
    config = tiny().data.tokenizer
    config.kind = "byte"
    train_tokenizer(config, []).save(run / "tokenizer")


@pytest.mark.parametrize("is_below", [False, True])
@pytest.mark.parametrize(
    ("name", "write"),
    [("tensorboard", _log), ("checkpoints", _checkpoints), ("tokenizer", _tokenizer)],
)
def test_nothing_is_written_into_a_linked_folder(secret, name, write, is_below, tmp_path):
    link = tmp_path / "run" / name
    if is_below:
        make_directory(link)
        link = link / "tokenizer.json"
    link.symlink_to(secret)
    with pytest.raises(UserError, match=f"{link} is a link"):
        write(tmp_path / "run")
