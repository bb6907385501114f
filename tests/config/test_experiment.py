import copy
import dataclasses
import subprocess
import sys

import pytest

from configs import quickstart, shakespeare_char_cpu
from lm_jax.choices import import_object
from lm_jax.config import experiment
from lm_jax.config.serialization import differences, flat, flat_without, from_dict, to_dict
from lm_jax.config.validation import validate_values
from lm_jax.data import LabelledTextConfig, SymbolsConfig, TokenizerConfig
from lm_jax.data.config import KINDS
from lm_jax.errors import UserError
from lm_jax.fields import described, description_of, validate_fields
from lm_jax.models import FAMILIES, Family, build_model
from lm_jax.objectives import OBJECTIVES
from lm_jax.objectives.validation import validate
from lm_jax.training.optimizers import OPTIMIZERS
from lm_jax.training.schedules import SCHEDULES
from tests.experiments import tiny


@pytest.mark.parametrize("module", [quickstart, shakespeare_char_cpu])
def test_shipped_configurations_are_valid_and_survive_json(module):
    config = module.get_config()
    validate(config)
    assert from_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer__name": "adamax"}, "optimizer.name is 'adamax'"),
        ({"schedule__name": "steps"}, "schedule.name is 'steps'"),
        ({"compute_dtype": "float8"}, "compute_dtype is 'float8'"),
        ({"training__num_steps": 0}, "training.num_steps is 0"),
        ({"training__num_steps": 2**31}, "num_steps is 2147483648; expected at most 2147483647"),
        ({"model__d_model": -(10**30)}, "model.d_model is -1000.*; expected at least 1"),
        ({"seed": 2**32}, "seed is 4294967296; expected 0 <= seed <= 4294967295"),
        ({"training__batch_size_tokens": 100}, "not a multiple of model.context_length 32"),
        ({"training__gradient_accumulation_steps": 3}, "does not divide"),
        ({"evaluation__stride": 33}, "longer than the context of 32"),
        ({"evaluation__windows": "all"}, "evaluation.windows is .all.; expected one of documents"),
        (
            {"schedule__warmup_steps": 20},
            "leaves no step of .* at the peak; warm up for fewer",
        ),
        ({"schedule__peak_learning_rate": float("nan")}, "peak_learning_rate is nan"),
        ({"samples__temperature": float("inf")}, "samples.temperature is inf; expected a finite"),
        ({"schedule__peak_learning_rate": 1e39}, "is 1e.39; expected a finite number of float32"),
        ({"optimizer__beta1": 1.5}, "optimizer.beta1 is 1.5; expected 0 <= beta1 < 1"),
        ({"schedule__final_fraction": 2.0}, "expected 0 <= final_fraction <= 1"),
        ({"samples__top_p": 0.0}, "0 < top_p <= 1"),
    ],
)
def test_impossible_values_are_refused_in_one_line(fields, message):
    with pytest.raises(UserError, match=message) as error:
        validate(tiny(**fields))
    assert "\n" not in str(error.value)


def test_the_batch_size_can_be_given_in_tokens():
    config = tiny(training__batch_size_tokens=512)
    validate(config)
    assert experiment.sequences_per_step(config) == 16


def test_unknown_fields_are_refused_by_their_path():
    with pytest.raises(UserError, match="unknown field 'model.d_modle'"):
        from_dict({"model": {"d_modle": 3}})


def test_differences_name_what_changes_the_numbers_and_nothing_else():
    free = tiny(evaluation__every_steps=7, checkpoint__keep_last=9, tensorboard=True)
    assert differences(tiny(), free) == []
    free = tiny(mesh="fsdp:8", model__remat="dots", model__loss_chunks=4, model__scan_layers=True)
    assert differences(tiny(), free) == []
    changed = differences(tiny(), tiny(model__d_model=64))
    assert changed == ["model.d_model: 32 -> 64"]


def test_fields_and_whole_parts_can_be_left_out():
    left = flat_without(tiny(), ["schedule", "optimizer.name"])
    gone = flat(tiny()).keys() - left.keys()
    assert "optimizer.name" in gone and "optimizer.beta1" in left
    assert {path.split(".")[0] for path in gone - {"optimizer.name"}} == {"schedule"}


def test_the_package_imports_nothing_heavy():
    code = "import lm_jax, sys; assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_held_out_texts_may_move_between_two_starts_of_a_run():
    before, after = (
        experiment.Experiment(
            data=LabelledTextConfig(path=f"{place}/a.tsv", validation_path=f"{place}/b.tsv")
        )
        for place in ("here", "there")
    )
    assert differences(before, after) == []


_MAY_BE_NEGATIVE = {"samples.length_penalty", "model.dropout_rate"}  # -1: the publication's rate


@pytest.mark.parametrize("model", [family.config for family in FAMILIES.values()])
def test_no_number_below_zero_is_accepted_but_those_that_mean_something(model):
    config = tiny()
    config.model = model()
    for path, value in flat(config).items():
        if type(value) in (int, float) and path not in _MAY_BE_NEGATIVE:
            part, _, name = path.rpartition(".")
            changed = copy.deepcopy(config)
            setattr(experiment.field(changed, part) if part else changed, name, type(value)(-1))
            with pytest.raises(UserError, match=rf"\b{name} is -1"):
                validate_values(changed)


@pytest.mark.parametrize(
    ("part", "name", "choices"),
    [
        (experiment.Experiment, "objective", OBJECTIVES),
        (experiment.OptimizerConfig, "name", OPTIMIZERS),
        (experiment.ScheduleConfig, "name", SCHEDULES),
    ],
)
def test_choices_of_the_rooms_above_are_listed(part, name, choices):
    (description,) = (description_of(f) for f in dataclasses.fields(part) if f.name == name)
    shown = f"one of {', '.join(choices)}, or file.py:ATTRIBUTE"
    assert description.accepted(name) == shown and getattr(part(), name) in choices


MODELS = [family.config for family in FAMILIES.values()]


@pytest.mark.parametrize(
    "part",
    [
        *MODELS,
        *KINDS.values(),
        TokenizerConfig,
        SymbolsConfig,
        *(type(part) for part in vars(tiny()).values() if dataclasses.is_dataclass(part)),
    ],
)
def test_every_field_says_what_it_means_and_what_it_accepts(part):
    config = part()
    validate_fields(config, "")
    for field in dataclasses.fields(config):
        value, description = getattr(config, field.name), description_of(field)
        if not dataclasses.is_dataclass(value):
            assert description.help.endswith("."), field.name
            is_bounded = isinstance(value, int | float) and field.name != "length_penalty"
            if (is_bounded or part in MODELS) and not isinstance(value, bool):
                assert description.accepted(field.name), field.name
            if description.choices_in:
                assert value in import_object(description.choices_in, "")


@dataclasses.dataclass
class Unchecked:
    """A configuration from outside that refuses nothing itself."""

    vocab_size: int = 0
    context_length: int = 32
    width: int = described(8, "A described field.", minimum=1)


FAMILY = Family(Unchecked, lambda config, dtype: None)


def test_a_configuration_from_outside_needs_no_validate():
    validate_values(dataclasses.replace(tiny(), model=Unchecked()))
    with pytest.raises(UserError, match="^model.width is 0; expected at least 1$"):
        build_model(Unchecked(width=0), "float32")


def test_only_a_warm_up_that_takes_all_steps_becomes_shorter():
    fits = tiny(training__num_steps=6)
    assert experiment.with_shorter_warmup(fits) is fits
    shorter = experiment.with_shorter_warmup(tiny(training__num_steps=5))
    assert shorter.schedule.warmup_steps == 0
    validate_values(shorter)
    longer = tiny(training__num_steps=60)
    assert experiment.with_shorter_warmup(longer, begun=shorter).schedule.warmup_steps == 0
    other = tiny(training__num_steps=5, schedule__warmup_steps=3)
    assert experiment.with_shorter_warmup(longer, begun=other) is longer
