"""Prompts as the tokens that a model reads before it generates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment
from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.generation.decode_loop import EncoderInput
from lm_jax.models import family_of

_WIDTH_MULTIPLE = 16  # source widths are rounded up to it, as each width compiles a program


class Prompts(NamedTuple):
    """Encoded prompts of a batch."""

    tokens: list[list[int]]  # for each prompt, the tokens that the decoder reads first
    num_hidden: list[int]  # for each prompt, the leading tokens that are not part of the text
    source: EncoderInput | None  # for a model with an encoder
    max_length: int | None  # maximum tokens of a text; None: the text may outgrow the context


def longest_context(built: BuiltExperiment) -> int | None:
    """Returns the maximum number of tokens that the model reads; None: any number."""
    model = built.experiment.model
    unlimited = family_of(model).any_length
    return None if unlimited else model.context_length


def num_new_tokens(built: BuiltExperiment, prompt_length: int, wanted: int) -> int:
    """Returns how many of the `wanted` new tokens fit the context after a prompt."""
    context = longest_context(built)
    return wanted if context is None else min(wanted, context - prompt_length)


def validate_for(built: BuiltExperiment, tokenizer: data.Tokenizer, config: SamplesConfig) -> None:
    """Raises UserError for samples that the model cannot generate, before it is trained."""
    encode_prompts(built, tokenizer, [config.prompt])
    if config.num_beams > tokenizer.vocab_size:
        raise UserError(
            f"samples.num_beams is {config.num_beams}, but there are {tokenizer.vocab_size} tokens "
            "to begin with; ask for fewer"
        )


def encode_prompts(
    built: BuiltExperiment,
    tokenizer: data.Tokenizer,
    prompts: Sequence[str],
    *,
    truncate: bool = False,
    begins: bool = True,
) -> Prompts:
    """Encodes prompts: the token that opens a text, then the prompt.

    A model that is trained on pairs takes the prompt as its source. An encoder reads it if there is
    one; otherwise the decoder reads it, up to the boundary after it.

    Args:
      truncate: cut prompts that are too long, instead of refusing them.
      begins: whether a prompt is opened; an empty one is in any case, and so is what answers a
        source.

    Raises:
      UserError: a prompt is longer than the model reads, or leaves no room for a new token.
    """
    end, experiment = tokenizer.end_of_document, built.experiment
    context = longest_context(built)
    reads_source = family_of(experiment.model).has_encoder
    of_pairs = built.objective.prompts_are_sources
    source_length: int = experiment.model.source_length if reads_source else 0
    limit, kind = (None if context is None else context - 2), "prompt"
    if reads_source:
        limit, kind = source_length - 1, "source"
    elif of_pairs and context is not None:
        # Training cuts sources that are too long to half of the context.
        limit, kind = context // 2 - 1 if truncate else context - 3, "source"
    if limit is not None and limit < 0:
        raise UserError(
            f"model.context_length is {context}, too short for a text: a boundary and a new token; "
            "make it longer"
        )
    encoded = [tokenizer.encode(prompt).tolist() for prompt in prompts]
    for number, tokens in enumerate(encoded, 1):
        if limit is not None and len(tokens) > limit and not truncate:
            cut = ", or have it cut (--truncate of launch.translate)" if kind == "source" else ""
            raise UserError(
                f"{kind} {number} is {len(tokens):,} tokens long; the model reads at most {limit} "
                f"of it: shorten it{cut}"
            )
    encoded = [tokens[:limit] for tokens in encoded]
    if reads_source:
        source = _encoder_input([[*tokens, end] for tokens in encoded], source_length)
        return Prompts([[end] for _ in prompts], [1] * len(prompts), source, context)
    if of_pairs:
        pairs = [[end, *tokens, end] for tokens in encoded]
        return Prompts(pairs, list(map(len, pairs)), None, context)
    opened = [[] if tokens and not begins else [tokenizer.beginning] for tokens in encoded]
    texts = [opening + tokens for opening, tokens in zip(opened, encoded, strict=True)]
    return Prompts(texts, list(map(len, opened)), None, None)


def _encoder_input(rows: Sequence[Sequence[int]], max_width: int) -> dict[str, np.ndarray]:
    """Returns rows of tokens as the batch that an encoder reads."""
    longest = max(map(len, rows), default=0)
    width = min(-(-longest // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE, max_width)
    source = np.zeros((len(rows), width), np.int32)
    segments = np.zeros_like(source)
    for row, tokens in enumerate(rows):
        source[row, : len(tokens)], segments[row, : len(tokens)] = tokens, 1
    return {"source": source, "source_segments": segments}
