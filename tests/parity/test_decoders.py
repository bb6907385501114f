"""Choices of decoders beside Hugging Face transformers at the same weights."""

import jax
import numpy as np
import pytest

from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.models.transformer.rotary import rotation_of
from tests.conftest import slow_but
from tests.parity import decoders
from tests.parity.hugging_face import LIBRARIES
from tests.parity.recorded import reference
from tests.parity.test_hugging_face import assert_equal_logits, padded


@pytest.mark.parametrize("name", slow_but(decoders.DECODERS, "gemma2", "gemma3"))
def test_a_padded_batch_through_a_decoder(name):
    tokens, mask = padded((20, 13))
    batch = {"inputs": tokens, "segments": mask}
    pair = decoders.DECODERS[name]()
    assert_equal_logits(pair, batch, mask, input_ids=tokens, attention_mask=mask)


# Of Gemma 3 27B, Llama 3.1 8B and Qwen 2.5, and of a model that is half rotary.
SCALINGS = {
    "linear": {"rotary_factor": 8.0, "rotary_base": 1e6},
    "llama3": {"rotary_factor": 8.0, "rotary_base": 5e5, "rotary_original_length": 8192},
    "yarn": {"rotary_factor": 4.0, "rotary_base": 1e6, "rotary_original_length": 32_768},
    "yarn, half": {"rotary_factor": 40.0, "rotary_original_length": 4096, "rotary_fraction": 0.5}
    | {"rotary_beta_fast": 24.0, "rotary_beta_slow": 2.0},
}


@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_embeddings_are_scaled_as_in_transformers(name):
    scaling = name.partition(",")[0]
    config = TransformerConfig(
        num_heads=2, head_dim=128, rotary_scaling=scaling, positions="rotary", **SCALINGS[name]
    )
    theirs = {
        "rope_theta": config.rotary_base,
        "rope_type": scaling,
        "factor": config.rotary_factor,
        "partial_rotary_factor": config.rotary_fraction,
        "original_max_position_embeddings": config.rotary_original_length,
        "low_freq_factor": config.rotary_low_factor,
        "high_freq_factor": config.rotary_high_factor,
        "beta_fast": config.rotary_beta_fast,
        "beta_slow": config.rotary_beta_slow,
    }

    def compute(_):
        import transformers
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        shape = transformers.LlamaConfig(head_dim=128, rope_parameters=theirs)
        frequencies, factor = ROPE_INIT_FUNCTIONS[scaling](shape, "cpu")
        return {"frequencies": frequencies.numpy(), "factor": factor}

    numbers = [x for x in theirs.values() if x != scaling]
    expected = reference("decoders", f"rotary {name}", compute, numbers, libraries=LIBRARIES)
    found = jax.jit(lambda: rotation_of(config))()
    np.testing.assert_allclose(found.frequencies_i, expected["frequencies"], rtol=1e-5)
    assert found.factor == pytest.approx(float(expected["factor"]), rel=1e-6)
