"""Completes prompts with a trained model: text in, text and its log-probability out."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.generation.beam_search import Beams, BeamSearch, beam_search
from lm_jax.generation.beam_tree import BeamNode, beam_tree
from lm_jax.generation.decode_loop import (
    EncoderInput,
    batch_of_prompts,
    next_token_probabilities,
    prefix_of,
)
from lm_jax.generation.prompts import encode_prompts, longest_context
from lm_jax.generation.sampling import Sampling
from lm_jax.generation.sliding_window import (
    Completion,
    UnfinishedText,
    WindowDecoder,
    sample_keys,
)
from lm_jax.generation.token_labels import namer
from lm_jax.models import Variables
from lm_jax.plurals import counted

_search = jax.jit(beam_search, static_argnames=("model", "search", "end_tokens", "prefix_length"))
_probabilities = jax.jit(next_token_probabilities, static_argnames=("model", "count"))
_WIDTH_MULTIPLE = 32  # windows of samples are rounded up to it, for the same reason

Settings = TypeVar("Settings", Sampling, BeamSearch)


class NextToken(NamedTuple):
    """The most probable tokens after a token of a text."""

    after: str
    tokens: list[str]  # most probable first
    probabilities: list[float]


class TextGenerator(NamedTuple):
    """A trained model and the tokenizer of its text."""

    built: BuiltExperiment
    variables: Variables
    tokenizer: data.Tokenizer


def settings(kind: type[Settings], config: SamplesConfig) -> Settings:
    """Returns the fields of `Sampling` or `BeamSearch` from the configuration of samples."""
    return kind(**{name: getattr(config, name) for name in kind._fields})


def complete(
    generator: TextGenerator,
    prompts: Sequence[str],
    config: SamplesConfig,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
    truncate: bool = False,
    begins: bool = True,
    ends: Sequence[int] = (),
) -> list[Completion]:
    """Samples `config.num_samples` texts for each prompt, in the order of the prompts.

    Sample i of a prompt depends on the seed and i, not on the other prompts. A text that outgrows
    the model's context continues from its last half context, unless the model was trained on pairs.

    Args:
      stop: strings that end a text; the text is cut before the string. The log-probability sums
        over all tokens up to the one that completed the string.
      truncate: cut prompts that are too long, instead of refusing them.
      begins: as for `encode_prompts`.
      ends: tokens that end a text, besides the end of a document.

    Raises:
      UserError: a prompt does not fit the model.
    """
    built, variables, tokenizer = generator
    repeated = [prompt for prompt in prompts for _ in range(config.num_samples)]
    encoded = encode_prompts(built, tokenizer, repeated, truncate=truncate, begins=begins)
    if not encoded.tokens:
        return []
    texts = []
    for tokens, num_hidden in zip(encoded.tokens, encoded.num_hidden, strict=True):
        max_length = _smaller(len(tokens) + config.max_new_tokens, encoded.max_length)
        texts.append(
            UnfinishedText(
                tokens, max_length, num_hidden=num_hidden, tokenizer=tokenizer, stop=stop
            )
        )
    longest = max(text.max_length for text in texts)
    width = _smaller(-(-longest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE, longest_context(built))
    decoder = WindowDecoder(
        built.model,
        variables,
        vocab_size=built.experiment.model.vocab_size,
        end_tokens=(tokenizer.end_of_document, *ends),
        sampling=settings(Sampling, config),
        width=width,
        source=encoded.source,
    )
    sample_numbers = np.tile(np.arange(config.num_samples), len(prompts))
    num_read, window = max(map(len, encoded.tokens)), 0
    while any(text.num_missing for text in texts):
        keys = sample_keys(seed, sample_numbers, window)
        for text, continuation in zip(texts, decoder.fill(texts, num_read, keys), strict=True):
            text.add(continuation)
        num_read, window = max(width // 2, 1), window + 1
    return [text.completion() for text in texts]


def search(
    generator: TextGenerator,
    prompts: Sequence[str],
    config: SamplesConfig,
    *,
    truncate: bool = False,
    begins: bool = True,
) -> tuple[list[list[Completion]], list[BeamNode]]:
    """Finds the `config.num_best` best texts of each prompt by beam search; one beam is greedy.

    Args:
      truncate: cut prompts that are too long, instead of refusing them.
      begins: as for `encode_prompts`.

    Returns:
      The texts of each prompt, best first, and the tree of each prompt's beams.

    Raises:
      UserError: a prompt does not fit the model, or its texts would outgrow the model's context.
    """
    built, _, tokenizer = generator
    encoded = encode_prompts(built, tokenizer, prompts, truncate=truncate, begins=begins)
    texts, context = encoded.tokens, longest_context(built)
    if not texts:
        return [], []
    longest, num_new = max(map(len, texts)), config.max_new_tokens
    if encoded.max_length is not None:
        num_new = min(num_new, encoded.max_length - 1)
    elif context is not None and longest + num_new > context:
        raise UserError(
            f"{counted(num_new, 'new token')} after {longest} would outgrow the model's context of "
            f"{context}, where beam search has to end; ask for at most "
            f"{counted(context - longest, 'new token')}"
        )
    beams = search_beams(generator, texts, num_new, config, encoded.source)
    found = []
    for row, num_hidden in enumerate(encoded.num_hidden):
        prompt = tokenizer.decode(np.asarray(texts[row][num_hidden:], np.int32))
        found.append(
            [
                Completion(
                    tokenizer.decode(
                        np.asarray(beams.tokens[row, best, num_hidden : beams.lengths[row, best]])
                    ),
                    float(beams.log_probabilities[row, best]),
                    float(beams.scores[row, best]),
                    len(prompt),
                )
                for best in range(config.num_best)
                if beams.scores[row, best] > -np.inf
            ]
        )
    end = tokenizer.end_of_document
    return found, [beam_tree(beams, row, len(text), end) for row, text in enumerate(texts)]


def search_beams(
    generator: TextGenerator,
    texts: Sequence[list[int]],
    num_new: int,
    config: SamplesConfig,
    source: EncoderInput | None = None,
) -> Beams:
    """Returns the beams, as NumPy arrays, of texts that grow by at most `num_new` tokens."""
    built, variables, tokenizer = generator
    width = _smaller(max(map(len, texts)) + num_new, longest_context(built))
    vocab_size = built.experiment.model.vocab_size
    tokens, lengths = batch_of_prompts(texts, width, vocab_size)
    prefix = prefix_of(built.model, int(lengths.min()), width)
    beams = _search(
        built.model,
        variables,
        tokens,
        lengths,
        np.minimum(lengths + num_new, width),
        search=settings(BeamSearch, config),
        end_tokens=(tokenizer.end_of_document,),
        source=source,
        prefix_length=prefix.length,
        surplus=prefix.surplus,
    )
    return jax.tree.map(np.asarray, beams)


def next_tokens(
    generator: TextGenerator, prompt: str, count: int = 10, *, begins: bool = True
) -> list[NextToken]:
    """Returns the `count` most probable tokens at the start of a text and after each prompt token.

    Args:
      begins: as for `encode_prompts`; otherwise there are none at the start.

    Raises:
      UserError: the prompt does not fit the model.
    """
    built, _, tokenizer = generator
    (tokens,), _, source, _ = encode_prompts(built, tokenizer, [prompt], begins=begins)
    best, probabilities = most_probable_tokens(generator, tokens, source, count)
    label = namer(tokenizer, built.experiment)
    return [
        NextToken(label(token), [label(other) for other in others], shares.tolist())
        for token, others, shares in zip(tokens, best.tolist(), probabilities, strict=True)
    ]


def most_probable_tokens(
    generator: TextGenerator,
    tokens: Sequence[int],
    source: EncoderInput | None = None,
    count: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most probable tokens after each token of a text, and their probabilities.

    Both have shape [T, count].
    """
    read = np.array(tokens, np.int32)
    model, variables = generator.built.model, generator.variables
    best, probabilities = _probabilities(model, variables, read, count=count, source=source)
    return np.asarray(best), np.asarray(probabilities)


def _smaller(value: int, limit: int | None) -> int:
    """Returns the smaller of both; a limit of None is no limit."""
    return value if limit is None else min(value, limit)
