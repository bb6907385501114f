import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, train_tokenizer
from lm_jax.data.text.corruption import (
    choose_prefix,
    corrupt_spans,
    corrupted_lengths,
    longest_text,
    mask_tokens,
    noise_spans,
    num_noise_spans,
)
from lm_jax.data.word_boundaries import word_boundaries
from lm_jax.errors import UserError
from tests.data.text.spans import restore_spans

END, MASK = 7, 500


def rng():
    return np.random.default_rng(0)


def within(share, expected, count, deviations=4):
    return abs(share - expected) < deviations * np.sqrt(expected * (1 - expected) / count)


def test_masks_follow_berts_rates():
    tokens = rng().integers(100, 500, size=(400, 512))
    seen, chosen = mask_tokens(tokens, rng(), rate=0.15, mask=MASK, ordinary=MASK, special=END)
    assert within(chosen.mean(), 0.15, tokens.size)
    changed = seen[chosen] != tokens[chosen]
    masked = seen[chosen] == MASK
    assert within(masked.mean(), 0.8, chosen.sum())
    assert within((changed & ~masked).mean(), 0.1 * 498 / 499, chosen.sum())
    np.testing.assert_array_equal(seen[~chosen], tokens[~chosen])


def test_special_tokens_are_neither_chosen_nor_drawn():
    tokens = np.full((50, 200), END)
    tokens[:, ::2] = 3
    seen, chosen = mask_tokens(tokens, rng(), rate=0.9, mask=9, ordinary=9, special=END)
    assert not chosen[tokens == END].any() and (seen[tokens == END] == END).all()
    drawn = set(seen[chosen].tolist())
    assert drawn == {0, 1, 2, 3, 4, 5, 6, 8, 9}  # all but END


def test_whole_words_are_chosen_together_at_the_same_rate():
    starts = np.random.default_rng(1).random((200, 500)) < 0.4
    starts[:, 0] = True
    tokens = rng().integers(100, 500, size=starts.shape)
    _, chosen = mask_tokens(
        tokens, rng(), rate=0.15, mask=MASK, ordinary=MASK, special=END, word_starts=starts
    )
    words = np.cumsum(starts, axis=1)
    for row in range(len(tokens)):
        counts = np.bincount(words[row], chosen[row])
        assert set(counts[1:] / np.bincount(words[row])[1:]) <= {0, 1}
    assert chosen.mean() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "word"])
def test_words_begin_at_spaces_and_signs(kind):
    texts = ["the cat, (the dog) The end of it"] * 4
    tokenizer = train_tokenizer(TokenizerConfig(kind, 300), texts)
    tokens = tokenizer.encode(texts[0])
    starts = word_boundaries(tokenizer).starts(tokens)
    words = [tokenizer.decode(part) for part in np.split(tokens, np.flatnonzero(starts)[1:])]
    assert [word.strip(" ") for word in words if word.strip(" ")] == (
        ["the", "cat", ",", "(", "the", "dog", ")", "The", "end", "of", "it"]
    )


@pytest.mark.parametrize("length", [2, 3, 17, 100, 512])
@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.5, 3.0), (0.15, 10.0)])
def test_noise_has_the_numbers_of_t5(length, density, mean_span):
    generator = rng()
    for _ in range(20):
        is_noise = noise_spans(length, generator, density, mean_span)
        noise, spans = num_noise_spans(length, density, mean_span)
        assert len(is_noise) == length and is_noise.sum() == noise
        assert np.sum(np.diff(is_noise.astype(int)) == 1) == spans
        assert not is_noise[0] and is_noise[-1]
        assert noise == min(max(round(length * density), 1), length - 1)


def test_spans_are_uniform_over_all_ways_to_cut():
    generator, count = rng(), 20_000
    found = [noise_spans(20, generator, 0.3, 3.0) for _ in range(count)]
    # 6 tokens of noise in 2 spans: the first has 1 to 5 of them, each as likely.
    first_spans = [int(np.flatnonzero(np.diff(m.astype(int)) == -1)[0]) for m in found]
    starts = [int(np.flatnonzero(m)[0]) for m in found]
    lengths = np.array(first_spans) - np.array(starts) + 1
    for length in range(1, 6):
        assert within((lengths == length).mean(), 1 / 5, count)
    for start in range(1, 14):  # 14 tokens of text in 2 parts
        assert within((np.array(starts) == start).mean(), 1 / 13, count)


def test_the_example_of_t5():
    """Raffel et al. 2020, figure 2: "Thank you <X> me to your party <Y> week." and its target."""
    text = "Thank you for inviting me to your party last week .".split()
    vocabulary = {word: number for number, word in enumerate(text)}
    tokens = np.array([vocabulary[word] for word in text])
    is_noise = np.isin(text, ["for", "inviting", "last"])
    source, target = corrupt_spans(tokens, is_noise, np.array([99, 98, 97]))
    assert source.tolist() == [0, 1, 99, 4, 5, 6, 7, 98, 9, 10]
    # The figure closes with <Z>, the sentinel of the text after the last span.
    assert target.tolist() == [99, 2, 3, 98, 8, 97]


def test_source_and_target_give_back_the_text():
    generator = rng()
    for length in (2, 5, 64, 300):
        tokens = generator.integers(50, size=length)
        is_noise = noise_spans(length, generator, 0.15, 3.0)
        sentinels = 999 - np.arange(num_noise_spans(length, 0.15, 3.0)[1])
        source, target = corrupt_spans(tokens, is_noise, sentinels)
        assert (len(source) + 1, len(target) + 1) == corrupted_lengths(length, 0.15, 3.0)
        np.testing.assert_array_equal(restore_spans(source, target, sentinels), tokens)
        assert set(source) & set(target) >= set(sentinels)


def test_the_longest_text_is_t5s():
    # T5's random_spans_helper: inputs of 512 hold texts of 568 tokens, with targets of 114.
    assert longest_text(512, 114, 0.15, 3.0) == 568
    assert corrupted_lengths(568, 0.15, 3.0) == (512, 114)
    assert longest_text(512, 10, 0.15, 3.0) < 568
    assert longest_text(2, 2, 0.15, 3.0) == 0


def test_too_few_sentinels_are_refused():
    with pytest.raises(UserError, match="2 spans need as many sentinels; there are 1"):
        corrupt_spans(np.arange(4), np.array([False, True] * 2), np.array([9]))


def test_prefixes_are_of_every_length_in_every_segment():
    segments = np.array([1] * 4 + [2] * 6 + [0] * 5)
    lengths = []
    for seed in range(4000):
        prefix = choose_prefix(segments, np.random.default_rng(seed))
        assert not prefix[10:].any()
        for part in (prefix[:4], prefix[4:10]):
            assert (np.diff(part) <= 0).all()  # a beginning of its segment
        lengths.append((prefix[:4].sum(), prefix[4:10].sum()))
    first, second = np.array(lengths).T
    assert set(first) == set(range(4)) and set(second) == set(range(6))
    assert all(within((second == n).mean(), 1 / 6, 4000) for n in range(6))
