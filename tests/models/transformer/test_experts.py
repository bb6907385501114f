"""A mixture of experts beside NumPy: outputs, gradients, the router's losses, decoding."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model, family_of
from lm_jax.models.transformer.config import EncoderDecoderConfig, TransformerConfig
from lm_jax.models.transformer.decoder import FAMILY
from lm_jax.models.transformer.experts import route
from lm_jax.models.transformer.grouped_product import grouped_product
from tests.conftest import slow_but
from tests.experiments import tiny
from tests.models.jitted import jitted
from tests.parallel.on_meshes import begin, random_batch

CONFIG = TransformerConfig(
    vocab_size=31,
    context_length=16,
    num_layers=2,
    d_model=16,
    num_heads=2,
    num_experts=5,
    d_expert=8,
    activation="swiglu",
    use_bias=False,
    scan_layers=True,
)
VARIANTS = {
    "mixtral": {},
    "qwen, olmoe": {"d_shared_expert": 12, "normalize_expert_weights": False},
    "relu, one expert": {"activation": "relu", "experts_per_token": 1},
}


def batch_of(rows=2, time=16, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 31, (rows, time + 1)).astype(np.int32)
    segments = (np.arange(time) < np.array([[time], [time - 5]] * (rows // 2))).astype(np.int32)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "segments": segments}
    return batch | {"weights": segments.astype(np.float32)}


@pytest.fixture(scope="module", params=slow_but(VARIANTS, "qwen, olmoe"))
def built(request):
    """A configuration, its model, and variables far from 0."""
    config = dataclasses.replace(CONFIG, **VARIANTS[request.param])
    model = jitted(build_model(config, jnp.float32))
    variables = nn.unbox(model.init(jax.random.key(0), batch_of()))
    return config, model, jax.tree.map(lambda x: 8 * x if x.ndim > 2 else x, variables)


def _softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _norm(x, w):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w["scale"]


def _in_numpy(config, params, batch):
    """Returns logits, and each layer's router logits, of the same model in NumPy, float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = p["embedding"][batch["inputs"]] + p["positions"][: batch["inputs"].shape[1]]
    time, routers = x.shape[1], []
    same = batch["segments"][:, :, None] == batch["segments"][:, None, :]
    mask = np.tril(np.ones((time, time), bool)) & same
    for index in range(config.num_layers):
        w = jax.tree.map(lambda leaf: leaf[index], p["layers"])  # noqa: B023
        h = _norm(x, w["attention_norm"])
        heads = []
        q, k, v = (h @ w["attention"][n]["kernel"] for n in ("query", "key", "value"))
        for part in (slice(0, 8), slice(8, 16)):
            scores = q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(8)
            heads.append(_softmax(np.where(mask, scores, -1e30)) @ v[..., part])
        x = x + np.concatenate(heads, -1) @ w["attention"]["output"]["kernel"]
        h, w = _norm(x, w["feed_forward_norm"]), w["feed_forward"]
        routers.append(h @ w["router"])
        x = x + _experts(config, w, h, routers[-1])
    return _norm(x, p["final_norm"]) @ p["embedding"].T, np.array(routers)


def _experts(config, w, h, router):
    def act(x):
        return np.maximum(x, 0) if config.activation == "relu" else x / (1 + np.exp(-x))

    def expert(x, gate, up, down):
        return (act(x @ up) if gate is None else act(x @ gate) * (x @ up)) @ down

    y = np.zeros_like(h)
    for place in itertools.product(*map(range, h.shape[:2])):
        order = np.argsort(-router[place], kind="stable")[: config.experts_per_token]
        chosen = order if config.normalize_expert_weights else slice(None)
        total = np.exp(router[place][chosen]).sum()
        for e in order:
            kernels = (w[n][e] if n in w else None for n in ("gate", "up", "down"))
            y[place] += np.exp(router[place][e]) / total * expert(h[place], *kernels)
    if config.d_shared_expert:
        kernels = (w["shared"][n]["kernel"] for n in ("gate", "up", "down"))
        y += expert(h, *kernels) / (1 + np.exp(-h @ w["shared_gate"]))
    return y


def test_logits_and_losses_equal_an_independent_implementation_in_numpy(built):
    """The statistics of the router leave out padding, and are no part of the cross-entropy."""
    config, model, variables = built
    batch = batch_of()
    losses, _ = model.loss(variables, batch, train=True)
    logits, routers_lbte = _in_numpy(config, variables["params"], batch)
    assert np.ptp(logits) > 0.3
    nats = -np.log(np.take_along_axis(_softmax(logits), batch["targets"][..., None], -1)[..., 0])
    np.testing.assert_allclose(losses.nats, nats, atol=2e-5)
    balance, z, shares, highest, counts = [], [], [], [], []
    for logits_bte in routers_lbte:
        rows, loads = [], []
        for logits_te, is_text_t in zip(logits_bte, batch["segments"] > 0, strict=True):
            logits_te = logits_te[is_text_t]
            chosen = np.argsort(-logits_te, -1, kind="stable")[:, : config.experts_per_token]
            loads.append(np.bincount(chosen.ravel(), minlength=5))
            share = loads[-1] / chosen.size
            rows.append([
                5 * (share * _softmax(logits_te).mean(0)).sum(),
                (np.log(np.exp(logits_te).sum(-1)) ** 2).mean(),
                *share,
            ])  # fmt: skip
        balance.append([row[0] for row in rows])
        z.append([row[1] for row in rows])
        shares.append([row[2:] for row in rows])
        highest.append(max(sum(loads)) / np.mean(sum(loads)))
        counts.append(sum(loads))
    found = {name: term.values for name, term in losses.auxiliary.items()} | losses.metrics
    np.testing.assert_allclose(found["router_balance"], np.mean(balance, 0), rtol=1e-4)
    np.testing.assert_allclose(found["router_z"], np.mean(z, 0), rtol=1e-4)
    np.testing.assert_allclose(found["router_largest_load"], np.mean(highest), rtol=1e-5)
    for index, share_b in enumerate(np.mean(shares, 0).T):
        np.testing.assert_allclose(found[f"router_share_{index}"], share_b, atol=1e-6)
    counted = jax.jit(FAMILY.expert_loads(config))(variables, batch)
    np.testing.assert_array_equal(counted["layers"], counts)


def test_decoding_with_a_cache_equals_reading_the_whole_text(built):
    _, model, variables = built
    batch = {"inputs": batch_of()["inputs"]}
    logits_btv, _ = model.apply(variables, batch, train=False)
    prepared = model.prepare(variables)
    carry = model.start(prepared, 2, 16)
    for t in range(6):
        logits_bv, carry = model.step(prepared, carry, batch["inputs"][:, t])
        np.testing.assert_allclose(logits_bv, logits_btv[:, t], atol=2e-5)


SIZES = ([300, 0, 1, 100, 59], [0, 0, 3, 0, 100], [0] * 5)


@pytest.mark.parametrize("sizes", slow_but(SIZES, SIZES[0]))
def test_a_product_of_groups_and_its_gradient_equal_those_of_ragged_dot(sizes):
    """Blocks end within a group, at its end, and behind the last row that is in a group."""
    rng = np.random.default_rng(0)
    x, kernels, factor = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((500, 6), (5, 6, 4), (500, 4))
    )
    counts = jnp.array(sizes, jnp.int32)

    def values_and_gradients(product):
        def total(x, kernels):
            y = product(x, kernels, counts)
            return jnp.sum(factor * y), y

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, kernels)

    found, expected = map(values_and_gradients, (grouped_product, jax.lax.ragged_dot))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, expected)
    assert np.any(expected[0][1]) == bool(sum(sizes))


def test_runs_that_are_mapped_together_have_their_own_groups():
    rng = np.random.default_rng(0)
    rows, kernels = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 20, 3), (4, 3, 2, 5))
    )
    sizes = jnp.array([[3, 0, 9, 8], [5, 5, 5, 0]], jnp.int32)
    found = jax.jit(jax.vmap(grouped_product, (0, 2, 0)))(rows, kernels, sizes)
    assert found.shape == (2, 20, 5)
    for run in range(2):
        expected = jax.lax.ragged_dot(rows[run], kernels[:, :, run], sizes[run])
        np.testing.assert_allclose(found[run], expected, atol=1e-5)


def test_of_equal_logits_the_lower_index_is_chosen():
    logits = jnp.array([[[1.0, 2.0, 2.0, 2.0, 1.0], [0.0] * 5]])
    weights, chosen = route(CONFIG, logits)
    np.testing.assert_array_equal(chosen, [[[1, 2], [0, 1]]])
    np.testing.assert_allclose(weights, 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experts_per_token": 6}, "experts_per_token 6 is more than model.num_experts 5"),
        ({"num_experts": -1}, "model.num_experts is -1"),
        ({"experts_per_token": 0}, "model.experts_per_token is 0"),
    ],
)
def test_impossible_mixtures_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build_model(dataclasses.replace(CONFIG, **fields), jnp.float32)


@pytest.mark.slow
def test_a_batch_in_parts_trains_what_it_trains_at_once():
    found = []
    for parts in (1, 2):
        config = tiny(mesh="data:1", model=dataclasses.replace(CONFIG, vocab_size=0))
        config.training.batch_size, config.training.gradient_accumulation_steps = 4, parts
        program, state = begin(config, {"vocab_size": 64})
        state, metrics = jax.jit(program.train_step)(state, random_batch(program, 0))
        metrics.pop("router_largest_load")  # the only one of a whole batch
        found.append((state.params, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found)


@pytest.mark.slow
def test_experts_of_an_encoder_and_of_a_decoder_take_all_tokens_of_their_texts():
    config = EncoderDecoderConfig(
        31, context_length=8, num_layers=2, num_encoder_layers=1, d_model=16, num_heads=2
    )
    config = dataclasses.replace(config, source_length=8, num_experts=4)
    rng = np.random.default_rng(0)
    batch = {n: rng.integers(0, 31, (2, 8)).astype(np.int32) for n in ("inputs", "targets")}
    batch |= {"source": batch["inputs"], "weights": np.ones((2, 8), np.float32)}
    batch |= {"segments": np.ones((2, 8), np.int32), "source_segments": np.ones((2, 8), np.int32)}
    batch["source_segments"][:, 5:] = 0
    model = jitted(build_model(config, jnp.float32))
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    loads = family_of(config).expert_loads(config)(variables, batch)
    assert {name: load.sum(axis=1).tolist() for name, load in loads.items()} == {
        "encoder": [2 * 2 * 5],
        "decoder": [2 * 2 * 8] * 2,
    }
    metrics = model.loss(variables, batch, train=True)[0].metrics
    shares = sum(metrics[f"router_share_{index}"] for index in range(4))
    np.testing.assert_allclose(shares, 1, rtol=1e-6)
