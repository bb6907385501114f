"""What is computed in another way for GPUs is the same, as far as this machine can tell."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models import build_model
from lm_jax.models.target import made_for
from lm_jax.models.transformer import layers
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.models.transformer.merged_biases import merged, merges_biases
from lm_jax.parallel import sharding
from tests.conftest import slow_but

GPU = SimpleNamespace(
    platform="gpu",
    device_kind="NVIDIA H100",
    client=SimpleNamespace(platform_version="cuda 12080"),
)


def decoder(**fields) -> TransformerConfig:
    sizes = {"vocab_size": 12, "context_length": 8, "num_layers": 1, "d_model": 16}
    shape = {"norm": "layer_norm", "num_heads": 4, "num_kv_heads": 2, "use_bias": True}
    kept = {"attention": "xla", "positions": "learned", "activation": "gelu", "dropout_rate": 0.0}
    return TransformerConfig(**(sizes | shape | kept | fields))


def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 12, (2, 2, 8), np.int32)
    segments = np.int32([[1] * 5 + [2] * 3, [1] * 8])
    positions = np.int32([[*range(5), *range(3)], range(8)])
    return {
        "inputs": tokens[0],
        "targets": tokens[1],
        "weights": np.ones((2, 8), np.float32),
        "segments": segments,
        "positions": positions,
    }


def losses_and_gradients(config, device):
    """Returns the nats of each token and the gradients of parameters, all of which are random."""
    with made_for(device):
        model = build_model(config, jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), batch())
        leaves, tree = jax.tree.flatten(nn.meta.unbox(variables["params"]))
        rng = np.random.default_rng(1)
        params = tree.unflatten([rng.normal(0.3, 0.3, x.shape).astype(np.float32) for x in leaves])

        def total(params):
            nats = model.loss({"params": params}, batch(), train=True)[0].nats
            return nats.sum(), nats

        (_, nats), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return nats, gradients


@pytest.mark.parametrize(
    "fields",
    slow_but([{}, {"positions": "rotary"}, {"attention_soft_cap": 2.0, "num_kv_heads": 4}], {}),
    ids=["learned", "rotary", "soft_cap"],
)
def test_losses_and_gradients_are_those_of_other_devices(fields):
    config = decoder(**fields)
    expected, wanted = losses_and_gradients(config, jax.devices()[0])
    found, gradients = losses_and_gradients(config, GPU)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    bias = gradients["layers"]["attention"]["key"]["bias"]
    assert (not bias.any()) == (not fields)  # in exact arithmetic it is 0 then
    scale = max(abs(x).max() for x in jax.tree.leaves(wanted))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5 * scale),
        gradients,
        wanted,
    )


def test_gradients_of_one_array_for_three_products_are_summed(monkeypatch):
    monkeypatch.setattr(layers, "target", lambda: "cuda")
    factors = np.random.default_rng(0).normal(size=(3, 2, 4, 8)).astype(np.float32)

    def total(x_btd):
        three = zip(layers.read_by_three(x_btd), factors, strict=True)
        return sum(jnp.sum(x * factor) for x, factor in three)

    found = jax.grad(total)(jnp.ones((2, 4, 8)))
    np.testing.assert_allclose(found, factors.sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("texts", "is_fused"), [(2, True), (1, False)])
def test_decoding_norms_alike_whatever_training_recomputes(texts, is_fused):
    programs = set()
    for remat in ("none", "full"):
        with made_for(GPU):
            model = build_model(decoder(remat=remat), jnp.float32)
            variables = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch()))
            cache = jax.eval_shape(lambda v, model=model: model.start(v, texts, 8), variables)
            step = jax.make_jaxpr(model.step)(variables, cache, jnp.zeros(texts, jnp.int32))
        programs.add(str(step))
    (program,) = programs
    assert ("name=_norm" in program) == is_fused


@pytest.mark.parametrize(("mesh", "merges"), [("data:8", True), ("data:4,fsdp:2", False)])
def test_biases_are_merged_where_matrices_are_whole(mesh, merges):
    with sharding.on_mesh(sharding.make_mesh(mesh)), made_for(GPU):
        assert merges_biases(decoder()) == merges
        assert not merges_biases(decoder(use_bias=False))
        assert not merges_biases(decoder(remat="dots"))
    assert not merges_biases(decoder())


def test_a_layer_with_more_than_a_kernel_and_a_bias_keeps_its_own():
    layer = {"kernel": jnp.ones((16, 16)), "bias": jnp.ones(16)}
    plain = dict.fromkeys(("query", "key", "value", "output"), layer)
    adapted = plain | {"output": layer | {"lora_a": jnp.ones((16, 2)), "lora_b": jnp.ones((2, 16))}}
    config = decoder(num_kv_heads=4)
    found = merged(config, jnp.float32, {"params": plain})["params"]
    np.testing.assert_array_equal(found["value"]["bias"], 0)
    np.testing.assert_array_equal(found["output"]["bias"], 17)
    found = merged(config, jnp.float32, {"params": adapted})["params"]
    assert found["value"] == adapted["value"]
    assert found["output"] == adapted["output"]
