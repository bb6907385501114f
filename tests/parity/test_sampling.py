"""Filters of logits beside the logits processors of Hugging Face transformers."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.generation.sampling import (
    Sampling,
    filter_min_p,
    filter_top_k,
    filter_top_p,
    penalize,
    process,
    tokens_seen,
)
from tests.parity.hugging_face import LIBRARIES
from tests.parity.recorded import reference

LOGITS = np.random.default_rng(0).normal(0, 3, (64, 50)).astype(np.float32)
READ = np.random.default_rng(1).integers(0, 50, (64, 20))
SEEN = tokens_seen(jnp.asarray(READ), jnp.int32(20), 50)


def hugging_face(case, processors):
    """Returns the logits after the processors that `processors()` makes."""

    def compute(inputs):
        import torch

        logits, read = map(torch.tensor, inputs)
        for processor in processors():
            logits = processor(read, logits)
        return {"logits": logits.numpy()}

    return reference("sampling", case, compute, (LOGITS, READ), libraries=LIBRARIES)["logits"]


@pytest.mark.parametrize("value", [0.5, 1.3, 2.0])
def test_the_repetition_penalty_is_hugging_faces(value):
    def processors():
        from transformers import RepetitionPenaltyLogitsProcessor

        return [RepetitionPenaltyLogitsProcessor(value)]

    expected = hugging_face(f"repetition penalty {value}", processors)
    np.testing.assert_allclose(penalize(jnp.asarray(LOGITS), SEEN, value), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (filter_top_k, "TopKLogitsWarper", [1, 5, 50]),
        (filter_top_p, "TopPLogitsWarper", [0.1, 0.5, 0.9, 0.99]),
        (filter_min_p, "MinPLogitsWarper", [0.01, 0.1, 1.0]),
    ],
)
def test_each_filter_is_hugging_faces(ours, theirs, values):
    for value in values:

        def processors(value=value):
            import transformers

            return [getattr(transformers, theirs)(value)]

        expected = hugging_face(f"{theirs} {value}", processors)
        np.testing.assert_array_equal(ours(jnp.asarray(LOGITS), value), expected)


def test_all_of_them_apply_in_hugging_faces_order():
    fields = {"repetition_penalty": 1.5, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    fields["min_p"] = 0.03

    def processors():
        from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

        network = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=4, n_layer=1, n_head=1))
        config = GenerationConfig(do_sample=True, **fields)
        return network._get_logits_processor(config, input_ids_seq_length=20)

    expected = hugging_face("all filters", processors)
    assert 1 < np.isfinite(expected).sum(axis=1).mean() < 20
    found = process(jnp.asarray(LOGITS), Sampling(**fields), SEEN)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
