import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.config.presets import PRESETS, preset
from lm_jax.costs.model_flops import count_parameters
from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.transformer.attention import (
    Tokens,
    attend,
    attention_mask,
    sinusoids,
    visible,
)
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.models.transformer.layers import product
from lm_jax.models.transformer.rotary import Rotation, frequencies, rotate
from tests.conftest import slow_but
from tests.models.jitted import jitted

VARIANTS = {
    "gpt2": {},
    "llama": {
        "norm": "rms_norm",
        "activation": "swiglu",
        "positions": "rotary",
        "num_kv_heads": 2,
        "tie_embeddings": False,
        "use_bias": False,
    },
    "exact_gelu_sinusoidal": {"activation": "gelu", "positions": "sinusoidal"},
    "gemma2": {
        "activation": "geglu",
        "logit_soft_cap": 5.0,
        "attention_soft_cap": 1.0,
        "attention_scale": 0.7,
        "norm_order": "both",
        "head_dim": 6,
        "qk_norm": "head",
        "sliding_window": 3,
    },
    "scanned": {
        "scan_layers": True,
        "parallel_blocks": True,
        "positions": "rotary",
        "rotary_fraction": 0.5,
        "sliding_window": 5,
        "global_every": 2,
        "rotary_local_base": 100.0,
        "unrotated_every": 2,
    },
    "olmo2": {
        "norm": "rms_norm",
        "norm_order": "post_block",
        "qk_norm": "all",
        "num_kv_heads": 2,
        "use_bias": False,
        "qkv_bias": True,
    },
    "alibi": {"positions": "alibi", "activation": "relu"},
    "remat_dots": {"remat": "dots"},
    "remat_full_scanned": {"remat": "full", "scan_layers": True},
}


def tiny(**fields) -> TransformerConfig:
    shape = {"vocab_size": 31, "context_length": 16, "num_layers": 2, "d_model": 32, "num_heads": 4}
    return TransformerConfig(**shape | fields)


def tokens(batch_size, time, vocab=31, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, vocab, (batch_size, time)), jnp.int32)


def built(config, batch):
    """The model, and variables with every leaf random, so that no term hides behind a zero."""
    model = jitted(build_model(config, jnp.float32))
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype("f"), variables)


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "gpt2", "llama", "scanned", "gemma2"))
def test_step_repeated_equals_apply(variant):
    batch = {"inputs": tokens(3, 16)}
    model, variables = built(tiny(**VARIANTS[variant]), batch)
    logits_btv, _ = model.apply(variables, batch, train=False)
    carry = model.start(variables, 3, 16)
    for t in range(16):
        logits_bv, carry = model.step(variables, carry, batch["inputs"][:, t])
        np.testing.assert_allclose(logits_bv, logits_btv[:, t], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "gpt2", "llama"))
def test_no_logit_depends_on_a_later_token(variant):
    inputs, config = tokens(2, 16), tiny(**VARIANTS[variant])
    model, variables = built(config, {"inputs": inputs})
    changed = inputs.at[:, 9].add(1) % 31
    before, _ = model.apply(variables, {"inputs": inputs}, train=False)
    after, _ = model.apply(variables, {"inputs": changed}, train=False)
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    window = config.sliding_window  # each layer passes on what it read so many tokens further
    reached = 1 + config.num_layers * (window - 1) if window else 7
    differ = jnp.abs(before[:, 9:] - after[:, 9:]).max(axis=(0, 2)) > 0
    np.testing.assert_array_equal(differ, np.arange(7) < reached)


@pytest.mark.parametrize(  # 160: attention in two halves
    ("time", "positions"),
    slow_but(itertools.product((16, 160), ("learned", "rotary")), (16, "learned"), (160, "rotary")),
)
def test_a_packed_document_sees_nothing_of_its_neighbours(time, positions):
    config = tiny(context_length=time, positions=positions)
    first, second = tokens(1, time // 3, seed=1), tokens(1, time - time // 3, seed=2)
    segments = jnp.concatenate([jnp.ones_like(first), 2 * jnp.ones_like(second)], axis=1)
    positions_bt = jnp.concatenate(
        [jnp.arange(x.shape[1], dtype=jnp.int32)[None] for x in (first, second)], axis=1
    )
    packed = {
        "inputs": jnp.concatenate([first, second], axis=1),
        "segments": segments,
        "positions": positions_bt,
    }
    model, variables = built(config, packed)
    together, _ = model.apply(variables, packed, train=False)
    for document, part in ((first, together[:, : time // 3]), (second, together[:, time // 3 :])):
        alone, _ = model.apply(variables, {"inputs": document}, train=False)
        np.testing.assert_allclose(part, alone, atol=1e-5)
    neighbour_changed = packed | {"inputs": packed["inputs"].at[:, 0].add(1) % 31}
    changed, _ = model.apply(variables, neighbour_changed, train=False)
    np.testing.assert_array_equal(together[:, time // 3 :], changed[:, time // 3 :])
    without = {name: value for name, value in packed.items() if name != "segments"}
    leaking, _ = model.apply(variables, without, train=False)
    assert jnp.abs(leaking[:, time // 3 :] - together[:, time // 3 :]).max() > 1e-3


def test_logits_equal_an_independent_implementation_in_numpy():
    config = tiny(activation="gelu_tanh")
    batch = {"inputs": tokens(2, 16)}
    model, variables = built(config, batch)
    logits, _ = model.apply(variables, batch, train=False)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def norm(x, w):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w["scale"] + w["bias"]
        )

    for row, expected in zip(np.asarray(batch["inputs"]), np.asarray(logits), strict=True):
        x = p["embedding"][row] + p["positions"][:16]
        for layer in range(2):
            w = jax.tree.map(lambda leaf: leaf[layer], p["layers"])  # noqa: B023
            dense = lambda part, name, h: h @ w[part][name]["kernel"] + w[part][name]["bias"]  # noqa: E731, B023
            h = norm(x, w["attention_norm"])
            q, k, v = (dense("attention", name, h) for name in ("query", "key", "value"))
            heads = []
            for head in range(4):
                part = slice(8 * head, 8 * head + 8)
                scores = q[:, part] @ k[:, part].T / np.sqrt(8)
                scores[np.triu_indices(16, 1)] = -np.inf
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
            x = x + dense("attention", "output", np.concatenate(heads, axis=1))
            h = dense("feed_forward", "up", norm(x, w["feed_forward_norm"]))
            h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
            x = x + dense("feed_forward", "down", h)
        np.testing.assert_allclose(norm(x, p["final_norm"]) @ p["embedding"].T, expected, atol=1e-4)


@pytest.mark.parametrize("time", [16, 160])
@pytest.mark.parametrize("groups", slow_but([1, 2, 4], 2))
def test_attention_and_its_gradient_equal_jax_nn(time, groups):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (2, time, heads, 8))
        for i, heads in enumerate((4, groups, groups))
    )
    index = jnp.arange(time)[None]

    def ours(q, k, v):
        return attend(q, k, v, visible(index, index), causal=True)

    def reference(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    np.testing.assert_allclose(ours(q, k, v), reference(q, k, v), atol=2e-6)
    gradients = [
        jax.jit(jax.grad(lambda args, f=f: jnp.sum(jnp.sin(f(*args)))))((q, k, v))
        for f in (ours, reference)
    ]
    # Each is a float32 sum over up to 160 queries of 4 heads.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), *gradients)


def test_no_token_reads_beyond_its_window():
    rows, time = 2, 9
    place_bt = np.tile(np.arange(time), (rows, 1))
    segments_bt = np.array([[1] * 5 + [2] * 4, [1] * 9])
    near = np.abs(place_bt[:, :, None] - place_bt[:, None]) < 3
    same = segments_bt[:, :, None] == segments_bt[:, None]
    both_sides = Tokens(segments_bt=segments_bt, place_bt=place_bt)
    np.testing.assert_array_equal(attention_mask(both_sides, both_sides, 3), near & same)
    causal = both_sides._replace(index_bt=place_bt)
    expected = near & same & np.tri(time, dtype=bool)
    np.testing.assert_array_equal(attention_mask(causal, causal, 3), expected)
    np.testing.assert_array_equal(attention_mask(causal, causal), same & np.tri(time, dtype=bool))


def test_every_nth_layer_reads_everything():
    config = tiny(sliding_window=3, global_every=3)
    kinds = config.layer_kinds(7)
    assert kinds.windowed.tolist() == [True, True, False, True, True, False, True]
    assert kinds.rotated.all()
    windows = config.window(config.layer_kinds(3)).tolist()
    assert windows[:2] == [3, 3] and windows[2] > 10**9
    after_two = tiny(sliding_window=3, global_first=2, global_every=4).layer_kinds(5)
    assert after_two.windowed.tolist() == [False, False, True, False, True]
    everywhere = tiny(sliding_window=3)
    assert everywhere.layer_kinds(2) is None and everywhere.window(None) == 3
    assert tiny().window(None) is None


def test_the_last_layer_knows_no_order_where_nothing_turns():
    """With one layer the last token reads a set of tokens."""
    shape = {"num_layers": 1, "positions": "rotary"}
    inputs = tokens(2, 16)
    mixed = np.concatenate([inputs[:, 14::-1], inputs[:, 15:]], axis=1)
    for every, knows_order in ((1, False), (2, True), (0, True)):
        model, variables = built(tiny(**shape, unrotated_every=every), {"inputs": inputs})
        apart = [
            model.apply(variables, {"inputs": x}, train=False)[0][:, -1] for x in (inputs, mixed)
        ]
        assert (float(jnp.abs(apart[0] - apart[1]).max()) > 1e-4) == knows_order


def test_rotary_scores_depend_on_distance_only():
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 8)) for i in range(2))
    rotation = Rotation(frequencies(8, 10_000.0))
    score = lambda i, j: jnp.vdot(  # noqa: E731
        rotate(q, jnp.array([[i]]), rotation), rotate(k, jnp.array([[j]]), rotation)
    )
    assert score(7, 3) == pytest.approx(float(score(104, 100)), abs=1e-5)
    assert abs(score(7, 3) - score(7, 2)) > 1e-3


def test_sinusoids_follow_their_formula():
    table = np.asarray(sinusoids(jnp.arange(50)[None], 8))[0]
    for position in (0, 1, 49):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert table[position, i] == pytest.approx(np.sin(angle), abs=1e-5)
            assert table[position, 4 + i] == pytest.approx(np.cos(angle), abs=1e-5)


def test_scanned_and_unrolled_layers_share_parameters_and_losses():
    batch = {"inputs": tokens(2, 16), "targets": tokens(2, 16, seed=5)}
    windows = {"sliding_window": 3, "global_every": 2}
    model, variables = built(tiny(**windows), batch)
    for other in ({"scan_layers": True}, {"remat": "full"}, {"remat": "dots"}):
        again, _ = built(tiny(**windows, **other), batch)
        np.testing.assert_allclose(
            again.loss(variables, batch, train=False)[0].nats,
            model.loss(variables, batch, train=False)[0].nats,
            atol=1e-5,
        )


def test_dropout_acts_in_training_alone():
    batch = {"inputs": tokens(2, 16)}
    model, variables = built(tiny(dropout_rate=0.5), batch)
    run = lambda train, seed: model.apply(  # noqa: E731
        variables, batch, train=train, key=jax.random.key(seed)
    )[0]
    np.testing.assert_array_equal(run(False, 0), run(False, 1))
    assert jnp.abs(run(True, 0) - run(True, 1)).max() > 1e-2


def test_a_new_model_guesses_uniformly():
    config = tiny(vocab_size=4064, d_model=64)
    batch = {"inputs": tokens(4, 16, 4064), "targets": tokens(4, 16, 4064, seed=1)}
    model = jitted(build_model(config, jnp.float32))
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    loss = float(model.loss(variables, batch, train=False)[0].nats.mean())
    assert loss == pytest.approx(np.log(4064), rel=0.02)


def test_published_parameter_counts():
    assert count_parameters(preset("gpt2_small"))["total"] == 124_439_808
    gpt3 = count_parameters(preset("gpt3_175b"))
    assert gpt3["total"] == pytest.approx(174.6e9, rel=1e-3)
    assert gpt3["hidden"] / gpt3["total"] == pytest.approx(0.66, abs=0.005)
    assert gpt3["hidden"] / gpt3["attention"] == pytest.approx(2, rel=1e-3)
    assert count_parameters(preset("llama2_7b"))["total"] == 6_738_415_616
    assert count_parameters(preset("llama3_8b"))["total"] == 8_030_261_248
    assert set(count_parameters(preset("llama3_70b"))) >= {"attention", "output"}


def test_counts_equal_the_parameters_that_are_made():
    for name in ("gpt2", "llama"):
        config = tiny(**VARIANTS[name])
        _, variables = built(config, {"inputs": tokens(1, 16)})
        made = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert count_parameters(config)["total"] == made


def test_every_parameter_names_its_axes():
    shapes = [shape for shape in map(preset, PRESETS) if isinstance(shape, TransformerConfig)]
    assert len(shapes) > 5
    for shape in shapes:
        config = dataclasses.replace(shape, num_layers=2, d_model=256, num_kv_heads=0)
        config = dataclasses.replace(config, num_heads=4, d_ff=64)
        model = build_model(config, jnp.float32)
        batch = {"inputs": jax.ShapeDtypeStruct((1, 8), jnp.int32)}
        boxed = jax.eval_shape(model.init, jax.random.key(0), batch)
        is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
        for leaf in jax.tree.leaves(boxed, is_leaf=is_box):
            assert is_box(leaf) and len(leaf.names) == leaf.value.ndim and all(leaf.names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "batch"}, "model.norm is 'batch'"),
        ({"activation": "tanh"}, "model.activation is 'tanh'"),
        ({"num_heads": 5}, "not a multiple of model.num_heads 5"),
        ({"num_kv_heads": 3}, "not a multiple of model.num_kv_heads 3"),
        ({"num_layers": 0}, "model.num_layers is 0"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ({"d_model": 36, "num_heads": 4, "positions": "rotary"}, "an even number"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"head_dim": 7, "positions": "rotary"}, "7 of the 7 features of a head turn"),
        ({"rotary_fraction": 0.1, "positions": "rotary"}, "0 of the 8 features of a head turn"),
        ({"rotary_scaling": "yarn", "positions": "rotary"}, "needs model.rotary_original_length"),
        (
            {"rotary_scaling": "llama3", "positions": "rotary", "rotary_original_length": 8}
            | {"rotary_low_factor": 4.0},
            "rotary_low_factor is 4.0; expected less than",
        ),
        ({"global_every": 2}, "model.sliding_window is 0"),
        ({"global_first": 1}, "model.sliding_window is 0"),
        ({"global_first": 10, "sliding_window": 2}, "global_first is 10, which leaves none of "),
        ({"unrotated_every": 2}, "model.positions learned rotates no layer"),
        ({"parallel_blocks": True, "norm_order": "post"}, "take pre or both or post_block"),
    ],
)
def test_impossible_shapes_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build_model(tiny(**fields), jnp.float32)


def test_learned_positions_cannot_be_outgrown():
    model, variables = built(tiny(), {"inputs": tokens(1, 16)})
    with pytest.raises(UserError, match="17 tokens asked"):
        model.start(variables, 1, 17)


def test_an_unknown_preset_is_refused_with_those_known():
    with pytest.raises(UserError, match="gpt2_small"):
        preset("gpt5")


@pytest.mark.parametrize("rows", [(1,), (8, 8), (5, 13)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_is_the_same_of_few_rows_and_of_many(rows, dtype):
    x, kernel = (
        jax.random.normal(jax.random.key(seed), shape, dtype)
        for seed, shape in enumerate([(*rows, 24), (24, 40)])
    )
    expected = jnp.einsum("...i,io->...o", x, kernel, preferred_element_type=jnp.float32)
    found = product(x, kernel, jnp.float32)
    assert found.shape == (*rows, 40) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("is_transposed", [True, False])
def test_a_step_is_the_same_with_prepared_variables(is_transposed, monkeypatch):
    monkeypatch.setattr("lm_jax.models.transformer.stack.reads_transposed", lambda: is_transposed)
    model = jitted(build_model(tiny(), jnp.float32))
    variables = nn.unbox(model.init(jax.random.key(0), {"inputs": tokens(1, 8)}))
    found = [
        model.step(given, model.start(variables, 2, 8), tokens(2, 1)[:, 0])[0]
        for given in (variables, model.prepare(variables))
    ]
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"tie_embeddings": False, "num_experts": 4}])
def test_matrices_that_are_rounded_before_a_loop_give_the_bits_of_those_rounded_in_it(fields):
    config = tiny(num_layers=1, **fields)
    model, whole = jitted(build_model(config, jnp.bfloat16)), build_model(config, jnp.float32)
    variables = nn.unbox(model.init(jax.random.key(0), {"inputs": tokens(1, 8)}))
    prepared = model.prepare(variables), whole.prepare(variables)
    kinds = [
        {str(x.dtype) for path, x in flat if x.ndim > 1 and "positions" not in str(path)}
        for flat in map(jax.tree_util.tree_leaves_with_path, prepared)
    ]
    assert kinds == [{"bfloat16"}, {"float32"}]
    carry = model.start(variables, 2, 8)
    found = [model.step(given, carry, tokens(2, 1)[:, 0])[0] for given in prepared]
    np.testing.assert_array_equal(*found)
