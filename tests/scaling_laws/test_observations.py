"""Which rows of a CSV become points."""

import pytest

from lm_jax.errors import UserError
from lm_jax.scaling_laws.observations import read_points

COLUMNS = {"n": "n", "loss": "loss"}
ROWS = """family,n,rate,loss
lstm,1000,1,3.0
lstm,1e3,2,2.0
cnn,1000,1,2.5
cnn,1000,2,nan
lstm,2000,1,1.9
lstm,2000,2,1.9
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "runs.csv").write_text(ROWS)
    return tmp_path / "runs.csv"


def test_best_per_keeps_the_lowest_loss_of_rows_with_equal_numbers_and_group(path):
    """A loss that is no number loses to one that is; the first of equal rows wins."""
    points = read_points(path, COLUMNS, group_column="family", best_per=["n"])
    assert points.lines.tolist() == [3, 4, 6]
    assert points["n"].tolist() == [1000, 1000, 2000]
    assert points["loss"].tolist() == [2.0, 2.5, 1.9]
    assert points.groups is not None and points.groups.tolist() == ["lstm", "cnn", "lstm"]


def test_best_per_looks_at_rows_that_pass_the_filters(path):
    points = read_points(path, COLUMNS, ["rate=1.0"], best_per=["n", "family"])
    assert points.lines.tolist() == [2, 4, 6]


def test_groups_without_any_loss_are_named(path):
    with pytest.raises(UserError, match="line 5: nan"):
        read_points(path, COLUMNS, ["rate=2", "family=cnn"], best_per=["n"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n,n,loss\n1,2,3\n", "has several columns n; rename all but one"),
        ("n,d,loss\n1e300,1e300,3\n", "C = 6 N D gives a c that is no positive number"),
    ],
)
def test_a_table_that_would_be_misread_is_refused(text, message, tmp_path):
    (tmp_path / "runs.csv").write_text(text)
    columns = {name: name for name in set(text.splitlines()[0].split(","))}
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "runs.csv", columns)
