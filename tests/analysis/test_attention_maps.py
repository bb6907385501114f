"""The kept attention maps are the model's own weights to three digits."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.analysis.attention_maps import analyse_attention
from lm_jax.models import build_model, family_of
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.recurrent.seq2seq import RecurrentSeq2SeqConfig, attention_weights
from lm_jax.models.transformer.config import EncoderDecoderConfig, TransformerConfig

_SHAPE = {"vocab_size": 11, "context_length": 8, "num_layers": 2, "d_model": 8, "num_heads": 2}
CONFIGS = {
    "decoder": TransformerConfig(**_SHAPE),
    "encoder_decoder": EncoderDecoderConfig(**_SHAPE, source_length=8),
    "lstm": RecurrentSeq2SeqConfig(11, d_hidden=8, d_attention=8, attention="additive"),
    "sharp": RecurrentSeq2SeqConfig(11, d_hidden=256, attention="dot"),  # some weights are 0
}


def random_model(config):
    """Variables of large weights, and one pair of 6 source and 5 target tokens."""
    rng = np.random.default_rng(0)
    batch = {"inputs": rng.integers(0, 11, (1, 5))}
    if hasattr(config, "source_length"):
        batch |= {"source": rng.integers(0, 11, (1, 6)), "source_segments": np.ones((1, 6), int)}
    model = build_model(config, jnp.float32)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes), batch


def attention_of(config, variables, batch):
    family = family_of(config)
    windows = family.attention_windows(config)
    return analyse_attention(family.attention_maps(config), variables, batch, str, windows)


@pytest.mark.parametrize("kind", CONFIGS)
def test_maps_are_the_models_own_and_each_row_sums_to_one(kind):
    config = CONFIGS[kind]
    variables, batch = random_model(config)
    found = attention_of(config, variables, batch)
    if isinstance(config, RecurrentSeq2SeqConfig):
        weights_bts = jax.jit(lambda v: attention_weights(config, v, batch))(variables)
        assert (weights_bts == 0).any() == (kind == "sharp")
        expected = {"cross": weights_bts[:, None, None]}
    else:
        expected = jax.jit(lambda v: family_of(config).attention_maps(config)(v, batch))(variables)
    assert set(found) == set(expected)
    assert list(found) == [name for name in ("encoder", "decoder", "cross") if name in found]
    target, source = ([str(token) for token in batch.get(k, [[]])[0]] for k in ("inputs", "source"))
    for name, maps in found.items():
        assert maps["readers"] == (source if name == "encoder" else target)
        assert maps["read"] == (target if name == "decoder" else source)
        cells = np.array([[[line.split() for line in m] for m in row] for row in maps["maps"]])
        weights = np.where(cells == ".", "0", cells).astype(float) / 1000
        np.testing.assert_allclose(weights, expected[name][0], atol=5.1e-4)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=5e-4 * len(maps["read"]))
        sees = np.tri(5, dtype=bool) if name == "decoder" else np.ones(cells.shape[2:], bool)
        assert ((cells == ".") == ~sees).all()


def test_a_prefix_is_seen_by_all():
    config = CONFIGS["decoder"]
    variables, batch = random_model(config)
    batch["prefix"] = np.array([[1, 1, 1, 0, 0]])
    lines = attention_of(config, variables, batch)["decoder"]["maps"][1][1]
    assert ["".join(".x"[cell != "."] for cell in line.split()) for line in lines] == [
        "xxx..", "xxx..", "xxx..", "xxxx.", "xxxxx"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["decoder", pytest.param("encoder_decoder", marks=pytest.mark.slow)]
)
def test_keys_beyond_the_window_of_a_layer_are_masked(kind):
    window = {"sliding_window": 2, "global_every": 2}
    config = dataclasses.replace(CONFIGS[kind], **window)
    variables, batch = random_model(config)
    maps = attention_of(config, variables, batch)
    weights = jax.jit(family_of(config).attention_maps(config))(variables, batch)
    for name, size, sees in (("encoder", 6, np.ones((6, 6))), ("decoder", 5, np.tri(5))):
        if name in maps:
            near = np.tri(size, k=1) * np.tri(size, k=1).T
            expected = [(sees * near).tolist(), sees.tolist()]  # the second layer is global
            cells = [[[[x != "." for x in line.split()] for line in m] for m in layer]
                     for layer in maps[name]["maps"]]  # fmt: skip
            assert (weights[name][0].max(axis=1)[np.array(expected) == 0] == 0).all()
            assert [heads[0] for heads in cells] == [heads[1] for heads in cells] == expected
    assert "." not in str(maps.get("cross"))


def test_the_first_and_the_last_of_many_heads_are_kept():
    config = TransformerConfig(**_SHAPE | {"num_layers": 1, "d_model": 30, "num_heads": 15})
    variables, batch = random_model(config)
    maps = attention_of(config, variables, batch)["decoder"]
    assert maps["heads"] == [1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15]
    assert maps["layers"] == [1] and len(maps["maps"][0]) == 12


def test_models_without_attention_are_known():
    for config in (MLPConfig(), RecurrentSeq2SeqConfig(attention="none")):
        assert family_of(config).attention_maps(config) is None
