"""Declarations of parameters: what the optimizers, muP and fine-tuning read."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.config.experiment import OptimizerConfig
from lm_jax.errors import UserError
from lm_jax.models import FAMILIES, build_model
from lm_jax.models.interface import Model, loss_from_apply
from lm_jax.models.parameters import declarations, declared, declared_kernel, where
from lm_jax.models.transformer.config import EncoderConfig
from lm_jax.objectives import objective_of
from lm_jax.objectives.default_experiment import default_experiment
from lm_jax.training.mup import fan_in_out, initial_factor, rate_factor
from lm_jax.training.optimizers import is_decayed, is_head, make_optimizer

SIZES = {"vocab_size": 11, "num_classes": 3}
SIZES |= {"image_height": 28, "image_width": 28, "image_channels": 1}
CONFIGS = {name: family.config() for name, family in FAMILIES.items()}
CONFIGS["encoder of classes"] = EncoderConfig(num_classes=3, pooling="first")
TABLES = ("embedding", "source_embedding", "positions", "segment_types", "relative_bias")


def model_and_batch(config):
    sizes = {f.name: SIZES[f.name] for f in dataclasses.fields(config) if f.name in SIZES}
    if isinstance(config, EncoderConfig):  # without classes it predicts masked tokens
        sizes["num_classes"] = config.num_classes
    config = dataclasses.replace(config, **sizes)
    experiment = default_experiment(config)
    return build_model(config, jnp.float32), objective_of(experiment).example(experiment, 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_declarations_agree_with_the_names_of_leaves(name):
    """The rule of leaf names (`kernel`, `output`, `score`, `head`) that declarations replaced."""
    model, batch = model_and_batch(CONFIGS[name])
    found = declarations(model.init, batch)
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    decays, heads = (jax.tree.leaves(mask(found)(params)) for mask in (is_decayed, is_head))
    looked_up = jax.tree.leaves(where(found, lambda x: x.looked_up)(params))
    declared_s = jax.tree.leaves(where(found, lambda x: (x.fan_in, x.fan_out))(params))
    for index, (path, leaf) in enumerate(leaves):
        names = [part.key for part in path]
        assert decays[index] == (names[-1] == "kernel"), names
        assert heads[index] == ("head" in names), names
        assert looked_up[index] == (names[-1] in TABLES), names
        fan_in = 1
        if names[-1] == "kernel":
            fan_in = leaf.shape[-2]
        elif names[-1] in ("output", "score"):
            fan_in = leaf.shape[-1]
        assert declared_s[2 * index] == fan_in, names
        if names[-1] not in ("output", "score") and leaf.ndim:
            assert declared_s[2 * index + 1] == leaf.shape[-1], names


class StateSpace(nn.Module):
    """A layer with a parameter that no rule of names knows."""

    width: int
    is_declared: bool = True

    @nn.compact
    def __call__(self, x_btd):
        zeros, axes = nn.initializers.ones, ("mlp", None)
        box = (
            declared(zeros, axes) if self.is_declared else nn.with_logical_partitioning(zeros, axes)
        )
        a_log = self.param("A_log", box, (self.width, 4))
        kernel = declared_kernel(nn.initializers.normal(1.0), ("embed", "mlp"))
        x_btd = nn.Dense(self.width, use_bias=False, kernel_init=kernel, name="in")(x_btd)
        return x_btd * jnp.exp(-a_log).sum(axis=-1)


def state_space(width: int, is_declared: bool = True) -> Model:
    class Blocks(nn.Module):
        @nn.compact
        def __call__(self, x_btd):
            return StateSpace(width, is_declared, name="blocks")(x_btd)

    def init(key, batch):
        return Blocks().init(key, batch["inputs"])

    def apply(variables, batch, *, train, key=None):
        return Blocks().apply(variables, batch["inputs"]), {}

    return Model(init, apply, loss_from_apply(apply))


def inputs(width):
    return {"inputs": jax.ShapeDtypeStruct((1, 2, width), jnp.float32)}


def test_a_parameter_declared_as_no_matrix_is_neither_decayed_nor_orthogonalised():
    model = state_space(8)
    found = declarations(model.init, inputs(8))
    params = nn.unbox(model.init(jax.random.key(0), {"inputs": jnp.ones((1, 2, 8))}))["params"]
    zeros = optax.tree.zeros_like(params)
    config = OptimizerConfig("adamw", weight_decay=0.5, clip_norm=0.0)
    optimizer = make_optimizer(config, lambda _: 0.1, found)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["blocks"]["A_log"], 0)
    kernel = params["blocks"]["in"]["kernel"]
    np.testing.assert_allclose(updates["blocks"]["in"]["kernel"], -0.05 * kernel, rtol=1e-6)

    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
    config = OptimizerConfig("muon", weight_decay=0.0, clip_norm=0.0, epsilon=0.0)
    optimizer = make_optimizer(config, lambda _: 1.0, found)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    a_log = updates["blocks"]["A_log"]  # Adam's first step is the sign of the gradient, scaled
    step = abs(a_log[0, 0])
    np.testing.assert_allclose(a_log, -step * np.sign(grads["blocks"]["A_log"]), rtol=1e-3)
    singular = np.linalg.svd(updates["blocks"]["in"]["kernel"], compute_uv=False)
    assert 0.6 < singular.min() and singular.max() < 1.3


def test_a_parameter_that_sums_over_nothing_keeps_its_size_and_rate_in_mup():
    narrow, wide = state_space(8), state_space(32)

    def init(key, batch):  # both read a batch of one shape
        return wide.init(key, {"inputs": jnp.zeros((1, 2, 32))})

    def base_init(key, batch):
        return narrow.init(key, {"inputs": jnp.zeros((1, 2, 8))})

    found = fan_in_out(wide._replace(init=init), narrow._replace(init=base_init), inputs(8))
    a_log, kernel = found["blocks"]["A_log"], found["blocks"]["in"]["kernel"]
    for optimizer in ("adamw", "muon"):
        assert (initial_factor(a_log), rate_factor(optimizer, a_log)) == (1.0, 1.0)
    assert (initial_factor(kernel), rate_factor("adamw", kernel)) == (0.5, 0.25)


def test_a_parameter_that_is_not_declared_is_refused_by_its_path():
    with pytest.raises(UserError, match="parameter blocks/A_log is not declared: create it with"):
        declarations(state_space(8, is_declared=False).init, inputs(8))
