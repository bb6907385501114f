"""Texts while a model writes them: window by window, until each ends or is long enough."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from lm_jax import data
from lm_jax.generation.decode_loop import Source, advance, batch_of_prompts, begin
from lm_jax.generation.sampling import Sampling
from lm_jax.models import Model, Variables

_CHUNK = 32  # tokens between two looks for stop strings

_begin = jax.jit(begin, static_argnames=("model", "prefix_length"))
_advance = jax.jit(
    advance, static_argnames=("model", "sampling", "end_tokens"), donate_argnames="texts"
)


class Completion(NamedTuple):
    """A text that a model wrote."""

    text: str  # with its prompt, unless that was a source
    log_probability: float  # nats, of the generated tokens, their end included
    score: float  # the same; of beam search, over the length penalty


class Text:
    """A text while it is written."""

    def __init__(
        self,
        tokens: list[int],
        limit: int,
        *,
        hidden: int,
        tokenizer: data.Tokenizer,
        stop: Sequence[str] = (),
    ):
        """Begins with the tokens.

        Args:
          limit: tokens that it has at most in the end.
          hidden: how many of the first tokens are no part of it.
          stop: strings that end it.
        """
        self.tokens, self.limit, self.stop = list(tokens), limit, stop
        self._tokenizer, self._hidden = tokenizer, hidden
        self._num_read = len(tokens)
        self._given = len(self._decoded(tokens))
        self._nats: list[float] = []

    def add(self, new: list[int], nats: list[float], ended: bool) -> None:
        """Goes on with what `write` gives."""
        self.tokens += new
        self._nats += nats
        if ended:
            self.limit = len(self.tokens)

    def stops(self, tokens: list[int]) -> bool:
        """Whether one of the strings stands in what these tokens add to the prompt."""
        new = self._decoded(tokens)[self._given :]
        return any(string in new for string in self.stop)

    def completion(self) -> Completion:
        """What it has become, up to the string that ended it."""
        decoded, nats = self._decoded(self.tokens), self._nats
        if self.stops(self.tokens):
            enough = bisect.bisect_left(
                range(len(self.tokens)),
                True,
                lo=self._num_read,
                key=lambda n: self.stops(self.tokens[:n]),
            )
            written = decoded[self._given :]
            cut = min(written.find(string) for string in self.stop if string in written)
            decoded, nats = decoded[: self._given + cut], nats[: enough - self._num_read]
        return Completion(decoded, sum(nats), sum(nats))

    def _decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(np.array(tokens[self._hidden :], np.int32))


def write(
    model: Model,
    variables: Variables,
    texts: Sequence[Text],
    kept: int,
    keys: jax.Array,
    *,
    width: int,
    source: Source | None,
    sampling: Sampling,
    end_token: int,
    vocab_size: int,
) -> list[tuple[list[int], list[float], bool]]:
    """What follows the last `kept` tokens of each text until it ends, or its window is full.

    New tokens, log-probabilities (one more if an end was generated), and whether the text ended.
    The device decodes in one go; with stop strings the host looks at the texts between chunks.
    """
    has_stop = any(text.stop for text in texts)
    read = [text.tokens[-kept:] for text in texts]
    tokens, lengths = batch_of_prompts(read, width, vocab_size)
    room = [max(text.limit - len(text.tokens), 0) for text in texts]
    ends = np.minimum(lengths + np.array(room, np.int32), width)
    shortest = int(lengths[np.array(room) > 0].min())  # what finished rows read matters no more
    state = _begin(model, variables, tokens, lengths, source=source, prefix_length=shortest - 1)
    until = shortest
    while True:
        until = min(until + _CHUNK, width) if has_stop else width
        state = _advance(
            model, variables, state, ends, until, keys, sampling=sampling, end_tokens=(end_token,)
        )
        rows, after, ended = (np.array(part) for part in (state.tokens, state.lengths, state.ended))
        new = [rows[i, lengths[i] : after[i]].tolist() for i in range(len(texts))]
        if has_stop:
            ended |= [
                bool(n) and text.stops(text.tokens + n) for text, n in zip(texts, new, strict=True)
            ]
            state = state._replace(ended=jax.numpy.asarray(ended))
        if until == width or (ended | (after >= ends)).all():
            break
    log_p = np.asarray(state.log_probabilities)
    counts = [
        len(n) + int(log_p[i, lengths[i] + len(n) : ends[i]].any()) for i, n in enumerate(new)
    ]
    return [
        (n, log_p[i, lengths[i] : lengths[i] + counts[i]].tolist(), bool(ended[i]))
        for i, n in enumerate(new)
    ]


def keys_of(seed: int, sample_numbers: np.ndarray, window: int) -> jax.Array:
    """A key for each sample [S], by its number, and for each window of it."""
    key = jax.random.fold_in(jax.random.key(seed), window)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, sample_numbers)
