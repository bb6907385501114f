"""The text files of a run have digests."""

import json
import random

import pytest
import xxhash

from lm_jax.errors import UserError
from lm_jax.telemetry.run_digests import (
    RowDigests,
    damaged_file,
    read_results,
    refuse_damaged_rows,
    write_noted,
)

ROWS = [
    {"step": 1, "kind": "train", "loss": 2.0},
    {"step": 2, "kind": "train", "loss": 1.5},
    {"step": 2, "kind": "evaluation", "cross_entropy": 1.75},
    {"step": 3, "kind": "train", "loss": 1.25},
]


def _write(workdir, rows):
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_changed_digit_of_a_result_is_noticed(tmp_path):
    write_noted(tmp_path, "evaluation.json", '{"step": 40}\n')
    assert read_results(tmp_path) == {"step": 40}
    (tmp_path / "evaluation.json").write_text('{"step": 41}\n')
    assert damaged_file(tmp_path, ["evaluation.json"]) == "evaluation.json"
    with pytest.raises(UserError, match="evaluation.json is damaged, or was edited"):
        read_results(tmp_path)
    (tmp_path / "evaluation.json").unlink()
    assert damaged_file(tmp_path, ["evaluation.json"]) == "evaluation.json"


def test_a_kill_between_a_digest_and_its_file_leaves_the_file_before(tmp_path):
    write_noted(tmp_path, "evaluation.json", "{}\n")
    before = (tmp_path / "evaluation.json").read_text()
    write_noted(tmp_path, "evaluation.json", '{"step": 1}\n')
    (tmp_path / "evaluation.json").write_text(before)
    assert not damaged_file(tmp_path, ["evaluation.json"])


def test_a_changed_row_is_noticed_up_to_the_step_that_was_saved(tmp_path):
    _write(tmp_path, ROWS[:3])
    RowDigests(tmp_path).note(2)
    refuse_damaged_rows(tmp_path, 2)
    _write(tmp_path, [*ROWS[:3], {**ROWS[3], "loss": 9.0}])  # later than what was saved
    refuse_damaged_rows(tmp_path, 2)
    for rows in ([{**ROWS[0], "loss": 2.5}, *ROWS[1:]], ROWS[1:], []):
        _write(tmp_path, rows)
        with pytest.raises(UserError, match="metrics.jsonl is damaged, or was edited"):
            refuse_damaged_rows(tmp_path, 2)


def test_a_run_killed_while_it_measures_its_last_state_again_goes_on(tmp_path):
    _write(tmp_path, ROWS[:3])
    RowDigests(tmp_path).note(2)
    _write(tmp_path, ROWS[:2])
    refuse_damaged_rows(tmp_path, 2)


@pytest.mark.parametrize("content", ["", "null", '{"metrics": 3}'])
def test_a_damaged_list_of_digests_tells_nothing(tmp_path, content):
    _write(tmp_path, ROWS)
    (tmp_path / "digests.json").write_text(content)
    refuse_damaged_rows(tmp_path, 2)
    assert not damaged_file(tmp_path, ["metrics.jsonl"])


def _whole(rows, step, is_again=False):
    """Returns the digest of rows, without the evaluation of a step that is measured again."""
    rows = [r for r in rows if not (is_again and (r["step"], r["kind"]) == (step, "evaluation"))]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return xxhash.xxh3_64(text.encode()).hexdigest()


def _noted(workdir):
    return json.loads((workdir / "digests.json").read_text())["metrics"]


def test_digests_of_new_rows_are_those_of_the_whole_file(tmp_path):
    rng, rows, digests = random.Random(0), [], RowDigests(tmp_path)
    for step in range(1, 60):
        new = [{"step": step, "kind": "train", "loss": rng.random()}] * rng.randint(0, 2)
        new += [{"step": step, "kind": "evaluation", "name": "é\u2028"}] * (rng.random() < 0.3)
        rows += new
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        if rng.random() < 0.5:
            if rng.random() < 0.2:
                digests = RowDigests(tmp_path)  # of a run that resumes
            digests.note(step)
            if rng.random() < 0.3:
                digests.note(step)
            assert _noted(tmp_path)[str(step)] == [_whole(rows, step), _whole(rows, step, True)]
    assert len(_noted(tmp_path)) > 20


@pytest.mark.parametrize("left", [ROWS[:0], ROWS[:1], ROWS[1:2]])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_digests_begin_anew_where_the_file_was_cut_or_replaced(tmp_path, left, is_replaced):
    digests = RowDigests(tmp_path)
    _write(tmp_path, ROWS[:3])
    digests.note(2)
    digests.note(3)  # whose rows are not there yet: all are counted
    if is_replaced:
        (tmp_path / "metrics.jsonl").rename(tmp_path / "before")
    rows = [*left, *({"step": step, "kind": "train", "loss": 1.0} for step in range(3, 9))]
    _write(tmp_path, rows)
    digests.note(8)
    assert _noted(tmp_path)["8"] == [_whole(rows, 8)] * 2


def test_rows_that_were_read_are_not_read_again(tmp_path):
    """The digest of a row that is changed behind the back of a run stays, so that it is found."""
    digests = RowDigests(tmp_path)
    _write(tmp_path, ROWS)
    digests.note(3)
    changed = [{**ROWS[0], "loss": 9.0}, *ROWS[1:]]
    _write(tmp_path, changed)
    digests.note(3)
    assert _noted(tmp_path)["3"][0] == _whole(ROWS, 3)
    with pytest.raises(UserError, match="damaged"):
        refuse_damaged_rows(tmp_path, 3)


def test_a_damaged_row_of_a_run_that_goes_on_is_found_later(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1\xff{"step": 2, "kind": "train"}\n')
    RowDigests(tmp_path).note(2)
    with pytest.raises(UserError, match="damaged"):
        refuse_damaged_rows(tmp_path, 2)


def test_a_step_of_more_digits_than_python_reads_is_the_oldest(tmp_path):
    _write(tmp_path, ROWS[:3])
    (tmp_path / "digests.json").write_text(json.dumps({"metrics": {"9" * 5000: ["0"]}}))
    RowDigests(tmp_path).note(2)
    assert list(json.loads((tmp_path / "digests.json").read_text())["metrics"])[-1] == "2"
