"""Kernels in int8: how they are rounded, and what layers and models compute with them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm_jax.models import build_model
from lm_jax.models.dense_layers import dense_kernels
from lm_jax.models.int8_weights import SCALE, VALUES, in_int8, rounded, with_int8
from lm_jax.models.interface import Model
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.parameters import path_of
from lm_jax.models.transformer.config import EncoderDecoderConfig, TransformerConfig
from lm_jax.parallel import sharding
from tests.conftest import slow_but
from tests.models.jitted import jitted

VOCABULARY, TIME = 29, 8
BLOCKS = {"vocab_size": VOCABULARY, "context_length": TIME, "num_layers": 2, "d_model": 32}
BLOCKS |= {"num_heads": 4, "d_ff": 48}
LLAMA = {"positions": "rotary", "norm": "rms_norm", "activation": "swiglu", "num_kv_heads": 2}
CONFIGS = {
    "gpt2": TransformerConfig(**BLOCKS),
    "llama": TransformerConfig(**BLOCKS, **LLAMA, use_bias=False, scan_layers=True),
    "experts": TransformerConfig(**BLOCKS, num_experts=4, d_shared_expert=16),
    "untied": TransformerConfig(**BLOCKS, tie_embeddings=False, remat="full", scan_layers=True),
    "encoder_decoder": EncoderDecoderConfig(**BLOCKS, source_length=TIME, num_encoder_layers=1),
    "mlp": MLPConfig(VOCABULARY, context_length=TIME, d_embedding=8, d_hidden=32),
}


def in_numpy(kernel):
    """Values and scales by the formula, in float64, one column after another."""
    kernel = np.asarray(kernel, np.float64)
    values, scales = np.zeros(kernel.shape, int), np.zeros(kernel.shape[1])
    for column, weights in enumerate(kernel.T):
        largest = max(abs(weight) for weight in weights)
        if largest:
            scales[column] = largest / 127
            values[:, column] = [round(weight * 127 / largest) for weight in weights]
    return values, scales


def random_kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_kernels_are_rounded_by_the_formula_column_by_column():
    kernel = random_kernel(3, 40, 12)
    kernel[1] *= np.geomspace(1e-6, 1e4, 12)  # columns of any size
    kernel[2, :, 5] = 0
    values, scales = rounded(jnp.asarray(kernel))
    assert values.dtype == jnp.int8 and scales.dtype == jnp.float32
    for layer in range(3):
        expected_values, expected_scales = in_numpy(kernel[layer])
        np.testing.assert_array_equal(values[layer], expected_values)
        np.testing.assert_allclose(scales[layer], expected_scales, rtol=1e-6)
    assert np.abs(values).max(axis=1).tolist() == [[127] * 12] * 2 + [[127] * 5 + [0] + [127] * 6]
    error = np.abs(np.float64(values) * np.float64(scales)[:, None] - kernel)
    assert (error <= 0.5001 * np.float64(scales)[:, None]).all()


def test_a_split_kernel_stays_split():
    mesh = sharding.make_mesh("fsdp:2,tensor:4", jax.devices())
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    variables = {"params": {"kernel": jax.device_put(random_kernel(3, 40, 12), split)}}
    found = in_int8(variables, ["kernel"])["params"]
    parts = {name: x.sharding.shard_shape(x.shape) for name, x in found.items()}
    assert parts == {VALUES: (3, 20, 3), SCALE: (3, 3)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_layer_is_within_what_its_rounding_allows(dtype):
    """|error of an output| <= sum of |inputs| times half of its scale."""
    module = nn.Dense(12, dtype=dtype)
    kernel, bias = random_kernel(40, 12), random_kernel(12, seed=1)
    x = jnp.asarray(random_kernel(5, 40, seed=2), dtype)

    def apply(variables, x, *, train):
        return module.apply(variables, x), {}

    layer = with_int8(Model(module.init, apply, apply))
    variables = {"params": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    found, _ = layer.apply(in_int8(variables, ["kernel"]), x, train=False)
    assert found.dtype == dtype
    values, scales = in_numpy(kernel)
    inputs = np.asarray(x, np.float64)
    own = 1e-5 if dtype == jnp.float32 else 0.02  # of the dtype of the result
    np.testing.assert_allclose(
        np.asarray(found, np.float64), inputs @ (values * scales) + bias, atol=own, rtol=own
    )
    error = np.abs(np.asarray(found, np.float64) - (inputs @ kernel + bias))
    bound = np.abs(inputs).sum(axis=1, keepdims=True) * scales / 2
    assert (error <= bound + own).all()
    assert (error > bound / 100).any()  # it is rounded indeed


def test_logits_are_within_what_the_rounding_of_their_kernel_allows():
    """The MLP's output reads values of tanh, which sum to at most their number."""
    plain, variables, batch, _ = built("mlp")
    kernel = variables["params"]["output"]["kernel"]
    expected, found = (
        np.asarray(jitted(with_int8(plain)).apply(given, batch, train=False)[0], np.float64)
        for given in (variables, in_int8(variables, ["output/kernel"]))
    )
    _, scales = in_numpy(kernel)
    error, bound = np.abs(found - expected), len(kernel) * scales / 2
    assert (error <= bound).all() and (error > bound / 20).any()


def batch_of(config):
    rng = np.random.default_rng(0)
    names = ("inputs", "source") if hasattr(config, "source_length") else ("inputs",)
    return {name: rng.integers(0, VOCABULARY, (3, TIME)).astype(np.int32) for name in names}


def built(name):
    """The model, variables with every leaf random, a batch, and the paths of dense kernels."""
    config = CONFIGS[name]
    model, batch = build_model(config, jnp.float32), batch_of(config)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), x.dtype), shapes
    )
    return model, variables, batch, dense_kernels(model, batch)


def rounded_in_numpy(variables, kernels):
    """Variables in float32 whose dense kernels are values times scales, by the formula."""

    def on_grid(path, x):
        if path_of(path).removeprefix("params/") not in kernels:
            return x
        matrices = [np.multiply(*in_numpy(m)) for m in np.reshape(x, (-1, *x.shape[-2:]))]
        return jnp.asarray(np.reshape(matrices, x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(on_grid, variables)


@pytest.mark.parametrize("name", slow_but(CONFIGS, "llama"))
def test_a_model_computes_with_the_weights_that_its_int8_stand_for(name):
    plain, variables, batch, kernels = built(name)
    model, small = jitted(with_int8(plain)), in_int8(variables, kernels)
    reference = rounded_in_numpy(variables, kernels)
    for path, x in jax.tree_util.tree_leaves_with_path(model.merge(small)):
        expected = reference
        for key in path:
            expected = expected[key.key]
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-9)
    expected, found = (
        np.asarray(jitted(which).apply(given, batch, train=False)[0])
        for which, given in ((plain, reference), (model, small))
    )
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)
    unrounded, _ = jitted(plain).apply(variables, batch, train=False)
    assert np.abs(unrounded - expected).max() > 1e-3  # which the rounding is far above

    source = {"source": {"source": batch["source"]}} if "source" in batch else {}
    for given in (small, model.prepare(small) if model.prepare else small):
        carry = model.start(small, 3, TIME, **source)
        for t in range(TIME):
            logits_bv, carry = model.step(given, carry, batch["inputs"][:, t])
            np.testing.assert_allclose(logits_bv, found[:, t], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", slow_but(CONFIGS, "llama"))
def test_dense_kernels_take_a_byte_a_weight_and_all_else_stays(name):
    _, variables, _, kernels = built(name)
    small = jax.eval_shape(lambda v: in_int8(v, kernels), variables)
    before, after = (
        {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree["params"])}
        for tree in (variables, small)
    )
    layers = {path.removesuffix("/kernel") for path in kernels}
    assert len(layers) == len(kernels) > 1 and set(kernels) <= set(before)
    assert not any(word in path for path in kernels for word in ("embedding", "norm", "router"))
    new = {f"{layer}/{name}" for layer in layers for name in (VALUES, SCALE)}
    assert set(after) == set(before) - set(kernels) | new
    for layer in layers:
        kernel = before[f"{layer}/kernel"]
        values, scale = (after[f"{layer}/{name}"] for name in (VALUES, SCALE))
        assert values.shape == kernel.shape and values.dtype == jnp.int8
        assert scale.shape == (*kernel.shape[:-2], kernel.shape[-1])
    size = {
        which: sum(x.size * x.dtype.itemsize for x in leaves.values())
        for which, leaves in (("before", before), ("after", after))
    }
    weights = sum(before[path].size for path in kernels)
    scales = sum(before[path].size // before[path].shape[-2] for path in kernels)
    assert size["before"] - size["after"] == 3 * weights - 4 * scales
