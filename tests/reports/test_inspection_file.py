"""A damaged `inspection.json` is named by its field, before anything is drawn."""

import copy
import json

import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.reports.inspection_file import read_inspection
from lm_jax.reports.png import png
from lm_jax.reports.sections import analysis_sections
from tests.reports.test_escaping import ANALYSIS

WHOLE = {
    **ANALYSIS,
    "boundary": {"probabilities": [[0.1]], "points": [[0.0, 1.0]], "labels": [1]},
    "filters": png(np.eye(2)),
}


def damaged(path, value):
    found = copy.deepcopy(WHOLE)
    part = found
    *parents, last = path
    for name in parents:
        part = part[name]
    part[last] = value
    return found


def test_a_whole_file_is_drawn(tmp_path):
    assert read_inspection(tmp_path) == {}
    (tmp_path / "inspection.json").write_text(json.dumps(WHOLE))
    found = read_inspection(tmp_path)
    assert found.keys() == WHOLE.keys()
    assert sum(map(bool, analysis_sections(found).values())) >= 9


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["confusion"], [[1, 2]], "confusion has 1 items and labels 2; expected equally many"),
        (["confusion", 0], [1], "a row of confusion has 1 items and labels 2"),
        (["confusion", 0, 0], "1", r"confusion\[0\]\[0\] is '1'; expected an integer"),
        (["mistakes", 0, "image"], 'x" onerror="alert(1)', "image of mistakes is 'x\" onerror"),
        (["filters"], "http://elsewhere/x.png", "filters is 'http:.*; expected a PNG as data:"),
        (["mistakes", 0], {"label": "a"}, "an item of mistakes holds no predicted"),
        (["boundary", "probabilities"], [], "boundary holds no probabilities"),
        (["beams", 1, "parent"], 7, r"beams\[1\].parent is 7; expected an earlier node"),
        (["attention", "other"], {}, "attention has the kind 'other'; expected encoder, decoder"),
        (["attention", "cross", "maps", 0, 0, 0], "1 x .", "weights '1 x .'; expected thousandths"),
        (["attention", "cross", "readers"], ["a"], "has 2 items and readers 1"),
        (["next_tokens", "steps", 0, "tokens"], [], "tokens has 0 items and probabilities"),
        (["expert_loads", "b"], [[]], "expert_loads of 'b' has no loads"),
        (["embedding", "points"], [[0, 0, 0]], "a list of 2"),
    ],
)
def test_a_damaged_field_is_named(path, value, message, tmp_path):
    (tmp_path / "inspection.json").write_text(json.dumps(damaged(path, value)))
    with pytest.raises(UserError, match=f"inspection.json: .*{message}.*; restore it$"):
        read_inspection(tmp_path)
