"""The text files of a run have digests."""

import json

import pytest

from lm_jax.errors import UserError
from lm_jax.telemetry.run_digests import (
    damaged_file,
    note_rows,
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
    note_rows(tmp_path, 2)
    refuse_damaged_rows(tmp_path, 2)
    _write(tmp_path, [*ROWS[:3], {**ROWS[3], "loss": 9.0}])  # later than what was saved
    refuse_damaged_rows(tmp_path, 2)
    for rows in ([{**ROWS[0], "loss": 2.5}, *ROWS[1:]], ROWS[1:], []):
        _write(tmp_path, rows)
        with pytest.raises(UserError, match="metrics.jsonl is damaged, or was edited"):
            refuse_damaged_rows(tmp_path, 2)


def test_a_run_killed_while_it_measures_its_last_state_again_goes_on(tmp_path):
    _write(tmp_path, ROWS[:3])
    note_rows(tmp_path, 2)
    _write(tmp_path, ROWS[:2])
    refuse_damaged_rows(tmp_path, 2)


@pytest.mark.parametrize("content", ["", "null", '{"metrics": 3}'])
def test_a_damaged_list_of_digests_tells_nothing(tmp_path, content):
    _write(tmp_path, ROWS)
    (tmp_path / "digests.json").write_text(content)
    refuse_damaged_rows(tmp_path, 2)
    assert not damaged_file(tmp_path, ["metrics.jsonl"])
