"""Every shipped configuration is one that could run, and says how."""

import importlib
import inspect
from pathlib import Path

import pytest

from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import dumps, from_dict, to_dict
from lm_jax.errors import UserError
from lm_jax.objectives.validation import validate
from lm_jax.sweeps.search_space import trials_of
from tests.launch.programs import ROOT

FILES = sorted(Path(ROOT, "configs").glob("[!_]*.py"))
MODULES = [importlib.import_module(f"configs.{path.stem}") for path in FILES]
CHOICES = {
    "corpus": ("shakespeare", "reference"),
    "texts": ("reviews", "newsgroups", "genres"),
    "sequence_model": ("encoder_decoder", "decoder", "lstm_attention", "lstm"),
    "preset": ("gpt2_small", "bert_base", "t5_small", "resnet34"),
    "model": ("experts", "dense"),
    "architecture": ("bigram", "mlp", "transformer"),
    "translator": ("transformer", "lstm_attention", "lstm"),
}


RUNNABLE = [module for module in MODULES if hasattr(module, "get_config")]


def experiments_of(module):
    (choice,) = list(inspect.signature(module.get_config).parameters) or [""]
    return [module.get_config(*c) for c in ([(c,) for c in CHOICES[choice]] if choice else [()])]


@pytest.mark.parametrize("module", RUNNABLE, ids=lambda m: m.__name__)
def test_it_is_valid_survives_json_and_says_how_to_run_it(module):
    for config in experiments_of(module):
        validate(config)
        assert from_dict(to_dict(config)) == config
        assert isinstance(config, Experiment)
    stem = module.__name__.removeprefix("configs.")
    assert f"python -m launch.train --config=configs/{stem}.py" in module.__doc__


def test_no_two_of_them_are_the_same_experiment():
    told = [(m.__name__, dumps(e)) for m in RUNNABLE for e in experiments_of(m)]
    assert len({text for _, text in told}) == len(told)


def test_an_unknown_corpus_is_refused_with_those_there_are():
    lstm = importlib.import_module("configs.lstm")
    with pytest.raises(UserError, match="no corpus 'x'; expected --config=FILE:shakespeare or"):
        lstm.get_config("x")


@pytest.mark.parametrize("choice", ["3e13", "3e13,", ",48", "x,48", "3e13,d48"])
def test_a_budget_and_a_width_of_the_isoflop_study_are_checked(choice):
    with pytest.raises(UserError, match="expected a budget and a width, as 3e13,48"):
        importlib.import_module("configs.sweeps.isoflop").get_sweep(choice)


def test_one_run_of_the_isoflop_study_has_its_budget():
    isoflop = importlib.import_module("configs.sweeps.isoflop")
    ((name, trial),) = isoflop.get_sweep("3e13,48").items()
    assert (name, trial.labels["budget"]) == ("budget=3e+13,d48", 3e13)


SWEEPS = sorted(Path(ROOT, "configs", "sweeps").glob("[!_]*.py"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_valid_and_says_how_to_run_it(path):
    module = importlib.import_module(f"configs.sweeps.{path.stem}")
    trials = trials_of(module.get_sweep())
    for trial in trials.values():
        validate(trial.experiment)
    command = f"python -m launch.sweep --config=configs/sweeps/{path.name} "
    assert command in module.__doc__
