"""Search spaces: grids, draws, ladders and budgets of experiments, their addresses and errors."""

import copy
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.config import experiment as experiments
from lm_jax.config.serialization import from_dict, to_dict
from lm_jax.costs.model_flops import training_flops
from lm_jax.data.config import KINDS
from lm_jax.errors import UserError
from lm_jax.models import FAMILIES, build_model, family_name
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.objectives.validation import validate
from lm_jax.sweeps.search_space import (
    Trial,
    address,
    choice,
    draw,
    grid,
    isoflop,
    ladder,
    log_uniform,
    trials_of,
    uniform,
)
from tests.costs.test_model_flops import tokens
from tests.experiments import tiny


def bytes_of_reference(**fields):
    return tiny(data__tokenizer=dataclasses.replace(tiny().data.tokenizer, kind="byte"), **fields)


def test_a_grid_has_every_combination_and_does_not_change_its_base():
    base = tiny()
    before = copy.deepcopy(base)
    rates = [1e-3, 0.004]
    found = grid(base, {"schedule.peak_learning_rate": rates, "seed": range(3)})
    assert list(found)[:2] == ["peak_learning_rate=0.001,seed=0", "peak_learning_rate=0.001,seed=1"]
    values = [(e.schedule.peak_learning_rate, e.seed) for e in found.values()]
    assert values == [(rate, seed) for rate in rates for seed in range(3)]
    found["peak_learning_rate=0.004,seed=2"].model.d_model = 7
    assert base == before and all(e.model.d_model != 7 for e in list(found.values())[:-1])


def test_values_take_the_type_of_their_field():
    values = grid(tiny(), {"schedule.peak_learning_rate": np.array([1, 2]), "seed": np.arange(1)})
    first = next(iter(values.values()))
    assert type(first.schedule.peak_learning_rate) is float and type(first.seed) is int
    assert from_dict(to_dict(first)) == first


def test_fields_with_one_name_appear_with_their_paths():
    found = grid(tiny(), {"optimizer.name": ["adamw"], "schedule.name": ["cosine", "linear"]})
    assert list(found)[0] == "optimizer.name=adamw,schedule.name=cosine"


def test_values_of_a_mapping_are_named_by_its_keys():
    models = {"lstm": RecurrentConfig(context_length=32), "gpt": TransformerConfig()}
    found = grid(tiny(), {"model": models, "seed": [0, 1]})
    assert list(found) == ["lstm,seed=0", "lstm,seed=1", "gpt,seed=0", "gpt,seed=1"]
    assert family_name(found["lstm,seed=1"].model) == "recurrent"
    assert found["lstm,seed=0"].model is not found["lstm,seed=1"].model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule.peak": [1.0]}, "unknown field 'schedule.peak': ScheduleConfig has name, peak_"),
        ({"shedule.name": ["wsd"]}, "unknown field 'shedule.name': Experiment has objective"),
        ({"seed.more": [1]}, "no field 'more' in a value of type int"),
        ({"model.d_model": [64.5]}, "model.d_model is 64.5, a float; expected a int"),
        ({"tensorboard": [1]}, "tensorboard is 1, a int; expected a bool"),
        ({"seed": [True]}, "seed is True, a bool"),
        ({"seed": []}, "seed is given no values"),
        ({"seed": [1, 1]}, "two runs of the grid are called seed=1"),
    ],
)
def test_a_mistaken_grid_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        grid(tiny(), fields)


def test_draws_are_seeded_within_bounds_and_unchanged_by_a_larger_count():
    fields = {
        "schedule.peak_learning_rate": log_uniform(1e-4, 1e-1),
        "optimizer.weight_decay": uniform(0, 0.3),
        "model.num_layers": choice([1, 2, 4]),
    }
    few, many = draw(tiny(), fields, 3), draw(tiny(), fields, 400)
    assert list(few) == ["draw=000", "draw=001", "draw=002"]
    assert all(many[name] == experiment for name, experiment in few.items())
    assert draw(tiny(), fields, 3, seed=1) != few
    rates = np.array([e.schedule.peak_learning_rate for e in many.values()])
    assert 1e-4 < rates.min() < 2e-4 and 5e-2 < rates.max() < 1e-1
    assert np.log10(rates).mean() == pytest.approx(-2.5, abs=0.2)  # standard error 0.04
    decays = np.array([e.optimizer.weight_decay for e in many.values()])
    assert 0 < decays.min() and decays.max() < 0.3
    assert decays.mean() == pytest.approx(0.15, abs=0.02)  # standard error 0.004
    assert {e.model.num_layers for e in many.values()} == {1, 2, 4}


def test_impossible_draws_are_refused():
    for low, high in ((0.0, 1.0), (2.0, 1.0), (1.0, np.inf)):
        with pytest.raises(UserError, match="expected 0 < low < high"):
            log_uniform(low, high)
    with pytest.raises(UserError, match="was given no values; give at least one"):
        choice([])


def test_a_ladder_keeps_its_aspect_ratio():
    rungs = ladder(TransformerConfig(context_length=32), [64, 128, 512], aspect_ratio=32)
    shapes = {name: (m.d_model, m.num_layers, m.num_heads) for name, m in rungs.items()}
    assert shapes == {"d64": (64, 2, 1), "d128": (128, 4, 2), "d512": (512, 16, 8)}
    assert {m.context_length for m in rungs.values()} == {32}
    with pytest.raises(UserError, match="width 96 is not a positive multiple of head_width 64"):
        ladder(TransformerConfig(), [96], aspect_ratio=32)


def test_steps_of_an_isoflop_profile_meet_its_budget():
    """Counts the FLOPs of a step from the model, independently of the sweep."""
    base = bytes_of_reference(training__batch_size=2)
    sizes = grid(base, {"model.d_model": [32, 64]})
    budgets = (4e9, 2e10)
    trials = isoflop(sizes, budgets, warmup_fraction=0.1)
    assert list(trials)[:2] == ["budget=4e+09,d_model=32", "budget=4e+09,d_model=64"]
    for trial in trials.values():
        experiment = trial.experiment
        model = dataclasses.replace(experiment.model, vocab_size=257)
        of_step = training_flops(build_model(model, jnp.float32), tokens(2, 32))
        steps = experiment.training.num_steps
        assert trial.labels["budget"] in budgets
        assert abs(steps * of_step - trial.labels["budget"]) <= of_step / 2
        assert steps >= 50 and experiment.schedule.warmup_steps == round(0.1 * steps)
        validate(experiment)


def test_a_budget_of_few_steps_is_refused():
    with pytest.raises(UserError, match=r"is \d+ steps of base.*give at least \d"):
        isoflop({"base": bytes_of_reference()}, [1e9])


def test_an_address_depends_on_what_decides_the_numbers():
    plain = address(tiny())
    same = [tiny(mesh="data:2"), tiny(tensorboard=True), tiny(evaluation__every_steps=7)]
    assert {address(experiment) for experiment in same} == {plain}
    caches = tiny(data=dataclasses.replace(tiny().data, cache_directory="elsewhere"))
    assert address(caches) == plain
    assert address(from_dict(to_dict(tiny()))) == plain
    files = {name: tiny(data__source="files", data__path=name) for name in ("a.txt", "b.txt")}
    others = [tiny(seed=1), tiny(model__d_model=64), tiny(schedule__peak_learning_rate=2e-3)]
    others += [tiny(model=RecurrentConfig()), *files.values()]
    assert len({address(experiment) for experiment in others} | {plain}) == 7


def test_every_family_and_every_kind_of_data_has_an_address():
    families = [tiny(model=family.config()) for family in FAMILIES.values()]
    kinds = [tiny(data=kind()) for kind in KINDS.values() if kind is not type(tiny().data)]
    assert len({address(e) for e in families + kinds}) == len(FAMILIES) + len(KINDS) - 1


def test_a_field_that_a_later_version_adds_changes_no_address():
    """Fields at their defaults are not hashed, so removing one of them changes nothing."""
    fields = to_dict(tiny())
    del fields["training"]["label_smoothing"], fields["model"]["logit_soft_cap"]
    assert address(from_dict(fields)) == address(tiny())
    assert (
        address(experiments.Experiment(seed=1)) == "dc8010a136"
    )  # or sweeps on disk would begin anew


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({}, "the sweep is empty"),
        ([], "the sweep is empty"),
        (None, "a sweep is a dict of experiments by name, not a NoneType"),
        ([tiny()], "not a list without names"),
        ({"a": 3}, "run a is a int; expected an Experiment"),
        ({"a/b": tiny()}, "run name 'a/b'; expected up to 200 letters"),
        ([("a", tiny()), ("a", tiny(seed=1))], "two runs are called a"),
        ({"a": tiny(), "b": tiny(mesh="data:2")}, "runs a and b train the same"),
    ],
)
def test_a_mistaken_sweep_is_refused(sweep, message):
    with pytest.raises(UserError, match=message):
        trials_of(sweep)


def test_a_sweep_keeps_its_order_and_its_labels():
    trials = trials_of([("b", tiny()), ("a", Trial(tiny(seed=1), {"budget": 1e9}))])
    assert list(trials) == ["b", "a"]
    assert [dict(trial.labels) for trial in trials.values()] == [{}, {"budget": 1e9}]
