"""Generates texts that may be longer than the model's context, one window of tokens at a time."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from lm_jax import data
from lm_jax.generation.decode_loop import (
    EncoderInput,
    advance,
    batch_of_prompts,
    begin,
    prefix_of,
    prepare_variables,
)
from lm_jax.generation.sampling import Sampling
from lm_jax.models import Model, Variables

_CHUNK = 32  # tokens between two searches for stop strings

_begin = jax.jit(begin, static_argnames=("model", "prefix_length"))
_advance = jax.jit(
    advance,
    static_argnames=("model", "sampling", "end_tokens", "is_prepared"),
    donate_argnames="state",
)
_prepare = jax.jit(prepare_variables, static_argnames="model")


class Completion(NamedTuple):
    """A generated text."""

    text: str  # begins with the prompt, unless the prompt was a source
    log_probability: float  # sum over the generated tokens, the end token included, in nats
    score: float  # sampled texts: the log-probability; beam search: divided by the length penalty
    prompt_characters: int = 0  # at the beginning of the text


class Continuation(NamedTuple):
    """The tokens that one window adds to a text."""

    tokens: list[int]
    log_probabilities: list[float]  # nats; one value more than tokens if the text ended
    ended: bool


class UnfinishedText:
    """A prompt and the tokens generated after it."""

    def __init__(
        self,
        prompt: list[int],
        max_length: int,
        *,
        num_hidden: int,
        tokenizer: data.Tokenizer,
        stop: Sequence[str] = (),
    ):
        """Starts a text with the tokens of its prompt.

        Args:
          max_length: maximum number of tokens, the prompt included.
          num_hidden: number of leading tokens that are not part of the decoded text.
          stop: strings that end the text.
        """
        self.tokens, self.max_length, self.stop = list(prompt), max_length, stop
        self._tokenizer, self._num_hidden = tokenizer, num_hidden
        self._prompt_length = len(prompt)
        self._prompt_characters = len(self._decode(prompt))
        self._log_probabilities: list[float] = []

    @property
    def num_missing(self) -> int:
        """Number of tokens that can still be generated; 0 once the text has ended."""
        return max(self.max_length - len(self.tokens), 0)

    def add(self, continuation: Continuation) -> None:
        """Appends the tokens of a window."""
        self.tokens += continuation.tokens
        self._log_probabilities += continuation.log_probabilities
        if continuation.ended:
            self.max_length = len(self.tokens)

    def has_stop_string(self, tokens: list[int]) -> bool:
        """Returns whether the text that these tokens add to the prompt contains a stop string."""
        new = self._decode(tokens)[self._prompt_characters :]
        return any(string in new for string in self.stop)

    def completion(self) -> Completion:
        """Returns the text so far, cut before the first stop string."""
        decoded, log_probabilities = self._decode(self.tokens), self._log_probabilities
        if self.has_stop_string(self.tokens):
            num_tokens = bisect.bisect_left(
                range(len(self.tokens)),
                True,
                lo=self._prompt_length,
                key=lambda n: self.has_stop_string(self.tokens[:n]),
            )
            generated = decoded[self._prompt_characters :]
            cut = min(generated.find(string) for string in self.stop if string in generated)
            decoded = decoded[: self._prompt_characters + cut]
            log_probabilities = log_probabilities[: num_tokens - self._prompt_length]
        total = sum(log_probabilities)
        return Completion(decoded, total, total, self._prompt_characters)

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(np.array(tokens[self._num_hidden :], np.int32))


class WindowDecoder(NamedTuple):
    """Decodes windows of a batch of texts; the fields are the same for all windows."""

    model: Model
    variables: Variables
    vocab_size: int
    end_tokens: tuple[int, ...]
    sampling: Sampling
    width: int  # tokens in a window
    source: EncoderInput | None

    def fill(
        self, texts: Sequence[UnfinishedText], num_read: int, keys: jax.Array
    ) -> list[Continuation]:
        """Continues each text until it ends or its window is full.

        The device decodes a whole window in one call. With stop strings, the host searches for them
        every few tokens, and the calls of a window share its prepared variables.

        Args:
          num_read: number of last tokens of each text that the window begins with.
          keys: PRNG keys [B], one for each text.
        """
        read = [text.tokens[-num_read:] for text in texts]
        tokens, lengths = batch_of_prompts(read, self.width, self.vocab_size)
        missing = np.array([text.num_missing for text in texts], np.int32)
        ends = np.minimum(lengths + missing, self.width)
        shortest = int(lengths[missing > 0].min())  # finished rows need no exact prefix
        prefix = prefix_of(self.model, shortest, self.width)
        state = _begin(
            self.model,
            self.variables,
            tokens,
            lengths,
            source=self.source,
            prefix_length=prefix.length,
            surplus=prefix.surplus,
        )
        has_stop = any(text.stop for text in texts)
        variables = _prepare(self.model, self.variables) if has_stop else self.variables
        until = shortest
        while True:
            until = min(until + _CHUNK, self.width) if has_stop else self.width
            state = _advance(
                self.model,
                variables,
                state,
                ends,
                until,
                keys,
                sampling=self.sampling,
                end_tokens=self.end_tokens,
                is_prepared=has_stop,
            )
            rows, after, ended = map(np.array, (state.tokens, state.lengths, state.ended))
            new = [rows[i, lengths[i] : after[i]].tolist() for i in range(len(texts))]
            if has_stop:
                ended |= [
                    bool(added) and text.has_stop_string(text.tokens + added)
                    for text, added in zip(texts, new, strict=True)
                ]
                state = state._replace(ended=jax.numpy.asarray(ended))
            if until == self.width or (ended | (after >= ends)).all():
                break
        log_p = np.asarray(state.log_probabilities)
        return [
            _continuation(added, log_p[i, lengths[i] : ends[i]], bool(ended[i]))
            for i, added in enumerate(new)
        ]


def _continuation(tokens: list[int], log_p: np.ndarray, ended: bool) -> Continuation:
    """Returns new tokens with their log-probabilities; an end token has one too."""
    count = len(tokens) + int(log_p[len(tokens) :].any())
    return Continuation(tokens, log_p[:count].tolist(), ended)


def sample_keys(seed: int, sample_numbers: np.ndarray, window: int) -> jax.Array:
    """Returns one PRNG key for each sample number [S], different in each window."""
    key = jax.random.fold_in(jax.random.key(seed), window)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, sample_numbers)
