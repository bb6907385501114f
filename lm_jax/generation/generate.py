"""Prompts completed by a trained model: text in, text and its log-probability out."""

import functools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.config import experiment as experiments
from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.generation import sliding_window
from lm_jax.generation.beam_search import Beams, BeamSearch, beam_search
from lm_jax.generation.beam_tree import Branch, beam_tree
from lm_jax.generation.decode_loop import batch_of_prompts, next_token_probabilities
from lm_jax.generation.sampling import Sampling
from lm_jax.generation.sliding_window import Completion
from lm_jax.generation.token_labels import namer
from lm_jax.models import FAMILIES, Variables

_search = jax.jit(beam_search, static_argnames=("model", "search", "end_tokens", "prefix_length"))
_probabilities = jax.jit(next_token_probabilities, static_argnames=("model", "count"))


class NextToken(NamedTuple):
    """What a model expects after the texts of some tokens, most probable first."""

    after: str
    tokens: list[str]
    probabilities: list[float]


def longest_context(built: BuiltExperiment) -> int:
    """How many tokens the model reads at most."""
    model = built.experiment.model
    unlimited = FAMILIES[experiments.variant("model", model)].any_length
    return sys.maxsize if unlimited else model.context_length


class Openings(NamedTuple):
    """What a model reads before it writes."""

    tokens: list[list[int]]  # of each prompt, all that the decoder reads first
    hidden: list[int]  # how many of them are no part of the text
    source: Any | None  # the batch of sources of a model with an encoder
    room: int | None  # tokens after which a text has to end; None: it may go on for ever


def check(built: BuiltExperiment, tokenizer: data.Tokenizer, config: SamplesConfig) -> None:
    """Raises UserError for samples that the model cannot give, before it is trained for them."""
    openings(built, tokenizer, [config.prompt])
    if config.num_beams > tokenizer.vocab_size:
        raise UserError(
            f"samples.num_beams is {config.num_beams}, but there are {tokenizer.vocab_size} tokens "
            "to begin with; ask for fewer"
        )


def openings(
    built: BuiltExperiment,
    tokenizer: data.Tokenizer,
    prompts: Sequence[str],
    *,
    truncate: bool = False,
) -> Openings:
    """How texts begin: with a document's boundary, which the prompt follows.

    A model of pairs has the prompt as its source: an encoder reads it, or, where there is none, the
    decoder, up to the boundary after it.

    Args:
      truncate: cut prompts that are too long, instead of refusing them.

    Raises:
      UserError: a prompt is longer than what the model reads, or leaves no room for a new token.
    """
    end, experiment = tokenizer.end_of_document, built.experiment
    context = longest_context(built)
    reads_source, of_pairs = experiments.has_encoder(experiment), experiment.objective == "seq2seq"
    most, what = context - 2, "prompt"
    if reads_source:
        most, what = experiment.model.source_length - 1, "source"
    elif of_pairs:
        # What was cut to be trained on was cut in half.
        most, what = context // 2 - 1 if truncate else context - 3, "source"
    encoded = [tokenizer.encode(prompt).tolist() for prompt in prompts]
    for number, tokens in enumerate(encoded, 1):
        if len(tokens) > most and not truncate:
            raise UserError(
                f"{what} {number} is {len(tokens):,} tokens long; the model reads at most {most} "
                "of it: shorten it, or have it cut (--truncate of launch.translate)"
            )
    encoded = [tokens[:most] for tokens in encoded]
    if reads_source:
        source = _sources([[*tokens, end] for tokens in encoded], most + 1)
        return Openings([[end] for _ in prompts], [1] * len(prompts), source, context)
    if of_pairs:
        tokens = [[end, *tokens, end] for tokens in encoded]
        return Openings(tokens, list(map(len, tokens)), None, context)
    return Openings([[end, *tokens] for tokens in encoded], [1] * len(prompts), None, None)


def _sources(rows: Sequence[Sequence[int]], source_length: int) -> dict[str, np.ndarray]:
    """Rows of tokens as a batch; few widths, as each compiles a program."""
    longest = max(map(len, rows), default=0)
    source = np.zeros((len(rows), min(-(-longest // 16) * 16, source_length)), np.int32)
    segments = np.zeros_like(source)
    for row, tokens in enumerate(rows):
        source[row, : len(tokens)], segments[row, : len(tokens)] = tokens, 1
    return {"source": source, "source_segments": segments}


def complete(
    built: BuiltExperiment,
    variables: Variables,
    tokenizer: data.Tokenizer,
    prompts: Sequence[str],
    config: SamplesConfig,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
    truncate: bool = False,
) -> list[Completion]:
    """`config.num_samples` texts of each prompt, prompt by prompt.

    The draws of a prompt's sample i depend on the seed and i, not on the other prompts. A text that
    outgrows the model's context goes on from its last half context, unless it has a source.

    Args:
      stop: strings that end a text; they are left out, and so is all that follows. The
        log-probability is that of all tokens up to the one that completed the string.
      truncate: cut prompts that are too long, instead of refusing them.

    Raises:
      UserError: a prompt does not fit the model.
    """
    each = [prompt for prompt in prompts for _ in range(config.num_samples)]
    tokens, hidden, source, room = openings(built, tokenizer, each, truncate=truncate)
    if not tokens:
        return []
    limits = [len(begins) + config.max_new_tokens for begins in tokens]
    if room is not None:
        limits = [min(limit, room) for limit in limits]
    texts = [
        sliding_window.Text(begins, limit, hidden=skipped, tokenizer=tokenizer, stop=stop)
        for begins, limit, skipped in zip(tokens, limits, hidden, strict=True)
    ]
    context = longest_context(built)
    write = functools.partial(
        sliding_window.write,
        built.model,
        variables,
        width=min(context, max(limits)),
        source=source,
        sampling=Sampling(
            config.repetition_penalty, config.temperature, config.top_k, config.top_p, config.min_p
        ),
        end_token=tokenizer.end_of_document,
        vocab_size=built.experiment.model.vocab_size,
    )
    sample_numbers = np.tile(np.arange(config.num_samples), len(prompts))
    kept = max(map(len, tokens))  # of each text, that the model reads again
    window = 0
    while any(len(text.tokens) < text.limit for text in texts):
        keys = sliding_window.keys_of(seed, sample_numbers, window)
        for text, written in zip(texts, write(texts, kept, keys), strict=True):
            text.add(*written)
        kept, window = max(context // 2, 1), window + 1
    return [text.completion() for text in texts]


def search(
    built: BuiltExperiment,
    variables: Variables,
    tokenizer: data.Tokenizer,
    prompts: Sequence[str],
    config: SamplesConfig,
    *,
    truncate: bool = False,
) -> tuple[list[list[Completion]], list[Branch]]:
    """The `config.num_best` best texts of each prompt by beam search, and the tree of each.

    One beam is greedy.

    Args:
      truncate: cut prompts that are too long, instead of refusing them.

    Raises:
      UserError: a prompt does not fit the model, or its texts would outgrow the model's context.
    """
    texts, hidden, source, room = openings(built, tokenizer, prompts, truncate=truncate)
    context, end = longest_context(built), tokenizer.end_of_document
    if not texts:
        return [], []
    longest = max(map(len, texts))
    new = config.max_new_tokens
    if room is not None:
        new = min(new, room - 1)
    elif longest + new > context:
        raise UserError(
            f"{new} new tokens after {longest} outgrow the model's context of {context}, where "
            f"beam search has to end; ask for at most {context - longest} new tokens"
        )
    beams = beams_of(built, variables, texts, new, config, end, source)
    found = [
        [
            Completion(
                tokenizer.decode(
                    np.asarray(beams.tokens[row, best, hidden[row] : beams.lengths[row, best]])
                ),
                float(beams.log_probabilities[row, best]),
                float(beams.scores[row, best]),
            )
            for best in range(config.num_best)
            if beams.scores[row, best] > -np.inf
        ]
        for row in range(len(texts))
    ]
    return found, [beam_tree(beams, row, len(text), end) for row, text in enumerate(texts)]


def beams_of(
    built: BuiltExperiment,
    variables: Variables,
    texts: Sequence[list[int]],
    new: int,
    config: SamplesConfig,
    end_token: int,
    source: Any | None = None,
) -> Beams:
    """The beams, as NumPy arrays, of texts that grow by `new` tokens at most."""
    width = min(max(map(len, texts)) + new, longest_context(built))
    vocab_size = built.experiment.model.vocab_size
    tokens, lengths = batch_of_prompts(texts, width, vocab_size)
    prefix_length = int(lengths.min()) - 1
    if built.experiment.objective == "seq2seq":  # a length is a program, and sources have many
        prefix_length -= prefix_length % 16
    beams = _search(
        built.model,
        variables,
        tokens,
        lengths,
        np.minimum(lengths + new, width),
        search=BeamSearch(
            config.num_beams,
            config.length_penalty,
            config.length_penalty_kind,
            config.early_stopping,
        ),
        end_tokens=(end_token,),
        source=source,
        prefix_length=prefix_length,
    )
    return jax.tree.map(np.asarray, beams)


def next_tokens(
    built: BuiltExperiment,
    variables: Variables,
    tokenizer: data.Tokenizer,
    prompt: str,
    count: int = 10,
) -> list[NextToken]:
    """What the model expects at the beginning of a text and after each token of the prompt.

    Raises:
      UserError: the prompt does not fit the model.
    """
    (tokens,), _, source, _ = openings(built, tokenizer, [prompt])
    best, probabilities = expectations(built, variables, tokens, source, count)
    name = namer(tokenizer, built.experiment)
    return [
        NextToken(name(token), [name(other) for other in others], shares.tolist())
        for token, others, shares in zip(tokens, best.tolist(), probabilities, strict=True)
    ]


def expectations(
    built: BuiltExperiment,
    variables: Variables,
    tokens: Sequence[int],
    source: Any | None = None,
    count: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens after each token of a text, and their probabilities, [T, count]."""
    read = np.array(tokens, np.int32)
    found = _probabilities(built.model, variables, read, count=count, source=source)
    return np.asarray(found[0]), np.asarray(found[1])
