"""Files of a work directory, written and read back."""

import json

import numpy as np
import pytest

from lm_jax.config.experiment import EvaluationConfig
from lm_jax.evaluation.loss_sums import PositionSums
from lm_jax.runs.workdir import read_by_position, write_by_position


def test_what_is_written_is_read_back(tmp_path):
    sums = PositionSums(np.array([6.0, 0.0, 5.0]), np.array([3.0, 0.0, 2.0]))
    path = write_by_position(tmp_path, "validation", sums, 20, EvaluationConfig())
    record = json.loads(path.read_text())
    assert record["nats_by_position"] == [2.0, None, 2.5]
    assert (record["cross_entropy"], record["tokens"]) == (11 / 5, 5)
    found = read_by_position(tmp_path, 20)
    np.testing.assert_array_equal(found, sums)
    assert read_by_position(tmp_path, 20, "train") is None
    path.write_text("{")
    assert read_by_position(tmp_path, 20) is None


@pytest.mark.parametrize(
    "eval_config",
    [EvaluationConfig(stride=2), EvaluationConfig(context_length=4)],
    ids=["strided", "of another context"],
)
def test_a_measurement_of_other_windows_or_another_step_is_not_read(eval_config, tmp_path):
    sums = PositionSums(np.array([6.0, 5.0]), np.array([3.0, 2.0]))
    write_by_position(tmp_path, "validation", sums, 20, eval_config)
    assert read_by_position(tmp_path, 20) is None
    write_by_position(tmp_path, "validation", sums, 10, EvaluationConfig())
    assert read_by_position(tmp_path, 20) is None
