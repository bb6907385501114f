"""Which text is looked at."""

import numpy as np

from lm_jax.analysis.text_example import example_of


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
