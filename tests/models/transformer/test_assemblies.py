"""What the encoder, the decoder and the encoder-decoder must all do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model, family_of
from lm_jax.models.parameters import declarations
from lm_jax.models.transformer.config import (
    EncoderConfig,
    EncoderDecoderConfig,
    TransformerConfig,
)
from lm_jax.parallel import sharding
from lm_jax.training.optimizers import is_head
from lm_jax.training.state import inherit, init_state, variables_of
from tests.conftest import slow_but
from tests.models.jitted import jitted

KINDS = {
    "decoder": TransformerConfig,
    "encoder": EncoderConfig,
    "encoder_decoder": EncoderDecoderConfig,
}
CHOICES = (
    {"positions": "learned", "norm_order": "post"},
    {"positions": "sinusoidal", "norm_order": "pre"},
    {"positions": "rotary", "norm_order": "post", "sliding_window": 3, "global_every": 2},
    {"positions": "relative", "norm_order": "pre"},
    {"positions": "alibi", "sliding_window": 4},
)

PAIRS = ((7, 5), (9, 10), (7, 5))  # tokens of the source and of the target of each pair
VOCABULARY = 29


def tiny(kind, **fields):
    shape = {"vocab_size": VOCABULARY, "context_length": 24, "num_layers": 2, "d_model": 32}
    shape |= {"num_heads": 4, "relative_buckets": 8, "relative_distance": 12}
    if kind == "encoder_decoder":
        shape |= {"source_length": 24, "num_encoder_layers": 1}
    return KINDS[kind](**shape | fields)


def built(config, batch):
    """The model, and variables with every leaf random, so that no term hides behind a zero."""
    model = jitted(build_model(config, jnp.float32))
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), x.dtype), shapes
    )


def sentences(column, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, pair[column]).astype(np.int32) for pair in PAIRS]


def packed(texts, width):
    """One row: all texts, then padding of segment 0."""
    row = {name: np.zeros((1, width), np.int32) for name in ("tokens", "segments", "positions")}
    start = 0
    for number, text in enumerate(texts, 1):
        stop = start + len(text)
        row["tokens"][0, start:stop] = text
        row["segments"][0, start:stop] = number
        row["positions"][0, start:stop] = np.arange(len(text))
        start = stop
    return row


def batch_of(kind, sources, targets):
    """The pairs packed into one row with padding."""
    target = packed(targets, 24)
    batch = {"inputs": target["tokens"]}
    batch |= {name: target[name] for name in ("segments", "positions")}
    if kind == "encoder_decoder":
        source = packed(sources, 24)
        batch["source"] = source["tokens"]
        batch |= {f"source_{name}": source[name] for name in ("segments", "positions")}
    return batch


def alone(kind, source, target):
    batch = {"inputs": target[None]}
    return batch | ({"source": source[None]} if kind == "encoder_decoder" else {})


@pytest.mark.parametrize(
    "fields", slow_but(CHOICES, CHOICES[0], CHOICES[3]), ids=lambda fields: fields["positions"]
)
@pytest.mark.parametrize("kind", slow_but(KINDS, "encoder_decoder"))  # has both of the others
def test_a_packed_and_padded_row_equals_its_sentences_one_by_one(kind, fields):
    sources, targets = sentences(0, seed=2), sentences(1, seed=3)
    batch = batch_of(kind, sources, targets)
    model, variables = built(tiny(kind, **fields), batch)
    together = np.asarray(model.apply(variables, batch, train=False)[0])[0]
    assert np.abs(together).max() > 1
    start = 0
    for source, target in zip(sources, targets, strict=True):
        by_itself, _ = model.apply(variables, alone(kind, source, target), train=False)
        scale = np.abs(together).max()
        part = together[start : start + len(target)]
        np.testing.assert_allclose(part / scale, by_itself[0] / scale, atol=1e-5)
        start += len(target)


@pytest.mark.parametrize("kind", ["encoder", "encoder_decoder"])
def test_a_source_is_read_in_both_directions(kind):
    sources, targets = sentences(0, seed=2), sentences(1, seed=3)
    batch = batch_of(kind, sources, targets)
    model, variables = built(tiny(kind), batch)
    name = "source" if kind == "encoder_decoder" else "inputs"
    # The last token of the first text changes; its first target must notice, the next text not.
    last = (PAIRS[0][0] if name == "source" else PAIRS[0][1]) - 1
    changed = batch | {name: batch[name].copy()}
    changed[name][0, last] = (changed[name][0, last] + 1) % VOCABULARY
    before, after = (model.apply(variables, b, train=False)[0][0] for b in (batch, changed))
    assert jnp.abs(before[0] - after[0]).max() > 1e-3
    np.testing.assert_array_equal(before[PAIRS[0][1] :], after[PAIRS[0][1] :])


def decoding(kind, **fields):
    """A batch of three sentences a row, unequal sources, and what `start` takes of it."""
    targets = np.random.default_rng(3).integers(0, VOCABULARY, (3, 10)).astype(np.int32)
    batch, source = {"inputs": targets}, {}
    if kind == "encoder_decoder":
        rows = [packed([text], 12) for text in sentences(0, seed=2)]
        source = {"source": np.concatenate([row["tokens"] for row in rows])}
        source["source_segments"] = np.concatenate([row["segments"] for row in rows])
        batch |= source | {"segments": np.ones_like(targets)}
    model, variables = built(tiny(kind, **fields), batch)
    arguments = {"source": source} if source else {}
    return batch, model, variables, model.start(variables, 3, 10, **arguments)


@pytest.mark.parametrize(
    "fields",
    [
        {"positions": "learned", "norm_order": "post"},
        pytest.param({"positions": "sinusoidal"}, marks=pytest.mark.slow),
        {"positions": "rotary", "scan_layers": True, "num_kv_heads": 2}
        | {"sliding_window": 3, "global_every": 2, "rotary_local_base": 50.0, "head_dim": 6},
        {"positions": "relative"},
    ],
    ids=lambda fields: fields["positions"],
)
@pytest.mark.parametrize("kind", slow_but(["decoder", "encoder_decoder"], "encoder_decoder"))
def test_steps_and_reading_at_once_equal_apply(kind, fields):
    batch, model, variables, carry = decoding(kind, **fields)
    expected, _ = model.apply(variables, batch, train=False)
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    first = carry
    variables = model.prepare(variables) if fields["positions"] != "learned" else variables
    for t in range(10):
        if t == 6:
            sixth = carry
        logits_bv, carry = model.step(variables, carry, batch["inputs"][:, t])
        np.testing.assert_allclose(logits_bv / scale, expected[:, t] / scale, atol=1e-5)
    logits_bv, again = model.read(variables, first, batch["inputs"][:, :6])
    np.testing.assert_allclose(logits_bv / scale, expected[:, 5] / scale, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), again, sixth)
    logits_bv, _ = model.step(variables, again, batch["inputs"][:, 6])
    np.testing.assert_allclose(logits_bv / scale, expected[:, 6] / scale, atol=1e-5)


def test_sequences_of_a_carry_can_be_reordered():
    batch, model, variables, carry = decoding("encoder_decoder")
    expected, _ = model.apply(variables, batch, train=False)
    rows = np.array([2, 2, 0])
    _, carry = model.read(variables, carry, batch["inputs"][:, :6])
    carry = jax.tree.map(lambda x: x[rows] if x.ndim else x, carry)
    logits_bv, _ = model.step(variables, carry, batch["inputs"][rows, 6])
    np.testing.assert_allclose(logits_bv, expected[rows, 6], atol=1e-4)


def test_a_prefix_is_seen_by_all_of_its_segment_and_no_more():
    inputs = np.random.default_rng(0).integers(0, VOCABULARY, (1, 12)).astype(np.int32)
    segments = np.repeat([[1, 2]], 6, axis=1).astype(np.int32)
    prefix = np.array([[1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]], np.int32)
    batch = {"inputs": inputs, "segments": segments, "prefix": prefix}
    model, variables = built(tiny("decoder"), batch)

    def noticed(changed):
        other = batch | {"inputs": inputs.copy()}
        other["inputs"][0, changed] = (inputs[0, changed] + 1) % VOCABULARY
        before, after = (model.apply(variables, b, train=False)[0][0] for b in (batch, other))
        return np.flatnonzero(jnp.abs(before - after).max(axis=1)).tolist()

    assert noticed(2) == [0, 1, 2, 3, 4, 5]
    assert noticed(4) == [4, 5]
    assert noticed(7) == [6, 7, 8, 9, 10, 11]
    # Without one, `prefix` is the causal model, also where that reads in two halves.
    batch = {"inputs": np.tile(inputs, (1, 12))}
    model, variables = built(tiny("decoder", positions="relative"), batch)
    none = batch | {"prefix": np.zeros_like(batch["inputs"])}
    both = [model.apply(variables, b, train=False)[0] for b in (batch, none)]
    np.testing.assert_allclose(*both, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_maps_are_the_softmax_of_what_is_visible(kind):
    sources, targets = sentences(0, seed=2), sentences(1, seed=3)
    batch = batch_of(kind, sources, targets)
    config = tiny(kind, positions="learned", norm_order="pre")
    model, variables = built(config, batch)
    maps = jax.jit(family_of(config).attention_maps(config))(variables, batch)
    names = {"encoder_decoder": {"encoder", "decoder", "cross"}}.get(kind, {kind})
    assert set(maps) == names
    queries = batch["segments"][0]
    for name, map_blhts in maps.items():
        layers = 1 if name == "encoder" and kind == "encoder_decoder" else 2
        assert map_blhts.shape == (1, layers, 4, 24, 24) and map_blhts.dtype == jnp.float32
        np.testing.assert_allclose(map_blhts.sum(axis=-1), 1, atol=1e-5)
        whose = batch.get("source_segments", batch["segments"])[0]
        keys = queries if name == "decoder" else whose
        asks = whose if name == "encoder" else queries
        hidden = asks[:, None] != keys[None]
        if name == "decoder":
            hidden |= np.arange(24)[:, None] < np.arange(24)
        assert (np.asarray(map_blhts)[0, :, :, hidden] == 0).all()
    if kind == "decoder":  # the first layer, by hand in NumPy
        p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
        layer = jax.tree.map(lambda x: x[0], p["layers"])
        x = p["embedding"][batch["inputs"][0]] + p["positions"][batch["positions"][0]]
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        x = x * layer["attention_norm"]["scale"] + layer["attention_norm"]["bias"]
        q, k = (
            x @ layer["attention"][n]["kernel"] + layer["attention"][n]["bias"]
            for n in ("query", "key")
        )
        scores = q[:, 8:16] @ k[:, 8:16].T / np.sqrt(8)
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(maps["decoder"][0, 0, 1], weights, atol=1e-5)


@pytest.mark.parametrize("kind", slow_but(KINDS, "encoder_decoder"))
def test_the_last_hidden_state_is_what_the_output_reads(kind):
    batch = batch_of(kind, sentences(0, seed=2), sentences(1, seed=3))
    config = tiny(kind, positions="learned", norm_order="pre", scan_layers=kind == "decoder")
    model, variables = built(config, batch)
    states = jax.jit(family_of(config).hidden_states(config))(variables, batch)
    logits = model.apply(variables, batch, train=False)[0]
    params = variables["params"]
    for name, states_bltd in states.items():
        layers = 1 if name == "encoder" and kind == "encoder_decoder" else 2
        assert states_bltd.shape == (1, layers + 1, 24, 32) and states_bltd.dtype == jnp.float32
    if kind != "encoder":  # whose head has a layer of its own
        found = states["decoder"][:, -1] @ params["embedding"].T
        np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    if kind == "decoder":
        first = params["embedding"][batch["inputs"]] + params["positions"][batch["positions"]]
        np.testing.assert_allclose(states["decoder"][:, 0], first, rtol=1e-5)


def test_a_forward_pass_holds_no_map():
    batch = batch_of("decoder", sentences(0, 2), sentences(1, 3))
    model, variables = built(tiny("decoder"), batch)
    assert set(model.init(jax.random.key(0), batch)) == {"params"}
    assert model.apply(variables, batch, train=False)[1] == {}


def test_a_classifier_takes_all_but_its_head_from_a_masked_language_model():
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (4, 12)).astype(np.int32)
    batch = {"inputs": tokens, "segments": np.ones_like(tokens)}
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    optimizer = optax.sgd(0.1)

    def encoder(**fields):
        return build_model(tiny("encoder", **fields), jnp.float32)

    def state(seed, **fields):
        return init_state(encoder(**fields), optimizer, batch, mesh, seed)

    masked = variables_of(state(0))
    for pooling in ("mean", "first"):
        fresh = state(1, num_classes=3, pooling=pooling)
        declared = declarations(encoder(num_classes=3, pooling=pooling).init, batch)
        found, inherited = inherit(fresh, masked, declared)
        heads = is_head(declared)(found.params)
        assert len(inherited.new) == sum(jax.tree.leaves(heads)) == (2 if pooling == "mean" else 4)
        trunk = {name: leaf for name, leaf in found.params.items() if name != "head"}
        jax.tree.map(np.testing.assert_array_equal, trunk, {n: masked["params"][n] for n in trunk})


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_does_not_change_a_class(pooling):
    tokens, other = (
        np.random.default_rng(i).integers(0, VOCABULARY, (3, 16)).astype(np.int32) for i in (0, 1)
    )
    is_text = np.arange(16) < np.array([16, 5, 1])[:, None]
    first = {"inputs": np.where(is_text, tokens, other), "segments": is_text.astype(np.int32)}
    model, variables = built(tiny("encoder", num_classes=3, pooling=pooling), first)
    logits, _ = model.apply(variables, first, train=False)
    again, _ = model.apply(variables, first | {"inputs": tokens}, train=False)
    np.testing.assert_array_equal(logits, again)
    alone, _ = model.apply(variables, {"inputs": tokens[1:2, :5]}, train=False)
    np.testing.assert_allclose(alone[0], logits[1], atol=1e-5)
    nothing = first | {"segments": np.zeros_like(first["segments"])}
    assert np.isfinite(model.apply(variables, nothing, train=False)[0]).all()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("decoder", {"norm_order": "sandwich"}, "model.norm_order is 'sandwich'"),
        ("decoder", {"norm_epsilon": 0.0}, "model.norm_epsilon is 0.0; expected above 0"),
        ("decoder", {"relative_buckets": 6}, "expected a multiple of 4"),
        ("decoder", {"relative_distance": 4}, "model.relative_distance is 4"),
        ("encoder", {"pooling": "max"}, "model.pooling is 'max'"),
        ("encoder", {"num_classes": -1}, "model.num_classes is -1"),
        ("encoder_decoder", {"source_length": 0}, "model.source_length is 0"),
        ("encoder_decoder", {"num_encoder_layers": -1}, "model.num_encoder_layers is -1"),
    ],
)
def test_impossible_shapes_are_refused(kind, fields, message):
    with pytest.raises(UserError, match=message):
        build_model(tiny(kind, **fields), jnp.float32)


def test_a_source_of_more_than_the_learned_positions_is_refused():
    batch = alone("encoder_decoder", *(np.zeros(4, np.int32),) * 2)
    model, variables = built(tiny("encoder_decoder", positions="learned"), batch)
    with pytest.raises(UserError, match="a source of 25 tokens"):
        model.start(variables, 1, 8, source={"source": np.zeros((1, 25), np.int32)})
