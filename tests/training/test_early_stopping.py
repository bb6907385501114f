import math

import pytest

from lm_jax.training.early_stopping import ended_early


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([], 1, False),
        ([3.0, 2.0, 1.0], 1, False),
        ([3.0, 2.0, 2.0], 1, True),  # an equal one is no lower one
        ([3.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.1], 2, True),
        ([2.0, 3.0, 2.5, 1.9], 3, False),
        ([math.inf, math.inf], 1, True),
        ([3.0, 2.0, 2.5, 2.1], 0, False),
    ],
)
def test_a_run_ends_after_so_many_evaluations_without_a_lower_loss(losses, patience, ends):
    by_step = {10 * number: loss for number, loss in enumerate(losses, 1)}
    assert bool(ended_early(by_step, patience, num_steps=100)) == ends


def test_a_run_at_its_last_step_ends_by_itself():
    assert not ended_early({10: 1.0, 20: 2.0}, 1, num_steps=20)


def test_the_reason_names_the_lowest():
    reason = ended_early({10: 2.0, 20: 1.5, 30: 1.75}, 1, num_steps=100)
    assert "step 20 (1.5000 nats) is the lowest, and 1 evaluation followed" in reason
