"""A run whose dense layers are in int8: what it scores and generates, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

import lm_jax
from lm_jax.build import build_experiment
from lm_jax.errors import UserError
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.parameters import path_of
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.runs.weights import WEIGHTS

TEXTS = ["1 times 4 is 4.\n", "3 times 6 is 18. " * 3]


def rounded(path, kernel):
    """A dense kernel on the grid of its columns, in NumPy; all else as it is."""
    if not path_of(path).endswith("/kernel"):
        return kernel
    step = np.abs(kernel).max(axis=-2, keepdims=True) / 127
    return (np.rint(kernel / step) * step).astype(np.float32)


def test_a_run_in_int8_is_the_run_of_the_weights_that_they_stand_for(language_model):
    run, whole = lm_jax.load(language_model, weights="int8"), lm_jax.load(language_model)
    on_grid = jax.tree_util.tree_map_with_path(rounded, whole.variables)
    reference = dataclasses.replace(whole, variables=on_grid)
    kinds = {str(x.dtype) for x in jax.tree.leaves(run.variables)}
    assert kinds == {"int8", "float32"} and run.name == "run in int8"
    assert run.num_parameters == whole.num_parameters
    assert run.perplexity(TEXTS) == pytest.approx(reference.perplexity(TEXTS), rel=1e-5)
    found, expected = (each.embed(TEXTS) for each in (run, reference))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [RecurrentConfig(9), NgramConfig(9)])
def test_a_family_without_dense_layers_is_refused(config):
    built = build_experiment(default_experiment(config), {"vocab_size": 9}, jax.devices()[:1])
    with pytest.raises(UserError, match="weights=int8 is about dense layers, and .* has none"):
        WEIGHTS["int8"](built)


def test_unknown_weights_are_named_with_those_known(language_model):
    with pytest.raises(UserError, match="weights='int4' is unknown; expected one of float32, int8"):
        lm_jax.load(language_model, weights="int4")
    with pytest.raises(UserError, match=r"weights=\['int8'\] is unknown"):
        lm_jax.load(language_model, weights=["int8"])
