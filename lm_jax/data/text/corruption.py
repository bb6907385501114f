"""Texts spoiled for a model to mend: masked tokens, corrupted spans, prefixes. Pure functions."""

from typing import NamedTuple

import numpy as np

from lm_jax.errors import UserError


class Masked(NamedTuple):
    """Tokens as a model sees them, and which it must tell; both of the shape of the tokens."""

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
    """BERT's corruption: of the chosen tokens 80% masked, 10% random, 10% as they are.

    Devlin et al. 2019, section 3.1. Each token is chosen with probability `rate`, `special` never;
    random ones are drawn uniformly from the ids below `ordinary` but `special`.

    Args:
      tokens: int [..., T].
      word_starts: bool [..., T]; when given, whole words are chosen, which begin there. What
        becomes of a chosen token is still decided for itself.
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
    """How many tokens of a text are noise, and in how many spans they lie (T5)."""
    noise = min(max(round(length * density), 1), length - 1)
    return noise, min(max(round(noise / mean_span), 1), noise, length - noise)


def noise_spans(
    length: int, rng: np.random.Generator, density: float, mean_span: float
) -> np.ndarray:
    """Which tokens of a text are noise, bool [length]: T5's random_spans_noise_mask.

    Raffel et al. 2020, section 3.1.4. Numbers of tokens and of spans are fixed by the length; both
    noise and the rest are cut into as many parts, at random places. The text begins with the rest.

    Raises:
      UserError: there is no room for a token of noise and one of the rest.
    """
    if length < 2:
        raise UserError(f"a text of {length} tokens has no span to corrupt; expected 2 or more")
    noise, spans = num_noise_spans(length, density, mean_span)
    parts = np.stack([_parts(length - noise, spans, rng), _parts(noise, spans, rng)], axis=1)
    return np.repeat(np.tile([False, True], spans), parts.reshape(-1))


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random lengths of `count` parts, none empty, every way to cut equally likely."""
    cuts = np.sort(rng.choice(total - 1, size=count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt_spans(
    tokens: np.ndarray, is_noise: np.ndarray, sentinels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Source and targets of `noise_spans`: each holds a sentinel where the other holds the text.

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
    """The tokens with the n-th run of those gone replaced by the n-th sentinel."""
    opens = is_gone & ~np.concatenate([[False], is_gone[:-1]])
    marked = np.where(opens, sentinels[np.maximum(np.cumsum(opens) - 1, 0)], tokens)
    return marked[opens | ~is_gone].astype(np.int32)


def restore_spans(source: np.ndarray, target: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """The text that a source and its targets came from."""
    is_sentinel = np.isin(target, sentinels)
    parts = np.split(target, np.flatnonzero(is_sentinel))[1:]
    spans = {int(part[0]): part[1:] for part in parts}
    merged = [spans[int(token)] if int(token) in spans else [token] for token in source]
    return np.concatenate(merged).astype(np.int32)


def corrupted_lengths(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How long the source and the targets of a text become, each with an end."""
    noise, spans = num_noise_spans(length, density, mean_span)
    return length - noise + spans + 1, noise + spans + 1


def longest_text(source_length: int, context_length: int, density: float, mean_span: float) -> int:
    """The longest text whose corrupted source and targets fit; 0: none does."""
    length = 1
    while True:
        source, target = corrupted_lengths(length + 1, density, mean_span)
        if source > source_length or target > context_length:
            return length if length > 1 else 0
        length += 1


def choose_prefix(segments: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """1 on a random prefix of each segment of a row [T], int32; 0 elsewhere and on padding.

    Raffel et al. 2020, section 3.2.3: of n tokens the first 0 to n - 1, each as likely.
    """
    bounds = np.flatnonzero(np.diff(segments, prepend=-1, append=-1))
    lengths = np.diff(bounds)
    prefixes = rng.integers(lengths)
    index = np.arange(len(segments)) - np.repeat(bounds[:-1], lengths)
    return ((index < np.repeat(prefixes, lengths)) & (segments > 0)).astype(np.int32)
