"""Which tokens a model of each kind reads of a text, and that their states come back in order."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lm_jax.analysis.attention_maps import AttentionReader
from lm_jax.analysis.text_states import StateReader, embed_texts
from lm_jax.build import build_experiment
from lm_jax.data import TokenizerConfig, train_tokenizer
from lm_jax.errors import UserError
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.transformer.config import (
    EncoderConfig,
    EncoderDecoderConfig,
    TransformerConfig,
)
from lm_jax.objectives import OBJECTIVES
from lm_jax.parallel import sharding
from tests.experiments import tiny

BYTES = train_tokenizer(TokenizerConfig("byte"), [""])
_SHAPE = {"context_length": 16, "num_layers": 2, "d_model": 16, "num_heads": 4, "vocab_size": 258}
CASES = {
    "causal_lm": TransformerConfig(**_SHAPE),
    "masked_lm": EncoderConfig(**_SHAPE),
    "classification": EncoderConfig(**_SHAPE, num_classes=2),
    "seq2seq": EncoderDecoderConfig(**_SHAPE, source_length=16),
}
TEXTS = ["ab", "", "x" * 40, "\U0001f642"]
END = 256


def reader_of(objective, config=None, tokenizer=BYTES):
    experiment = tiny(objective=objective, model=config or CASES[objective])
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    built = SimpleNamespace(experiment=experiment, objective=OBJECTIVES[objective], mesh=mesh)
    return StateReader(built, {}, tokenizer)


def as_read(objective, text):
    """The tokens that a model of an objective reads of a text."""
    tokens = [*text.encode()]
    kinds = {"classification": tokens or [END], "seq2seq": [*tokens, END]}
    return kinds.get(objective, [END, *tokens])


@pytest.mark.parametrize("objective", CASES)
def test_the_states_of_each_token_are_those_where_it_was_read(objective, monkeypatch):
    reader = reader_of(objective)

    def echo(variables, batch, layers):
        """The tokens and positions of the batch, as states of one layer."""
        source = "source" if "source" in batch else "inputs"
        positions = batch["source_positions" if source == "source" else "positions"]
        return np.stack([batch[source], positions], axis=-1)[:, None].astype(np.float32)

    reader._states = echo
    found = reader.read(TEXTS, None, 0, 0)
    for text, each in zip(TEXTS, found, strict=True):
        expected = as_read(objective, text)
        assert each.tokens.tolist() == expected and len(each.offsets) == len(expected)
        np.testing.assert_array_equal(each.states_ltd[0, :, 0], expected)
        np.testing.assert_array_equal(each.states_ltd[0, :, 1], np.arange(len(expected)) % 16)
    own = found[0].tokens.tolist().index(ord("a"))
    assert found[0].offsets[own : own + 2].tolist() == [[0, 1], [1, 2]]
    held, read = [], reader.read
    monkeypatch.setattr(
        reader, "read", lambda part, *a, **k: held.append(part) or read(part, *a, **k)
    )
    monkeypatch.setattr("lm_jax.analysis.text_states._MOST_TEXTS", 3)
    monkeypatch.setattr("lm_jax.analysis.text_windows.token_offsets", None)  # not asked for
    pooled = embed_texts(reader, TEXTS, "mean", 0, 0, 0)[:, 0]
    assert held == [TEXTS[:3], TEXTS[3:]]
    tokens = [as_read(objective, text) for text in TEXTS]
    opens = objective in ("causal_lm", "masked_lm")
    kept = [each[1:] if opens and len(each) > 1 else each for each in tokens]
    np.testing.assert_allclose(pooled, [np.mean(each) for each in kept])


@pytest.mark.parametrize(("objective", "closing"), [("masked_lm", [END]), ("causal_lm", [])])
def test_an_encoder_with_a_token_that_opens_texts_reads_their_end(objective, closing):
    """As BERT: [CLS] text [SEP], neither of which the mean of a text counts."""
    opened = BYTES._replace(opening=7)
    reader = reader_of(objective, tokenizer=opened)
    reader._states = lambda variables, batch, layers: batch["inputs"][:, None, :, None].astype(
        np.float32
    )
    for text, found in zip(TEXTS, reader.read(TEXTS, None, 0, 0), strict=True):
        expected = [7, *text.encode(), *closing]
        assert found.tokens.tolist() == found.states_ltd[0, :, 0].tolist() == expected
        assert len(found.offsets) == len(expected)
        assert not closing or found.offsets[-1].tolist() == [len(text)] * 2
    means = [np.mean([*text.encode()] or [7]) for text in TEXTS]
    np.testing.assert_allclose(embed_texts(reader, TEXTS, "mean", 0, 0, 0)[:, 0], means)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["masked_lm", "seq2seq"])
def test_encoders_and_encoder_decoders_show_what_they_have(objective, monkeypatch):
    devices = jax.devices()[:1]
    data = {"masked_lm": tiny().data}.get(objective)
    experiment = tiny(objective=objective, model=CASES[objective])
    if data is None:
        from lm_jax.data import ParallelTextConfig

        experiment.data = ParallelTextConfig.small()
    built = build_experiment(experiment, {"vocab_size": 257}, devices)
    variables = sharding.unboxed(
        jax.jit(built.model.init)(
            jax.random.key(0),
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), built.example),
        )
    )
    reader = StateReader(built, variables, BYTES)
    together = reader.read(TEXTS, None, 0, 0)
    for text, each in zip(TEXTS, together, strict=True):
        (alone,) = reader.read([text], None, 0, 0)
        assert each.states_ltd.shape == (3, len(as_read(objective, text)), 16)
        np.testing.assert_allclose(alone.states_ltd, each.states_ltd, atol=1e-5)
    attention = AttentionReader(built, variables, BYTES)
    if objective == "masked_lm":
        found = attention.read("abc", None)
        assert found.weights.shape == (2, 4, 4, 4)
        np.testing.assert_allclose(found.weights.sum(-1), 1, rtol=1e-5)
        closed = AttentionReader(built, variables, BYTES._replace(opening=7)).read("abc", None)
        assert closed.weights.shape == (2, 4, 5, 5)
        return
    with pytest.raises(UserError, match="has an encoder: give the text and the source"):
        attention.read("abc", None)
    found = attention.read("abc", "wxyz")
    shapes = {kind: of_kind.weights.shape for kind, of_kind in found.maps.items()}
    assert shapes == {"encoder": (2, 4, 5, 5), "decoder": (2, 4, 4, 4), "cross": (2, 4, 4, 5)}
    assert found.maps["cross"].keys == ["w", "x", "y", "z", "<end>"]
    for of_kind in found.maps.values():
        np.testing.assert_allclose(of_kind.weights.sum(-1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="attention of 3 kinds: take maps.KIND.* encoder, decoder,"):
        _ = found.weights


def test_a_model_without_states_or_attention_says_so():
    with pytest.raises(UserError, match="model.family mlp shows no hidden states; Transformers do"):
        reader_of("causal_lm", MLPConfig())
    built = SimpleNamespace(experiment=tiny(model=MLPConfig()))
    with pytest.raises(UserError, match="model.family mlp has no attention to show"):
        AttentionReader(built, {}, BYTES)
