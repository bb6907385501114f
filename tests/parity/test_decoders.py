"""Choices of decoders beside Hugging Face transformers at the same weights."""

import pytest

from tests.conftest import slow_but
from tests.parity import decoders
from tests.parity.test_hugging_face import assert_equal_logits, padded


@pytest.mark.parametrize("name", slow_but(decoders.DECODERS, "gemma2"))
def test_a_padded_batch_through_a_decoder(name):
    tokens, mask = padded((20, 13))
    batch = {"inputs": tokens, "segments": mask}
    pair = decoders.DECODERS[name]()
    assert_equal_logits(pair, batch, mask, input_ids=tokens, attention_mask=mask)
