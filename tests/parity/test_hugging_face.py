"""Logits beside Hugging Face transformers at the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.config.presets import preset
from lm_jax.costs.model_flops import count_parameters
from lm_jax.models import build_model
from lm_jax.models.transformer.attention import relative_buckets
from tests.parity import hugging_face
from tests.parity.recorded import reference

LENGTHS = (20, 13, 1)


def padded(lengths, seed=0, width=None):
    """Random tokens, also for padding, and 1 where a row has a token."""
    width = width or max(lengths)
    tokens = np.random.default_rng(seed).integers(0, 61, (len(lengths), width))
    return tokens.astype(np.int32), (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)


def assert_equal_logits(pair, batch, mask=None, **theirs):
    """Compares our logits of a batch with those of the peer, where the mask is 1."""

    def compute(given):
        import torch

        tensors = {name: torch.tensor(value).long() for name, value in given[0].items()}
        return {"logits": pair.peer.build()(**tensors).logits.detach().numpy()}

    inputs = (theirs, pair.peer.weights())
    expected = reference(
        pair.peer.record, pair.peer.name, compute, inputs, libraries=hugging_face.LIBRARIES
    )["logits"]
    apply = jax.jit(build_model(pair.config, jnp.float32).apply, static_argnames="train")
    logits = np.asarray(apply(pair.variables, batch, train=False)[0])
    where = np.ones(len(logits), bool) if mask is None else mask > 0
    assert logits.shape == expected.shape and np.ptp(expected[where]) > 1
    np.testing.assert_allclose(logits[where], expected[where], atol=1e-4)


def test_a_padded_batch_through_gpt2():
    tokens, mask = padded(LENGTHS)
    batch = {"inputs": tokens, "segments": mask}
    pair = hugging_face.gpt2()
    assert_equal_logits(pair, batch, mask, input_ids=tokens, attention_mask=mask)


def test_a_padded_batch_through_bert_for_masked_tokens():
    tokens, mask = padded(LENGTHS)
    types = np.random.default_rng(1).integers(0, 2, tokens.shape).astype(np.int32)
    batch = {"inputs": tokens, "segments": mask, "segment_types": types}
    theirs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}
    assert_equal_logits(hugging_face.bert(), batch, mask, **theirs)


def test_a_padded_batch_through_bert_for_classes():
    tokens, mask = padded(LENGTHS)
    batch = {"inputs": tokens, "segments": mask}
    pair = hugging_face.bert(num_classes=3)
    assert_equal_logits(pair, batch, input_ids=tokens, attention_mask=mask)


@pytest.mark.parametrize(
    ("version", "head_width"),
    [("1.0", 8), ("1.1", 8), pytest.param("1.1", 6, marks=pytest.mark.slow)],
)
def test_a_padded_batch_through_t5(version, head_width):
    source, source_mask = padded((30, 7, 22), seed=1)
    tokens, mask = padded((24, 9, 17), seed=2)
    batch = {"source": source, "source_segments": source_mask, "inputs": tokens, "segments": mask}
    theirs = {
        "input_ids": source,
        "attention_mask": source_mask,
        "decoder_input_ids": tokens,
        "decoder_attention_mask": mask,
    }
    pair = hugging_face.t5(version == "1.0", head_width)
    assert_equal_logits(pair, batch, mask, **theirs)


@pytest.mark.parametrize("both_sides", [True, False])
@pytest.mark.parametrize(("count", "furthest"), [(32, 128), (8, 20)])
def test_distances_fall_into_the_buckets_of_t5(count, furthest, both_sides):
    queries, keys = np.arange(200), np.arange(300)

    def compute(distances):
        import torch
        from transformers.models.t5.modeling_t5 import T5Attention

        buckets = T5Attention._relative_position_bucket(
            torch.tensor(distances), both_sides, count, furthest
        )
        return {"buckets": buckets.numpy().astype(np.int8)}

    expected = reference(
        "hugging_face",
        f"{count} buckets to {furthest}, both sides {both_sides}",
        compute,
        keys[None] - queries[:, None],
        libraries=hugging_face.LIBRARIES,
    )
    ours = relative_buckets(jnp.array(queries), jnp.array(keys), count, furthest, both_sides)
    np.testing.assert_array_equal(ours, expected["buckets"])


def parameters_of_peers(_):
    """Number of parameters of the peers at the sizes that were published."""
    import torch
    import transformers

    def count(kind, config):
        with torch.device("meta"):
            return kind(config).num_parameters()

    found = {"bert_base": count(transformers.BertForMaskedLM, transformers.BertConfig())}
    # PyTorch ends both stacks with norms, which the post-norm original does not.
    for name, width, heads in (("transformer_base", 512, 8), ("transformer_big", 1024, 16)):
        peer = torch.nn.Transformer(width, heads, 6, 6, 4 * width, device="meta")
        layers = sum(x.numel() for x in peer.parameters()) - 4 * width
        found[name] = layers + 37_000 * width
    small = transformers.T5Config(num_layers=6, num_heads=8, d_model=512, d_ff=2048)
    found["t5_small"] = count(transformers.T5ForConditionalGeneration, small)
    return found


def test_published_models_have_their_published_number_of_parameters():
    theirs = reference(
        "hugging_face", "parameters", parameters_of_peers, libraries=hugging_face.LIBRARIES
    )
    ours = {name: count_parameters(preset(name))["total"] for name in theirs}
    assert ours == {name: int(count) for name, count in theirs.items()}
    assert (ours["bert_base"], ours["t5_small"]) == (109_514_298, 60_506_624)
