"""Which text is looked at, and what its tokens are called."""

import numpy as np

from lm_jax.data import TokenizerConfig
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.models.transformer import EncoderConfig
from lm_jax.text_findings import example_of, namer
from tests.experiments import tiny

TOKENIZER = train_tokenizer(TokenizerConfig("byte"), [])


def row(*lengths, width):
    """Tokens 0, 1, ... of segments of these lengths, then padding."""
    segments = np.repeat(np.arange(len(lengths)) + 1, lengths)
    return np.pad(segments, (0, width - len(segments)))


def test_the_first_text_is_taken_alone():
    segments = np.stack([row(5, 20, width=80), row(70, width=80)])
    batch = {"inputs": np.arange(160).reshape(2, 80), "segments": segments, "targets": np.zeros(2)}
    taken = example_of(batch)
    assert set(taken) == {"inputs", "segments"}
    np.testing.assert_array_equal(taken["inputs"], [range(5)])
    np.testing.assert_array_equal(example_of({"inputs": batch["inputs"]})["inputs"], [range(80)])


def test_of_pairs_the_longest_is_taken_that_can_be_looked_at_whole():
    batch = {
        "inputs": np.arange(160).reshape(2, 80),
        "segments": np.stack([row(50, 9, width=80), row(10, 20, width=80)]),
        "source": np.arange(200).reshape(2, 100),
        "source_segments": np.stack([row(9, 31, width=100), row(12, 60, width=100)]),
    }
    taken = example_of(batch)
    np.testing.assert_array_equal(taken["inputs"], [range(50, 59)])
    np.testing.assert_array_equal(taken["source"], [range(9, 40)])
    only_long = {name: value[:1, :50] for name, value in batch.items()}
    assert example_of(only_long)["inputs"].shape == (1, 50)


def test_tokens_are_named_by_what_they_stand_for():
    experiment = tiny(objective="masked_lm", model=EncoderConfig(vocab_size=258))
    name = namer(TOKENIZER, experiment)
    assert [name(token) for token in (104, 32, 10, 226, 256, 257)] == [
        "h", "\u00b7", "\\n", "<#226>", "<end>", "<mask>"
    ]  # fmt: skip
    experiment.objective = "span_corruption"
    experiment.model.vocab_size = 259
    assert [namer(TOKENIZER, experiment)(token) for token in (258, 257)] == ["<1>", "<2>"]
