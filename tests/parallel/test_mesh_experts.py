"""Experts split over a mesh, whose tokens are gathered and whose sums are scattered."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.models.transformer.config import TransformerConfig, check_mesh
from lm_jax.models.transformer.experts import MixtureOfExperts
from lm_jax.parallel import sharding
from lm_jax.parallel.mesh import parse
from tests.conftest import slow_but

CONFIG = TransformerConfig(vocab_size=8, d_model=8, num_experts=4, d_expert=6, activation="relu")
MESHES = (("fsdp:2,expert:2,tensor:2", 4), ("data:2,expert:4", 8), ("expert:2,sequence:4", 3))


@functools.cache
def _begun():
    """A mixture, and its variables as plain arrays and by their axes."""
    module = MixtureOfExperts(CONFIG, jnp.float32)
    boxed = module.init(jax.random.key(0), jnp.zeros((1, 4, 8)), mutable=["params"])
    return module, jax.tree.map(lambda x: 9 * x, nn.unbox(boxed)), boxed


def _sum_and_gradients(variables, x_btd):
    module, _, _ = _begun()
    return jax.jit(
        jax.value_and_grad(lambda v, x: jnp.sum(jnp.sin(module.apply(v, x))), argnums=(0, 1))
    )(variables, x_btd)


@pytest.mark.parametrize(("mesh", "rows"), slow_but(MESHES, MESHES[0]))
def test_outputs_and_gradients_are_those_of_one_device(mesh, rows):
    """Three rows do not divide over two devices, and are read whole."""
    _, variables, boxed = _begun()
    x_btd = jax.random.normal(jax.random.key(1), (rows, 4, 8))
    one = _sum_and_gradients(variables, x_btd)
    on = sharding.make_mesh(mesh, jax.devices()[:8])
    split = jax.device_put(variables, sharding.variable_shardings(boxed, on))
    kernel = split["params"]["up"]
    assert kernel.addressable_shards[0].data.shape[0] == 4 // on.shape["expert"]
    with sharding.on_mesh(on):
        eight = _sum_and_gradients(split, x_btd)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), eight, one)
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(one))


def test_experts_that_a_mesh_cannot_split_are_refused():
    with pytest.raises(UserError, match="num_experts 4 does not divide over mesh expert:8"):
        check_mesh(CONFIG, parse("expert:8"))
