"""The program that prepares a corpus: its results, and its mistakes in one line."""

import json
import random

import pytest

from tests.data.preparation.corpora import prose, write_jsonl
from tests.launch.programs import launch, run

TINY = "--config=configs/data/tiny.py"


def test_the_program_prints_what_is_left_and_says_where_the_page_is(tmp_path):
    rng = random.Random(0)
    raw = write_jsonl(tmp_path / "raw.jsonl", [prose(rng) for _ in range(4)] + ["short"])
    arguments = (TINY, f"--output={tmp_path / 'corpus'}", f"--config.path={raw}")
    status, out, err = run("launch.prepare_data", *arguments)
    assert status == 0, err
    assert not err  # nothing of datatrove, and no bar for work of less than two seconds
    last = json.loads(out.splitlines()[-1])
    assert last["documents"] == 4
    assert "gopher_quality" in out and f"page: {tmp_path / 'corpus' / 'report.html'}" in out
    assert launch("prepare_data", *arguments)[0] == 0  # only reads what is there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the preparation with --config=FILE"),
        ([TINY], "path is empty: what should be read?"),
        ([TINY, "--config.path=none/*.txt"], "no file matches path 'none/*.txt'"),
        ([TINY, "--config.paht=x"], "no field paht; did you mean path?"),
        ([TINY, "--config.path=README.md", "--config.stages=polish"], "stages is 'polish'; expect"),
        ([TINY, "--config.path=README.md", "--config.tasks=0"], "tasks=0: "),
        ([TINY, "--config.path=README.md", "--workers=0"], "workers=0: "),
        (["--config=configs/quickstart.py"], "configs/quickstart.py has no get_preparation()"),
        (
            [TINY, "--config.path=README.md", "--config.cluster.executor=slurm"],
            "cluster.partition is empty",
        ),
    ],
)
def test_a_mistake_gets_one_line(tmp_path, arguments, message):
    status, _, err = launch("prepare_data", f"--output={tmp_path / 'corpus'}", *arguments)
    assert status == 1
    assert len(err.strip().splitlines()) == 1 and err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "corpus").exists()
