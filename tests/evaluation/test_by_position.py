"""The loss by position in the context, against sums written out."""

import jax
import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, tokenize
from lm_jax.data.text.windows import evaluation_batches
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.evaluation.by_position import position_bins
from lm_jax.evaluation.loss_sums import (
    MeasuredLosses,
    PositionSums,
    sum_by_document,
    sum_by_position,
)
from lm_jax.parallel import sharding

TEXTS = ["a first document " * 3, "ünïcode", "x", "the longest of them all " * 5]
CONTEXT = 16


@jax.jit
def losses_of_tokens(variables, batch):
    """Returns nats that differ between targets and between inputs."""
    nats = 0.01 * batch["targets"] + 0.37 * batch["inputs"]
    return MeasuredLosses(nats, 0 * nats, {})


def plain_sums(texts, stride):
    """Returns sums over windows of one document at a time, each target counted once."""
    sums = np.zeros((2, CONTEXT))
    for text in texts:
        tokens = [256, *text.encode(), 256]
        counted = 0
        for first in range(0, len(tokens) - 1, stride):
            window = tokens[first : first + CONTEXT + 1]
            for place in range(len(window) - 1):
                if first + place >= counted:
                    nats = 0.01 * window[place + 1] + 0.37 * window[place]
                    sums[:, place] += nats, 1
                    counted = first + place + 1
    return sums


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[-1:]])  # one document has no positions of its own
@pytest.mark.parametrize(("devices", "batch_size", "stride"), [(1, 3, 16), (1, 64, 5), (2, 4, 16)])
def test_sums_are_those_of_each_position_of_each_window(texts, devices, batch_size, stride):
    documents = tokenize(train_tokenizer(TokenizerConfig("byte"), []), texts)
    batches = evaluation_batches(
        documents, context_length=CONTEXT, batch_size=batch_size, stride=stride
    )
    mesh = sharding.make_mesh(f"data:{devices}", jax.devices()[:devices])
    found = sum_by_position(losses_of_tokens, {}, batches, CONTEXT, mesh)
    nats, tokens = plain_sums(texts, stride)
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_allclose(found.nats, nats, rtol=1e-6)

    whole = sum_by_document(losses_of_tokens, {}, batches, len(texts), mesh)
    assert found.tokens.sum() == whole.tokens.sum() == sum(len(t.encode()) + 1 for t in texts)
    assert found.nats.sum() == pytest.approx(whole.nats.sum(), rel=1e-12)


def test_bins_of_an_octave_are_1_2_3_to_4_and_so_on():
    sums = PositionSums(np.arange(1.0, 12), np.full(11, 2.0))
    spans = [(part.first, part.last) for part in position_bins(sums, per_octave=1)]
    assert spans == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 11)]
    assert position_bins(sums, per_octave=1)[3].nats == pytest.approx((5 + 6 + 7 + 8) / 8)
    fine = position_bins(sums, per_octave=4)
    assert sum(part.tokens for part in fine) == 22
    assert sum(part.nats * part.tokens for part in fine) == pytest.approx(sums.nats.sum())
    assert position_bins(PositionSums(np.ones(1), np.ones(1)), per_octave=4) == [(1, 1, 1.0, 1)]


def test_positions_without_targets_are_left_out():
    sums = PositionSums(np.array([0.0, 0.0, 6.0, 0.0]), np.array([0.0, 0.0, 3.0, 0.0]))
    assert position_bins(sums, per_octave=1) == [(3, 4, 2.0, 3)]
