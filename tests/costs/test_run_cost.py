"""What runs cost before they start, beside closed forms; and the plan made of it."""

import re

import numpy as np
import pytest

from lm_jax.build import expected_sizes
from lm_jax.costs.run_cost import cost_of
from lm_jax.errors import UserError
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.reports.numbers import timing
from lm_jax.sweeps.plan import (
    as_measured,
    at_rate,
    duration,
    make_plan,
    num_shapes,
    refuse_what_cannot_fit,
    table_of,
    total_flops,
)
from lm_jax.sweeps.search_space import grid, trials_of
from tests.experiments import tiny

BYTES = {"vocab_size": 257}


def kaplan(**fields):
    """No biases and rotary positions, so that what there is has closed forms."""
    model = TransformerConfig(
        context_length=32, num_layers=3, d_model=64, num_heads=2, positions="rotary", use_bias=False
    )
    return tiny(model=model, **fields)


def test_a_transformer_costs_what_arithmetic_says():
    experiment = kaplan(training__num_steps=7, training__batch_size=5)
    cost = cost_of(experiment, BYTES)
    norms = (2 * 3 + 1) * 64
    assert cost.non_embedding_parameters == 12 * 3 * 64**2 + norms
    assert cost.parameters == cost.non_embedding_parameters + 257 * 64
    assert (cost.steps, cost.training_tokens) == (7, 7 * 5 * 32)
    of_a_token = 6 * (12 * 3 * 64**2 + 257 * 64) + 12 * 3 * 64 * 32
    assert cost.training_flops == cost.training_tokens * of_a_token
    adam = 4 * 4 * cost.parameters  # parameters, gradients and two moments, float32
    assert adam <= cost.state_bytes < adam + 100  # and counts of steps


def test_costs_do_not_depend_on_what_does_not_decide_them():
    plain = cost_of(kaplan(), BYTES)
    assert cost_of(kaplan(seed=3, mesh="data:64", schedule__name="wsd"), BYTES) == plain
    tokens = cost_of(kaplan(training__batch_size_tokens=8 * 32), BYTES)
    assert tokens == plain
    fused = kaplan()
    fused.model.attention = "cudnn"  # which no machine here has
    assert cost_of(fused, BYTES) == plain


def test_a_recurrent_model_is_counted_over_all_its_steps_in_time():
    model = RecurrentConfig(cell="lstm", context_length=16, num_layers=1, d_hidden=32)
    experiment = tiny(model=model, training__batch_size=2)
    short = cost_of(experiment, BYTES).flops_per_step
    experiment.model.context_length = 32
    assert cost_of(experiment, BYTES).flops_per_step == pytest.approx(2 * short, rel=0.2)


def test_attention_of_a_recurrent_encoder_decoder_is_no_kernel():
    model = RecurrentSeq2SeqConfig(50, context_length=4, source_length=4, d_hidden=8)
    experiment = default_experiment(model)
    experiment.training.batch_size = 2
    costs = {}
    for model.attention in ("none", "dot"):
        costs[model.attention] = cost_of(experiment, {"vocab_size": 50})
    assert costs["none"].flops_per_step < costs["dot"].flops_per_step


def test_a_plan_traces_each_shape_once_and_names_what_cannot_be_built():
    trials = trials_of(grid(kaplan(), {"model.d_model": [32, 64], "seed": range(3)}))
    plan = make_plan(trials, lambda _: BYTES)
    assert [run.name for run in plan] == list(trials) and num_shapes(plan) == 2
    assert total_flops(plan) == 3 * sum(plan[i].cost.training_flops for i in (0, 3))
    broken = trials_of(grid(kaplan(), {"model.num_heads": [2, 5]}))
    with pytest.raises(UserError, match="run num_heads=5: model.d_model 64 is not a multiple"):
        make_plan(broken, lambda _: BYTES)
    with pytest.raises(ValueError, match="invalid literal") as fault:  # shows its traceback
        make_plan(trials, lambda _: {"vocab_size": int("a fault")})
    assert not isinstance(fault.value, UserError)


def test_a_state_larger_than_the_memory_is_refused():
    plan = make_plan(trials_of(grid(kaplan(), {"seed": [0]})), lambda _: BYTES)
    state = plan[0].cost.state_bytes
    refuse_what_cannot_fit(plan, state)
    refuse_what_cannot_fit(plan, None)
    with pytest.raises(UserError, match="run seed=0: parameters, gradients and optimizer state"):
        refuse_what_cannot_fit(plan, state - 1)


def test_the_table_shows_each_run_and_the_sums():
    trials = trials_of(grid(kaplan(), {"seed": range(2)}))
    plan = make_plan(trials, expected_sizes)
    head, *rows, sums = table_of(plan, at_rate(1e6), ["finished", "waiting"])
    assert head.split()[:4] == ["run", "address", "parameters", "non-embedding"]
    flops = plan[0].cost.training_flops
    for run, row in zip(plan, rows, strict=True):
        assert row.startswith(run.name) and f"{flops:.3e}" in row and timing(flops / 1e6) in row
    assert sums.startswith("2 runs") and f"{2 * flops:.3e}" in sums
    assert re.search(r" - +waiting$", table_of(plan, None, ["", "waiting"])[2])


def test_time_is_estimated_from_the_runs_that_finished():
    """So many seconds to start and so many a FLOP: recovered from exact data, never negative."""
    (run,) = make_plan(trials_of({"a": kaplan()}), lambda _: BYTES)
    flops = run.cost.training_flops
    others = np.array([1.0, 3.0, 10.0]) * flops
    seconds = as_measured(others, 12 + others / 5e6)
    assert seconds(run.cost) == pytest.approx(12 + flops / 5e6)
    assert as_measured([2 * flops] * 2, [20, 22])(run.cost) == pytest.approx(10.5)
    assert as_measured([flops, 2 * flops], [9, 3])(run.cost) >= 0
    assert as_measured([], []) is None


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_durations_have_a_fitting_unit(seconds, text):
    assert duration(seconds) == text
