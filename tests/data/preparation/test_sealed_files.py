"""Files between phases that are damaged are found when they are read, and made anew."""

import dataclasses
import gc
import random
import shutil
import sys
from pathlib import Path

import pytest

from lm_jax.data.cache import Damaged
from lm_jax.data.preparation.config import (
    DecontaminationConfig,
    NearDuplicatesConfig,
    PerplexityConfig,
    PreparationConfig,
)
from lm_jax.data.preparation.executors import EXECUTORS, run_locally
from lm_jax.data.preparation.plan import LanguageModel
from lm_jax.data.preparation.prepare import prepare
from lm_jax.data.preparation.sealed_files import SealedFolder, SealedWriter, check, noted_damage
from lm_jax.errors import UserError
from lm_jax.reports.preparation_page import write_page
from lm_jax.runs import reference_model
from tests.data.preparation.corpora import changed, prose, write_jsonl
from tests.data.preparation.test_workers import digests

RNG = random.Random(5)
STAGES = "language, exact_duplicates, near_duplicates, repeated_lines, decontamination, redaction"
MODEL = LanguageModel(reference_model.fit, reference_model.load)


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content or b"\n")


def cut(path: Path, rng: random.Random) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: rng.randrange(size)] if size else b"\0")


def delete(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGES = (flip, cut, delete)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PreparationConfig:
    """Returns a preparation of which each stage drops something."""
    directory = tmp_path_factory.mktemp("raw")
    texts = [prose(RNG) for _ in range(12)]
    boilerplate = "\n".join(prose(RNG, 1) for _ in range(4))
    documents = [
        *texts,
        *texts[:3],
        *(changed(RNG, text, 0.02) for text in texts[4:7]),
        *(f"{prose(RNG)}\n{boilerplate}\n{prose(RNG)}" for _ in range(3)),
        f"{prose(RNG)} Write to jane@example.org.",
        "Das ist ein kurzer Text auf Deutsch, den hier niemand haben will.",
    ]
    held_out = write_jsonl(directory / "held_out.jsonl", [texts[8]])
    return PreparationConfig(
        path=str(write_jsonl(directory / "raw.jsonl", documents)),
        stages=STAGES,
        tasks=2,
        tokenizer="byte",
        validation_fraction=0.3,
        near_duplicates=NearDuplicatesConfig(bands=2, rows=2),
        decontamination=DecontaminationConfig(paths=str(held_out)),
        perplexity=PerplexityConfig(reference=str(held_out), keep=0.8),
    )


def stopped_after_each_phase(config: PreparationConfig, directory: Path) -> list[Path]:
    """Returns a directory of unfinished work for each phase, the last of which did all."""
    found: list[Path] = []
    names: list[str] = []

    def execute(phases, logs, workers, cluster, on_progress):
        names[:] = [phase.name for phase in phases]
        run_locally(phases[: len(found) + 1], logs, workers, cluster, on_progress)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTORS, "local", execute)
        while not names or len(found) < len(names):
            prepare(config, directory / "corpus", 1, write_page, language_model=MODEL)
            found.append(directory / f"after_{len(found) + 1}")
            shutil.copytree(directory / "corpus.partial", found[-1])
    return found


def attack(config: PreparationConfig, stopped: Path, names: list[Path], capsys) -> list[Path]:
    """Damages each file of unfinished work; returns those that were noticed, each with a line."""
    rng, noticed = random.Random(str(names[:1])), []
    prepare(config, stopped.parent / "whole", 1, write_page, language_model=MODEL)
    capsys.readouterr()
    for number, name in enumerate(names):
        output = stopped.with_name(f"{stopped.name}_{number}")
        shutil.copytree(stopped, f"{output}.partial")
        rng.choice(DAMAGES)(Path(f"{output}.partial") / name, rng)
        prepare(config, output, 1, write_page, language_model=MODEL)
        assert digests(output) == digests(stopped.parent / "whole"), name
        if line := capsys.readouterr().err:
            assert line.endswith("; the corpus is prepared anew\n") and line.count("\n") == 1
            noticed.append(name)
        shutil.rmtree(output)
    return noticed


def files_of(stopped: Path) -> list[Path]:
    """Returns the files of unfinished work that a later phase may read, by their names in it."""
    paths = (path.relative_to(stopped) for path in stopped.rglob("*") if path.is_file())
    mine = ("identity.json", "sources.json", "inputs.sha256")  # each call writes them
    return sorted(p for p in paths if p.name not in mine and "logs" not in p.parts)


def test_a_damaged_file_is_made_anew(config, tmp_path, capsys):
    last = stopped_after_each_phase(config, tmp_path)[-1]
    folders = {"dropped", "tallies", "documents", "tokens"}  # that the end reads
    by_folder = {name.parent: name for name in files_of(last) if folders & set(name.parts)}
    assert len(by_folder) > 25
    names = RNG.sample(sorted(by_folder.values()), 5)
    assert attack(config, last, names, capsys) == names


@pytest.mark.slow
def test_no_damage_between_phases_changes_a_corpus(config, tmp_path, capsys):
    config = dataclasses.replace(config, stages=f"perplexity, {config.stages}")
    before, attacked, noticed = set[Path](), set[Path](), set[Path]()
    for stopped in stopped_after_each_phase(config, tmp_path):
        names = [name for name in files_of(stopped) if name not in before]
        before |= set(names)
        by_folder = {name.parent: name for name in names}
        attacked |= set(by_folder.values())
        noticed |= set(attack(config, stopped, list(by_folder.values()), capsys))
    assert len(attacked) > 80
    assert attacked == noticed


def test_a_folder_of_datatrove_shows_damage(tmp_path):
    folder = SealedFolder(str(tmp_path / "work" / "found"), work=str(tmp_path / "work"))
    assert folder.list_files() == []
    with folder.get_output_file_manager(mode="wb") as files:
        files.write("a/0.dups", b"12")
        files.write("a/0.dups", b"345")
    assert folder.list_files() == ["a/0.dups"] and not folder.exists("a/1.dups")
    assert folder.open("a/0.dups").read() == b"12345"
    path = tmp_path / "work" / "found" / "a" / "0.dups"
    path.write_bytes(b"12346")
    with pytest.raises(Damaged, match="0.dups has another digest than it was written with"):
        folder.open("a/0.dups")
    path.unlink()
    assert folder.list_files() == ["a/0.dups"] and folder.exists("a/0.dups")
    with pytest.raises(Damaged, match="0.dups is missing"):
        folder.open("a/0.dups")
    assert noted_damage(tmp_path / "work") == f"{path} is missing"


def test_a_file_that_was_not_finished_has_no_digest(tmp_path):
    path = tmp_path / "work" / "found" / "0"
    with pytest.raises(KeyboardInterrupt), SealedWriter(tmp_path / "work", path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    with pytest.raises(Damaged, match="0 has no digest"):
        check(tmp_path / "work", path)


def test_a_file_that_cannot_be_opened_shows_one_error(tmp_path, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    (tmp_path / "work").write_text("a file, where a folder is expected")
    with pytest.raises(NotADirectoryError):
        SealedWriter(tmp_path / "work", tmp_path / "work" / "found" / "0")
    gc.collect()
    assert not unraisable


def test_damage_that_a_job_noted_makes_the_corpus_anew(config, tmp_path, capsys):
    last = stopped_after_each_phase(config, tmp_path)[-1]
    (last / "work" / "damaged").write_text("work/tallies/read/00000.json is missing")
    last.rename(tmp_path / "noted.partial")
    prepare(config, tmp_path / "noted", 1, write_page)
    found = capsys.readouterr().err
    assert found == "work/tallies/read/00000.json is missing; the corpus is prepared anew\n"


def test_damage_again_and_again_ends_a_preparation(config, tmp_path, monkeypatch):
    def execute(phases, logs, *_):
        raise Damaged(f"{logs} is missing")

    monkeypatch.setitem(EXECUTORS, "local", execute)
    with pytest.raises(UserError, match="changed 3 times while they were used; give another disk"):
        prepare(config, tmp_path / "corpus", 1, write_page)
