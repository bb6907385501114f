"""The search for near-copies takes bounded memory where all texts are alike."""

import tracemalloc

import numpy as np

from lm_jax.data.seq2seq import near_duplicates as module
from lm_jax.data.seq2seq.near_duplicates import near_duplicates


def alike(count, seed):
    draw = np.random.default_rng(seed)
    letters = [bytes(row).decode() for row in draw.integers(97, 113, (count, 5), np.uint8)]
    return [f"The file {each} could not be opened: no such directory" for each in letters]


def test_alike_messages_are_compared_in_parts(monkeypatch):
    held_out, train = alike(60, 0), [*alike(700, 1), "something else"]
    whole = near_duplicates(held_out, train)
    peaks = []
    for pairs in (10_000_000, 20_000):
        monkeypatch.setattr(module, "_PAIRS", pairs)
        tracemalloc.start()
        for found, expected in zip(near_duplicates(held_out, train), whole, strict=True):
            np.testing.assert_array_equal(found, expected)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.8 * peaks[0]
    assert whole[1][:-1].mean() > 0.9 and not whole[1][-1]


def test_equal_messages_are_compared_once():
    held_out, train = ["Done: 12%"] * 3 + ["x"], ["Done: 34 %"] * 5 + ["y", "done, 56"]
    in_train, in_held = near_duplicates(held_out, train)
    assert in_train.tolist() == [True] * 3 + [False]
    assert in_held.tolist() == [True] * 5 + [False, True]
