"""Every shipped configuration is one that could run, and says how."""

import importlib
import inspect
from pathlib import Path

import pytest

from lm_jax import experiment as experiments
from lm_jax.experiment import Experiment
from tests.test_launch import ROOT

FILES = sorted(Path(ROOT, "configs").glob("[!_]*.py"))
MODULES = [importlib.import_module(f"configs.{path.stem}") for path in FILES]
CHOICES = {"corpus": ("shakespeare", "reference"), "texts": ("reviews", "newsgroups", "genres")}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if hasattr(m, "get_config")], ids=lambda m: m.__name__
)
def test_it_is_valid_survives_json_and_says_how_to_run_it(module):
    (choice,) = list(inspect.signature(module.get_config).parameters) or [""]
    for argument in [(c,) for c in CHOICES[choice]] if choice else [()]:
        config = module.get_config(*argument)
        experiments.validate(config)
        assert experiments.from_dict(experiments.to_dict(config)) == config
        assert isinstance(config, Experiment)
    stem = module.__name__.removeprefix("configs.")
    assert f"python -m launch.train --config=configs/{stem}.py" in module.__doc__


def test_an_unknown_corpus_is_refused_with_those_there_are():
    lstm = importlib.import_module("configs.lstm")
    with pytest.raises(ValueError, match="no corpus 'x'; expected --config=FILE:shakespeare or"):
        lstm.get_config("x")
