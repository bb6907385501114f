"""Logits beside Hugging Face transformers at the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

from lm_jax.costs.model_flops import count_parameters
from lm_jax.models import build_model
from lm_jax.models.presets import preset
from lm_jax.models.transformer.attention import relative_buckets
from tests.models import hugging_face

LENGTHS = (20, 13, 1)


def padded(lengths, seed=0, width=None):
    """Random tokens, also for padding, and 1 where a row has a token."""
    width = width or max(lengths)
    tokens = np.random.default_rng(seed).integers(0, 61, (len(lengths), width))
    return tokens.astype(np.int32), (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)


def tensor(x):
    return torch.tensor(np.array(x)).long()


def logits_of(pair, batch):
    model = build_model(pair.config, jnp.float32)
    apply = jax.jit(model.apply, static_argnames="train")
    return np.asarray(apply(pair.variables, batch, train=False)[0])


def assert_equal_on_text(ours, theirs, mask):
    assert np.abs(theirs.detach().numpy()[mask > 0]).max() > 1
    np.testing.assert_allclose(ours[mask > 0], theirs.detach().numpy()[mask > 0], atol=1e-4)


def test_a_padded_batch_through_gpt2():
    pair = hugging_face.gpt2()
    tokens, mask = padded(LENGTHS)
    theirs = pair.peer(input_ids=tensor(tokens), attention_mask=tensor(mask)).logits
    assert_equal_on_text(logits_of(pair, {"inputs": tokens, "segments": mask}), theirs, mask)


def test_a_padded_batch_through_bert_for_masked_tokens():
    pair = hugging_face.bert()
    tokens, mask = padded(LENGTHS)
    types = np.random.default_rng(1).integers(0, 2, tokens.shape).astype(np.int32)
    theirs = pair.peer(tensor(tokens), tensor(mask), token_type_ids=tensor(types)).logits
    batch = {"inputs": tokens, "segments": mask, "segment_types": types}
    assert_equal_on_text(logits_of(pair, batch), theirs, mask)


def test_a_padded_batch_through_bert_for_classes():
    pair = hugging_face.bert(num_classes=3)
    tokens, mask = padded(LENGTHS)
    theirs = pair.peer(tensor(tokens), tensor(mask)).logits.detach().numpy()
    ours = logits_of(pair, {"inputs": tokens, "segments": mask})
    assert ours.shape == (3, 3) and np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "version",
    [{}, {"tied": False, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}],
    ids=["1.0", "1.1"],
)
def test_a_padded_batch_through_t5(version):
    pair = hugging_face.t5(**version)
    source, source_mask = padded((30, 7, 22), seed=1)
    tokens, mask = padded((24, 9, 17), seed=2)
    theirs = pair.peer(
        input_ids=tensor(source),
        attention_mask=tensor(source_mask),
        decoder_input_ids=tensor(tokens),
        decoder_attention_mask=tensor(mask),
    ).logits
    batch = {"source": source, "source_segments": source_mask, "inputs": tokens, "segments": mask}
    assert_equal_on_text(logits_of(pair, batch), theirs, mask)


@pytest.mark.parametrize("both_sides", [True, False])
@pytest.mark.parametrize(("count", "furthest"), [(32, 128), (8, 20)])
def test_distances_fall_into_the_buckets_of_t5(count, furthest, both_sides):
    queries, keys = np.arange(200), np.arange(300)
    theirs = T5Attention._relative_position_bucket(
        torch.tensor(keys[None] - queries[:, None]), both_sides, count, furthest
    )
    ours = relative_buckets(jnp.array(queries), jnp.array(keys), count, furthest, both_sides)
    np.testing.assert_array_equal(ours, theirs)


def test_published_models_have_their_published_number_of_parameters():
    def theirs(kind, config):
        with torch.device("meta"):
            return kind(config).num_parameters()

    bert, t5 = transformers.BertForMaskedLM, transformers.T5ForConditionalGeneration
    masked = count_parameters(preset("bert_base"))["total"]
    assert masked == theirs(bert, transformers.BertConfig()) == 109_514_298
    # PyTorch ends both stacks with norms, which the post-norm original does not.
    for name, width, heads in (("transformer_base", 512, 8), ("transformer_big", 1024, 16)):
        peer = torch.nn.Transformer(width, heads, 6, 6, 4 * width, device="meta")
        layers = sum(x.numel() for x in peer.parameters()) - 4 * width
        assert count_parameters(preset(name))["total"] == layers + 37_000 * width
    small = transformers.T5Config(num_layers=6, num_heads=8, d_model=512, d_ff=2048)
    assert count_parameters(preset("t5_small"))["total"] == theirs(t5, small) == 60_506_624
