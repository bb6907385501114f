import dataclasses
import os

import pytest

from lm_jax.data import (
    DataConfig,
    TokenizerConfig,
    load_held_out,
    pipeline,
    prepare,
    save_held_out,
    unchanged_files,
)
from lm_jax.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(unchanged_files, "_RECENT", 0)
    (tmp_path / "texts").mkdir()
    for number in range(12):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number} of twelve")
    return tmp_path


def config(folder, **fields):
    return DataConfig(
        source="files",
        path=str(folder / "texts"),
        cache_directory=str(folder / "cache"),
        tokenizer=TokenizerConfig("byte"),
        **fields,
    )


def read_again(monkeypatch):
    """Counts how often files are read from now on."""
    reads = []
    read = pipeline._read
    monkeypatch.setattr(pipeline, "_read", lambda *a: reads.append(1) or read(*a))
    return reads


def test_files_that_did_not_change_are_not_read_again(folder, monkeypatch):
    first = prepare(config(folder))
    reads = read_again(monkeypatch)
    again = prepare(config(folder))
    assert not reads and again.description == first.description
    assert again.train.tokens.tolist() == first.train.tokens.tolist()


def test_a_text_of_the_same_length_with_the_old_time_is_read(folder, monkeypatch):
    first = prepare(config(folder))
    path = folder / "texts" / "3.txt"
    before = path.stat()
    path.write_text(path.read_text().replace("3", "9"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    reads = read_again(monkeypatch)
    assert prepare(config(folder)).description["sha256"] != first.description["sha256"]
    assert reads


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "texts" / "new.txt").write_text("one more"),
        lambda folder: (folder / "texts" / "3.txt").unlink(),
        lambda folder: (folder / "texts" / "3.txt").rename(folder / "texts" / "x.txt"),
    ],
)
def test_a_file_more_or_less_or_of_another_name_is_noticed(folder, monkeypatch, change):
    prepare(config(folder))
    change(folder)
    reads = read_again(monkeypatch)
    prepare(config(folder))
    assert reads


def test_other_fields_are_other_data(folder, monkeypatch):
    prepare(config(folder))
    reads = read_again(monkeypatch)
    assert prepare(config(folder, split="tail")).description["split"].startswith("tail")
    assert reads


def test_what_decides_batches_alone_is_no_reason_to_read(folder, monkeypatch):
    mixed = {"sources": f"one={folder}/texts", "path": ""}
    prepare(dataclasses.replace(config(folder), **mixed))
    reads = read_again(monkeypatch)
    of_batches = {"packing": "best_fit", "weights": "one=2", "epochs": "one=3"}
    prepare(dataclasses.replace(config(folder), **mixed, **of_batches))
    assert not reads


def test_what_changed_just_now_is_read_again(folder, monkeypatch):
    monkeypatch.setattr(unchanged_files, "_RECENT", 10**12)
    prepare(config(folder))
    reads = read_again(monkeypatch)
    prepare(config(folder))
    assert reads


def test_a_damaged_memory_or_cache_is_made_again(folder, monkeypatch):
    first = prepare(config(folder))
    (memory,) = (folder / "cache" / "unchanged").iterdir()
    for damage in ("", "[]", '{"key": 1}'):
        memory.write_text(damage)
        assert prepare(config(folder)).description == first.description
    (folder / "cache" / first.description["fingerprint"] / "train_tokens.npy").write_bytes(b"")
    assert prepare(config(folder)).description == first.description


@pytest.mark.parametrize("name", ["train_tokens.npy", "validation_tokens.npy"])
def test_a_flipped_bit_in_the_cache_is_mended_with_one_line(name, folder, capfd):
    first = prepare(config(folder))
    tokens = first.train.tokens.tolist(), first.validation.tokens.tolist()
    path = folder / "cache" / first.description["fingerprint"] / name
    content = path.read_bytes()
    path.unlink()  # `first` still maps the file
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 4, content[-1]]))
    capfd.readouterr()
    again = prepare(config(folder))
    assert (again.train.tokens.tolist(), again.validation.tokens.tolist()) == tokens
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"{path.parent}: {name} is damaged: its digest differs; it is prepared anew"
    assert path.read_bytes() == content
    prepare(config(folder))
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()), "train_tokens.npy changed"),
        (lambda path: os.utime(path, ns=(0, 0)), "train_tokens.npy changed"),
        (lambda path: path.unlink(), "train_tokens.npy was deleted"),
    ],
)
def test_a_cache_that_changes_under_its_reader_is_refused_and_made_anew(change, said, folder):
    first = prepare(config(folder))
    first.files.refuse_change()
    content = (first.files.directory / "train_tokens.npy").read_bytes()
    change(first.files.directory / "train_tokens.npy")
    with pytest.raises(UserError, match=said):
        first.files.refuse_change()
    again = prepare(config(folder))
    again.files.refuse_change()
    assert (first.files.directory / "train_tokens.npy").read_bytes() == content


def test_a_flipped_bit_in_a_held_out_copy_is_not_measured(folder):
    dataset = prepare(config(folder))
    save_held_out(config(folder), dataset, folder)
    copy = load_held_out(config(folder), folder, "validation")
    assert copy.tokens.tolist() == dataset.validation.tokens.tolist()
    path = folder / "validation" / "validation_tokens.npy"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 4, content[-1]]))
    assert load_held_out(config(folder), folder, "validation") is None


def test_files_that_are_gone_are_named(folder):
    prepare(config(folder))
    for path in (folder / "texts").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="is a folder without files"):
        prepare(config(folder))
