"""The bytes of a corpus do not depend on the workers, nor on one that is killed."""

import contextlib
import hashlib
import os
import random
import time
from pathlib import Path

import pytest

from lm_jax.data.preparation.config import NearDuplicatesConfig, PreparationConfig
from lm_jax.data.preparation.prepare import prepare
from lm_jax.errors import UserError
from lm_jax.reports.preparation_page import write_page
from tests.data.preparation.corpora import changed, prose, write_jsonl
from tests.launch.programs import launch, start

KILLING = "tests/data/preparation/killing.py"


def digests(output: Path) -> dict[str, str]:
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PreparationConfig:
    rng = random.Random(8)
    texts = [prose(rng) for _ in range(60)]
    copies = [changed(rng, text, 0.02) for text in texts[:20]]
    path = write_jsonl(tmp_path_factory.mktemp("raw") / "raw.jsonl", [*texts, *copies, *texts[:9]])
    stages = (
        "gopher_repetition, gopher_quality, exact_duplicates, near_duplicates, "
        f"{KILLING}:add_killing, repeated_lines, redaction"
    )
    near = NearDuplicatesConfig(bands=4)
    return PreparationConfig(
        path=str(path), stages=stages, tasks=4, near_duplicates=near, tokenizer="bpe:300"
    )


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("alone")
    (directory / "killed").touch()
    prepare(config, directory / "corpus", 1, write_page)
    return digests(directory / "corpus")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 8])
def test_bytes_do_not_depend_on_the_workers(config, alone, tmp_path, workers):
    (tmp_path / "killed").touch()
    prepare(config, tmp_path / "corpus", workers, write_page)
    assert digests(tmp_path / "corpus") == alone


@pytest.mark.slow
def test_a_killed_worker_runs_only_its_task_again(config, alone, tmp_path):
    prepare(config, tmp_path / "corpus", 2, write_page)
    assert (tmp_path / "killed").exists()
    assert digests(tmp_path / "corpus") == alone
    runs = sorted((tmp_path / "runs").read_text().split())
    assert runs.count("1") == 2
    # The other worker ends with its pool, and with it the task that it was at.
    assert set(runs) == {"0", "1", "2", "3"} and len(runs) <= 6


@pytest.mark.slow
def test_a_worker_that_is_killed_again_and_again_ends_the_preparation(config, tmp_path):
    path = write_jsonl(tmp_path / "raw.jsonl", ["a", "b", "c"])
    config = PreparationConfig(path=str(path), stages=f"{KILLING}:add_killing_always", tasks=3)
    with pytest.raises(UserError, match="a worker was killed 3 times in phase corpus, most likely"):
        prepare(config, tmp_path / "corpus", 2, write_page)


@pytest.mark.slow
def test_a_killed_program_takes_its_workers_along_and_goes_on(tmp_path):
    rng = random.Random(9)
    path = write_jsonl(tmp_path / "raw.jsonl", [prose(rng, 100) for _ in range(60)])
    arguments = (
        "--config=configs/data/english.py",
        f"--config.path={path}",
        "--config.stages=language, gopher_quality, exact_duplicates, redaction",
        "--config.tasks=8",
    )
    output = tmp_path / "killed" / "corpus"
    output.parent.mkdir()
    process = start("prepare_data", *arguments, f"--output={output}", "--workers=2")
    completions = tmp_path / "killed" / "corpus.partial/work/logs/documents_1/completions"
    while process.poll() is None and not (completions.is_dir() and any(completions.iterdir())):
        time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while _processes_with(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _processes_with(str(tmp_path))
    for directory in (output, tmp_path / "whole"):  # of one worker, in a fork: quick
        status, _, err = launch("prepare_data", *arguments, f"--output={directory}")
        assert status == 0, err
    assert digests(output) == digests(tmp_path / "whole")


def _processes_with(name: str) -> list[str]:
    """Returns the processes that have a file below a directory open."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(path).startswith(name):
                found.append(str(path))
    return found
