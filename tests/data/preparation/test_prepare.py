"""A preparation writes what its stages leave, says what they removed, and can be repeated."""

import gzip
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from lm_jax.data.preparation import prepare as prepare_module
from lm_jax.data.preparation.config import PreparationConfig
from lm_jax.data.preparation.documents import (
    WriteDocuments,
    read_tallies,
    split_sources,
    write_tally,
)
from lm_jax.data.preparation.prepare import prepare
from lm_jax.data.readers import texts_in
from lm_jax.errors import UserError
from lm_jax.reports.preparation_page import write_page
from tests.data.preparation.corpora import prose, write_jsonl

STAGES = "gopher_quality, exact_duplicates, redaction"
RNG = random.Random(0)
GOOD = [prose(RNG) for _ in range(20)]
GARBAGE = "buy now ! ! !"
SHORT = "Write to joe@example.org or else"
PERSONAL = prose(RNG) + " Write to jane@example.org."


def config_of(raw: Path, **fields) -> PreparationConfig:
    return PreparationConfig(**{"path": str(raw), "stages": STAGES, "tasks": 3, **fields})


def rows_of(output: Path) -> list[dict]:
    return [
        json.loads(line)
        for path in sorted((output / "documents").iterdir())
        for line in gzip.open(path, "rt")
    ]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("raw")
    write_jsonl(directory / "a.jsonl", [*GOOD[:15], GARBAGE, PERSONAL])
    write_jsonl(directory / "b.jsonl", [*GOOD[10:], f" {GOOD[0]}\n", "  ", SHORT])
    return directory


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("prepared") / "corpus"
    return output, prepare(config_of(raw), output, 1, write_page)


def test_the_stages_leave_what_is_good_once(prepared):
    output, _ = prepared
    rows = rows_of(output)
    texts = [row["text"] for row in rows]
    redacted = PERSONAL.replace("jane@example.org", "<email>")
    assert sorted(text.strip() for text in texts) == sorted([*GOOD, redacted])
    assert all(row.keys() == {"text", "id", "source"} for row in rows)
    by_id = {row["id"]: row["text"] for row in rows}
    assert by_id["a.jsonl:2"] == GOOD[1]


def test_the_manifest_holds_what_the_files_hold(prepared):
    output, manifest = prepared
    assert json.loads((output / "manifest.json").read_text()) == manifest
    assert not (output.parent / "corpus.partial").exists()
    assert {file["name"] for file in manifest["files"]} == {
        path.name for path in (output / "documents").iterdir()
    }
    for file in manifest["files"]:
        raw = (output / "documents" / file["name"]).read_bytes()
        texts = [json.loads(line)["text"] for line in gzip.decompress(raw).splitlines()]
        assert file["sha256"] == hashlib.sha256(raw).hexdigest()
        assert file["documents"] == len(texts)
        assert file["bytes"] == sum(len(text.encode()) for text in texts)


def test_the_statistics_say_what_was_removed_by_which_rule(prepared):
    statistics = json.loads((prepared[0] / "statistics.json").read_text())
    documents = {stage["name"]: stage["documents"] for stage in statistics["stages"]}
    assert documents == {
        "read": 29,
        "gopher_quality": 27,
        "exact_duplicates": 21,
        "redaction": 21,
    }
    rules = {rule["rule"]: rule for rule in statistics["rules"]}
    assert {name: rule["documents"] for name, rule in rules.items()} == {
        "blank": 1,
        "gopher_quality: gopher_short_doc": 2,
        "exact_duplicates": 6,
    }
    short = rules["gopher_quality: gopher_short_doc"]["examples"]
    shown = {row["excerpt"] for row in short}
    assert shown == {GARBAGE, SHORT.replace("joe@example.org", "<email>")}
    assert statistics["redacted"]["kinds"] == {"email": 1}
    for name in ("statistics.json", "report.html"):
        assert "@example" not in (prepared[0] / name).read_text()
    assert "<email>" in statistics["redacted"]["examples"]["email"][0]
    assert GARBAGE in (prepared[0] / "report.html").read_text()


def test_the_corpus_is_read_by_the_reader_of_experiments(prepared):
    output, manifest = prepared
    found = texts_in(str(output / "documents"))
    assert len(found.train) == manifest["total"]["documents"]


def test_the_same_call_reads_only_the_manifest(prepared, raw, monkeypatch):
    output, manifest = prepared
    monkeypatch.setattr("lm_jax.data.preparation.prepare.Plan", None)
    assert prepare(config_of(raw), output, 1, write_page) == manifest


def test_another_configuration_does_not_touch_the_corpus(prepared, raw):
    output, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    with pytest.raises(UserError, match="made by another configuration .stages differ.; give anot"):
        prepare(config_of(raw, stages="redaction"), output, 1, write_page)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_a_task_that_is_done_does_not_run_again(raw, tmp_path, monkeypatch, prepared):
    run = WriteDocuments.run
    tasks = []

    def failing(self, data, rank=0, world_size=1):
        tasks.append((self.directory.name, rank))
        if len(tasks) == 5:
            raise KeyboardInterrupt
        yield from run(self, data, rank, world_size)

    monkeypatch.setattr(WriteDocuments, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(config_of(raw), tmp_path / "corpus", 1, write_page)
    assert not (tmp_path / "corpus").exists()
    assert prepare(config_of(raw), tmp_path / "corpus", 1, write_page) == prepared[1]
    assert [task for task in tasks if tasks.count(task) > 1] == [tasks[4]] * 2


def test_a_text_that_changes_with_its_old_time_begins_a_preparation_anew(
    raw, tmp_path, monkeypatch, capsys
):
    given = shutil.copytree(raw, tmp_path / "raw")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(config_of(given), tmp_path / "corpus", 1, write_page)
    path = sorted(given.iterdir())[0]
    state = path.stat()
    path.write_bytes(path.read_bytes().replace(b"The", b"the", 1))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = prepare(config_of(given), tmp_path / "corpus", 1, write_page)
    said = capsys.readouterr().err
    assert said.endswith("was written since it was begun; the corpus is prepared anew\n")
    assert found["files"] == prepare(config_of(given), tmp_path / "new", 1, write_page)["files"]


@pytest.mark.parametrize("step", ["shutil.rmtree", "Path.unlink", "os.replace"])
def test_a_kill_at_the_very_end_leaves_a_corpus_to_be_renamed(
    raw, tmp_path, monkeypatch, prepared, step
):
    def killed(path, *arguments, **options):
        if Path(path).name in ("finished_work", "identity.json", "corpus.partial"):
            raise KeyboardInterrupt
        return act(path, *arguments, **options)

    owner, _, name = step.partition(".")
    act = getattr(getattr(prepare_module, owner), name)
    with monkeypatch.context() as patch:
        patch.setattr(f"lm_jax.data.preparation.prepare.{step}", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(config_of(raw), tmp_path / "corpus", 1, write_page)
    assert not (tmp_path / "corpus").exists()
    monkeypatch.setattr("lm_jax.data.preparation.prepare.Plan", None)  # nothing runs again
    assert prepare(config_of(raw), tmp_path / "corpus", 1, write_page) == prepared[1]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    names = {path.name for path in (tmp_path / "corpus").iterdir()}
    assert names == {path.name for path in prepared[0].iterdir()}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": "gopher_quality, polish"}, "stages is 'polish'; expected one of language, "),
        ({"stages": "redaction, redaction"}, "stages names redaction twice"),
        ({"tasks": 0}, "tasks is 0; expected"),
        ({"path": ""}, "path is empty"),
        ({"path": "none/*.txt"}, "no file matches path 'none/"),
        ({"language": "fr"}, "language is 'fr'; expected one of en, ja"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(raw, tmp_path, fields, message):
    config = config_of(raw, **fields)
    with pytest.raises(UserError, match=message):
        prepare(config, tmp_path / "corpus", 1, write_page)
    assert not list(tmp_path.iterdir())


def test_a_directory_of_something_else_is_refused(raw, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="holds no prepared corpus; give another directory"):
        prepare(config_of(raw), tmp_path, 1, write_page)
    assert (tmp_path / "mine").read_text() == "precious"


def test_the_rules_that_dropped_every_document_are_named(tmp_path):
    path = write_jsonl(tmp_path / "raw.jsonl", [GARBAGE, GARBAGE * 2])
    with pytest.raises(UserError, match="every document was dropped, of 2: 2 by gopher_quality: g"):
        prepare(config_of(path), tmp_path / "corpus", 1, write_page)
    assert [path.name for path in tmp_path.iterdir()] == ["raw.jsonl"]


def test_a_full_disk_is_reported_and_the_work_stays(raw, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lm_jax.data.preparation.documents.os.replace", full)
        with pytest.raises(UserError, match="the disk of .* is full; free some space"):
            prepare(config_of(raw), tmp_path / "corpus", 1, write_page)
    assert not (tmp_path / "corpus").exists()


def test_tasks_share_the_bytes_and_large_files_are_split(tmp_path):
    for name, size in (("a", 100), ("b", 300), ("c", 10), ("d", 390)):
        (tmp_path / name).write_text("x" * size)
    tasks = split_sources(str(tmp_path), 4)
    assert [[(source.name, source.part, source.parts) for source in task] for task in tasks] == [
        [("a", 0, 1), ("b", 0, 2)],
        [("b", 1, 2)],
        [("c", 0, 1), ("d", 0, 2)],
        [("d", 1, 2)],
    ]


def test_a_tally_that_a_killed_task_left_unfinished_is_not_counted(tmp_path):
    write_tally(tmp_path, "left_out", 0, {"blank": 2})
    unfinished = tmp_path / "tallies" / "left_out" / ".00001.json.0123456789ab.partial"
    unfinished.write_text("")
    assert read_tallies(tmp_path, "left_out") == [{"blank": 2}]
