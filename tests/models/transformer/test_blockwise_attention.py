"""Attention by blocks beside the plain path, a closed form in float64, and its own promises."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.costs.jaxpr_flops import product_flops
from lm_jax.models import build_model
from lm_jax.models.transformer import blocks
from lm_jax.models.transformer.attention import PLAIN, Scoring, Tokens, attend, visible
from lm_jax.models.transformer.blockwise_attention import (
    Blocking,
    block_size,
    blockwise_attend,
    pairs_of_blocks,
)
from lm_jax.models.transformer.config import (
    EncoderConfig,
    EncoderDecoderConfig,
    TransformerConfig,
)
from lm_jax.models.transformer.flash_attention import kernel
from lm_jax.parallel import sharding
from tests.conftest import slow_but
from tests.models.transformer.test_ring_attention import (
    SOURCE,
    TIME,
    arrays,
    plain,
    tokens,
    with_gradients,
)

CASES = {
    "all": ("all", 4, False, PLAIN, None, 8),
    "all, a broken block": ("all", 4, False, PLAIN, None, 5),
    "causal, one key head": ("causal", 1, False, PLAIN, None, 4),
    "causal, bias, cap, broken": ("causal", 2, True, Scoring(0.5, 2.0), None, 6),
    "packed": ("packed", 2, False, PLAIN, None, 4),
    "packed, one block": ("packed", 4, False, PLAIN, None, 128),
    "window over blocks": ("windowed", 4, False, PLAIN, 5, 4),
    "window in a block": ("windowed", 2, False, PLAIN, 3, 4),
    "prefix": ("prefix", 2, False, PLAIN, None, 4),
    "encoder, bias, window, broken": ("encoder", 4, True, PLAIN, 3, 5),
    "across": ("across", 2, False, PLAIN, None, 8),
    "across, broken, some see nothing": ("across", 2, False, PLAIN, None, 7),
}


@pytest.mark.parametrize(
    "case",
    slow_but(CASES, "causal, bias, cap, broken", "packed", "across, broken, some see nothing"),
)
def test_it_computes_what_attention_does_and_its_gradients(case):
    kind, groups, biased, scoring, window, size = CASES[case]
    queries, keys = tokens(kind)
    given = arrays(SOURCE if kind == "across" else TIME, groups, biased)
    direction = jnp.float32(np.random.default_rng(2).normal(size=given[0].shape))
    causal = kind in ("causal", "packed", "windowed")

    def by_block(scoring, q, k, v, bias, queries, keys, window):
        blocking = Blocking(scoring, causal, window, size)
        return blockwise_attend(blocking, q, k, v, bias, queries, keys)

    common = (given, queries, keys, direction, scoring, window)
    expected = with_gradients(plain, *common)
    for ours, theirs in zip(with_gradients(by_block, *common), expected, strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_doubles_are_summed_in_doubles():
    """Beside the closed form of the output and of the gradient of the values, in NumPy."""
    rng = np.random.default_rng(0)
    q, k, v, direction = rng.normal(size=(4, 1, 10, 1, 4))
    with jax.enable_x64(True):
        index = Tokens(jnp.arange(10)[None])
        attention = partial(blockwise_attend, Blocking(causal=True, size=4), q, k)
        y, pull = jax.vjp(lambda v: attention(v, None, index, index), v)
        (dv,) = pull(jnp.asarray(direction))
    scores = np.where(np.tri(10, dtype=bool), q[0, :, 0] @ k[0, :, 0].T / 2, -np.inf)
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(y[0, :, 0], weights @ v[0, :, 0], atol=1e-14)
    np.testing.assert_allclose(dv[0, :, 0], weights.T @ direction[0, :, 0], atol=1e-14)


@pytest.mark.parametrize(
    ("blocking", "masked", "unmasked"),
    [
        (Blocking(causal=True), [(0, 0), (4, 4), (8, 8)], [(4, 0), (8, 0), (8, 4)]),
        (Blocking(causal=True, window=2), [(0, 0), (4, 0), (4, 4), (8, 4), (8, 8)], []),
        (Blocking(causal=True, window=8), [(0, 0), (4, 4), (8, 0), (8, 8)], [(4, 0), (8, 4)]),
        (Blocking(window=1), [(0, 0), (4, 4), (8, 8)], []),
    ],
)
def test_pairs_of_which_no_query_reads_a_key_are_left_out(blocking, masked, unmasked):
    blocking = blocking._replace(size=4)
    found = pairs_of_blocks(blocking, 12, 12, hides=False)
    assert [list(map(tuple, pairs)) for pairs in found] == [masked, unmasked]
    everything, nothing = pairs_of_blocks(blocking, 12, 12, hides=True)
    assert sorted(map(tuple, everything)) == sorted(masked + unmasked) and not len(nothing)


def causal_attention(time, size):
    index = Tokens(jnp.arange(time)[None].repeat(2, 0))
    return lambda q, k, v: blockwise_attend(
        Blocking(causal=True, size=size), q, k, v, None, index, index
    )


def test_what_is_computed_is_counted():
    """Ten of 16 pairs of blocks, each once for the scores and once for the sums."""
    function, shape = causal_attention(64, 16), jnp.zeros((2, 64, 4, 8))
    jaxpr = jax.make_jaxpr(function)(shape, shape, shape).jaxpr
    forward = 2 * (2 * 8) * (2 * 4) * (10 * 16 * 16)
    assert product_flops(jaxpr) == forward
    assert product_flops(jaxpr, [True] * 3) == 3 * forward


def test_memory_grows_with_the_context_and_not_with_its_square():
    def temporaries(function, time):
        shape = jax.ShapeDtypeStruct((2, time, 2, 8), jnp.float32)
        gradient = jax.grad(lambda *given: jnp.sum(function(*given)), argnums=(0, 1, 2))
        compiled = jax.jit(gradient).lower(shape, shape, shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = (temporaries(causal_attention(t, 32), t) for t in (512, 1024))
    assert long < 2.1 * short
    index = jnp.arange(512)[None]
    whole = partial(attend, mask_bts=visible(index, index), causal=True)
    assert temporaries(whole, 512) > 4 * short


SHAPE = {"vocab_size": 29, "context_length": 16, "num_layers": 2, "d_model": 32, "num_heads": 4}
CONFIGS = {
    "decoder": TransformerConfig(
        num_kv_heads=2, positions="rotary", sliding_window=5, global_every=2, **SHAPE
    ),
    "scanned": TransformerConfig(
        sliding_window=5, global_every=2, scan_layers=True, remat="full", **SHAPE
    ),
    "relative": TransformerConfig(positions="relative", remat="dots", **SHAPE),
    "encoder": EncoderConfig(sliding_window=3, **SHAPE),
    "encoder_decoder": EncoderDecoderConfig(source_length=16, **SHAPE),
}
MESHES = {"one": "data:1", "split": "data:2,fsdp:2,tensor:2", "time": "data:2,sequence:4"}


def random_batch(rng):
    inputs, targets = jnp.asarray(rng.integers(0, 29, (2, 4, 16)), jnp.int32)
    return {"inputs": inputs, "targets": targets}


def loss_and_gradients(config, batch, mesh):
    model = build_model(config, jnp.float32)
    rng = np.random.default_rng(1)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.2).astype("f"), shapes)

    def mean(variables):
        return jnp.mean(model.loss(variables, batch, train=True)[0].nats)

    size = int(np.prod([int(part.partition(":")[2]) for part in mesh.split(",")]))
    with sharding.on_mesh(sharding.make_mesh(mesh, jax.devices()[:size])):
        return jax.jit(jax.value_and_grad(mean))(variables)


@pytest.mark.parametrize(
    ("kind", "mesh"),
    slow_but([(kind, mesh) for kind in CONFIGS for mesh in MESHES], ("encoder", "one")),
)
def test_a_model_is_the_same_with_either_kernel(monkeypatch, kind, mesh):
    monkeypatch.setattr(blocks, "block_size", lambda length: 8)
    config, rng = CONFIGS[kind], np.random.default_rng(0)
    batch = random_batch(rng)
    batch["segments"] = jnp.asarray(np.sort(rng.integers(1, 4, (4, 16))), jnp.int32)
    if kind == "encoder_decoder":
        batch["source"], batch["source_segments"] = batch["targets"], batch["segments"]
    expected = loss_and_gradients(config, batch, "data:1")
    ours = dataclasses.replace(config, attention="blockwise")
    found = loss_and_gradients(ours, batch, MESHES[mesh])
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), found, expected)


@pytest.mark.slow
def test_vmapped_models_are_the_same(monkeypatch):
    monkeypatch.setattr(blocks, "block_size", lambda length: 8)
    rng = np.random.default_rng(0)
    batch = random_batch(rng)
    found = []
    for attention in ("blockwise", "xla"):
        config = dataclasses.replace(CONFIGS["decoder"], attention=attention)
        model = build_model(config, jnp.float32)
        shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
        values = np.random.default_rng(1)
        variables = jax.tree.map(
            lambda x, values=values: values.normal(size=(3, *x.shape), scale=0.2).astype("f"),
            shapes,
        )
        mean = lambda v, model=model: jnp.mean(model.loss(v, batch, train=True)[0].nats)  # noqa: E731
        found.append(jax.jit(jax.vmap(jax.value_and_grad(mean)))(variables))
    jax.tree.map(partial(np.testing.assert_allclose, atol=2e-5), *found)


def test_auto_takes_it_on_cpus_for_long_contexts():
    def chosen(**fields):
        shape = SHAPE | {"context_length": 512, "attention": "auto"} | fields
        return kernel(TransformerConfig(**shape), jnp.dtype("float32"))

    assert chosen() == "blockwise"
    assert chosen(context_length=511) == "xla"
    assert chosen(positions="alibi") == "xla"  # its biases are as large as what blocks avoid
    assert chosen(attention="xla") == "xla"


@pytest.mark.parametrize(
    ("length", "size"), [(1, 128), (131_072, 128), (131_073, 256), (10**7, 9_856)]
)
def test_blocks_grow_where_their_pairs_would_be_too_many_to_list(length, size):
    assert block_size(length) == size and -(-length // size) <= 1024
