"""Corruptions of a text that a model learns to undo: masks, spans, prefixes. Pure functions."""

from typing import NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.plurals import counted


class Masked(NamedTuple):
    """What a model reads, and which tokens it predicts; both in the shape of the tokens."""

    tokens: np.ndarray  # int32
    chosen: np.ndarray  # bool


def mask_tokens(
    tokens: np.ndarray,
    rng: np.random.Generator,
    *,
    rate: float,
    mask: int,
    ordinary: int,
    special: int,
    word_starts: np.ndarray | None = None,
) -> Masked:
    """Returns BERT's corruption: 80% of chosen tokens masked, 10% random, 10% unchanged.

    Devlin et al. 2019, section 3.1. Each token is chosen with probability `rate`, `special` never;
    random tokens are drawn uniformly from the ids below `ordinary` other than `special`.

    Args:
      tokens: int [..., T].
      word_starts: where words begin, bool [..., T]. If given, whole words are chosen; whether a
        chosen token is masked, random or unchanged is still drawn for each token.
    """
    is_special = tokens == special
    draws = rng.random(tokens.shape)
    if word_starts is not None:
        starts = word_starts | is_special
        first = np.maximum.accumulate(np.where(starts, np.arange(tokens.shape[-1]), 0), axis=-1)
        draws = np.take_along_axis(draws, first, axis=-1)
    chosen = (draws < rate) & ~is_special
    fate = rng.random(tokens.shape)
    other = rng.integers(ordinary - 1, size=tokens.shape)
    other += other >= special
    seen = np.where(chosen & (fate < 0.8), mask, tokens)
    seen = np.where(chosen & (fate >= 0.9), other, seen)
    return Masked(seen.astype(np.int32), chosen)


def num_noise_spans(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Returns the numbers of noise tokens and of noise spans in a text of this length (T5)."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / mean_span), 1), noise, length - noise)


def noise_spans(
    length: int, rng: np.random.Generator, density: float, mean_span: float
) -> np.ndarray:
    """Returns which tokens of a text are noise, bool [length]: T5's random_spans_noise_mask.

    Raffel et al. 2020, section 3.1.4. The length fixes the numbers of noise tokens and of spans.
    Noise and the rest are each cut into that number of parts at random positions, and alternate,
    beginning with the rest.

    Raises:
      UserError: the text is too short for a token of noise and another one.
    """
    if length < 2:
        raise UserError(
            f"a text of {counted(length, 'token')} has no span to corrupt; expected 2 or more"
        )
    noise, spans = num_noise_spans(length, density, mean_span)
    parts = np.stack([_parts(length - noise, spans, rng), _parts(noise, spans, rng)], axis=1)
    return np.repeat(np.tile([False, True], spans), parts.reshape(-1))


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns lengths of `count` non-empty parts of `total`; all ways to cut are equally likely."""
    cuts = np.sort(rng.choice(total - 1, size=count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt_spans(
    tokens: np.ndarray, is_noise: np.ndarray, sentinels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns source and targets: each holds a sentinel where the other holds a run of the text.

    The source begins with text and the targets with the sentinel of the first span, as in T5.

    Raises:
      UserError: there are fewer sentinels than spans.
    """
    spans = int(np.sum(is_noise[1:] & ~is_noise[:-1]))
    if spans > len(sentinels):
        raise UserError(f"{spans} spans need as many sentinels; there are {len(sentinels)}")
    return (
        _replace_runs(tokens, is_noise, sentinels),
        _replace_runs(tokens, ~is_noise, sentinels),
    )


def _replace_runs(tokens: np.ndarray, is_gone: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """Returns the tokens with the n-th run of those that are gone replaced by sentinel n."""
    opens = is_gone & ~np.concatenate([[False], is_gone[:-1]])
    marked = np.where(opens, sentinels[np.maximum(np.cumsum(opens) - 1, 0)], tokens)
    return marked[opens | ~is_gone].astype(np.int32)


def corrupted_lengths(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """Returns the lengths of a text's corrupted source and targets, each with an end."""
    noise, spans = num_noise_spans(length, density, mean_span)
    return length - noise + spans + 1, noise + spans + 1


def longest_text(source_length: int, context_length: int, density: float, mean_span: float) -> int:
    """Returns the length of the longest text whose source and targets fit; 0 if none does."""
    length = 1
    while True:
        source, target = corrupted_lengths(length + 1, density, mean_span)
        if source > source_length or target > context_length:
            return length if length > 1 else 0
        length += 1


def choose_prefix(segments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns 1 on a random prefix of each segment of a row, 0 elsewhere; int32 [T].

    The prefix of n tokens has 0 to n - 1 tokens, all equally likely (Raffel et al. 2020, section
    3.2.3). Segment 0 is padding.
    """
    bounds = np.flatnonzero(np.diff(segments, prepend=-1, append=-1))
    lengths = np.diff(bounds)
    prefixes = rng.integers(lengths)
    index = np.arange(len(segments)) - np.repeat(bounds[:-1], lengths)
    return ((index < np.repeat(prefixes, lengths)) & (segments > 0)).astype(np.int32)
