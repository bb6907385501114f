"""Generates texts with a trained model."""

import dataclasses
from collections.abc import Sequence

from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.generation import generate
from lm_jax.generation.beam_tree import tree_lines
from lm_jax.generation.generate import Completion, TextGenerator
from lm_jax.generation.token_labels import namer
from lm_jax.objectives.validation import validate
from lm_jax.runs.loaded_model import LoadedModel


def complete(
    run: LoadedModel,
    prompts: Sequence[str],
    config: SamplesConfig,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
    truncate: bool = False,
    begins: bool = True,
) -> list[Completion]:
    """Returns `num_samples` samples of each prompt or, with several beams, the `num_best` best.

    A sampled text that outgrows the model's context continues from its last half context.

    Args:
      stop: strings that end a sampled text; they are left out, and so is all that follows.
      truncate: cut prompts that are too long, instead of refusing them.
      begins: whether a document begins before each prompt.

    Raises:
      UserError: the model does not generate, or a prompt does not fit its context.
    """
    generator = text_generator(run, config)
    if config.num_beams == 1:
        return generate.complete(
            generator, prompts, config, seed=seed, stop=stop, truncate=truncate, begins=begins
        )
    if stop:
        raise UserError("stop strings end samples; beams end by the model's own end: leave one out")
    found, _ = generate.search(generator, prompts, config, truncate=truncate, begins=begins)
    return [text for texts in found for text in texts]


def search_tree(
    run: LoadedModel, prompt: str, config: SamplesConfig, *, begins: bool = True
) -> list[str]:
    """Returns the beams of one prompt as lines of text.

    Args:
      begins: as for `complete`.

    Raises:
      UserError: as `complete`.
    """
    generator = text_generator(run, config)
    _, (tree,) = generate.search(generator, [prompt], config, begins=begins)
    return list(tree_lines(tree, namer(generator.tokenizer, run.built.experiment)))


def next_tokens(run: LoadedModel, prompt: str, *, begins: bool = True) -> list[generate.NextToken]:
    """Returns the most probable next tokens at the start of a text and after each prompt token.

    Args:
      begins: as for `complete`; otherwise there are none at the start.

    Raises:
      UserError: the model does not generate, or the prompt does not fit its context.
    """
    return generate.next_tokens(text_generator(run, SamplesConfig()), prompt, begins=begins)


def text_generator(run: LoadedModel, config: SamplesConfig) -> TextGenerator:
    """Returns the model and the tokenizer that generate the samples of a configuration.

    Raises:
      UserError: the configuration is not valid, or the model does not generate text.
    """
    validate(dataclasses.replace(run.built.experiment, samples=config))
    if run.tokenizer is None or run.built.model.step is None:
        raise UserError(
            f"the model of {run.workdir} does not generate text: it has no start and step, or no "
            "tokenizer"
        )
    return TextGenerator(run.built, run.variables, run.tokenizer)
