"""Translating with a run that was trained on pairs: any text to text, not languages alone."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.generation import generate
from lm_jax.generation.generate import Completion, TextGenerator
from lm_jax.generation.prompts import encode_prompts
from lm_jax.runs.trained_run import Run, dataset_of


def held_out_pairs(run: Run) -> tuple[list[str], list[str]]:
    """The sources and targets of the run's own validation split.

    Raises:
      UserError: its data is not of pairs, or no longer that which it was trained on.
    """
    if not run.built.objective.prompts_are_sources:
        raise UserError(f"{run.workdir} was not trained on pairs; give sources as --input")
    sources, targets = zip(*dataset_of(run).validation.texts, strict=True)
    return list(sources), list(targets)


def translate(
    run: Run,
    sources: Sequence[str],
    search: SamplesConfig,
    *,
    batch_size: int = 32,
    truncate: bool = False,
) -> list[Completion]:
    """The best translation of each source that `search` finds with its beams; one is greedy.

    Beams may lose the greedy text and end below its score: it is always among the candidates.
    Sources of like length are translated together; what a source becomes does not depend on it.

    Args:
      truncate: cut sources that are longer than the model reads, instead of refusing them.

    Raises:
      UserError: the run was not trained on pairs, the search cannot be, or a source is empty or
        longer than the model reads.
    """
    tokenizer = run.tokenizer
    if tokenizer is None or not run.built.objective.prompts_are_sources:
        raise UserError(f"{run.workdir} was not trained on pairs; use launch.generate")
    lengths = list(map(len, tokenizer.encode_all(sources)))
    if 0 in lengths:
        raise UserError(f"source {lengths.index(0) + 1} is empty; there is nothing to translate")
    if not truncate:
        encode_prompts(run.built, tokenizer, sources)  # refuses sources that are too long
    generator = TextGenerator(run.built, run.variables, tokenizer)
    greedy = dataclasses.replace(search, num_beams=1, num_best=1)

    def find(texts: Sequence[str]) -> list[Completion]:
        ways = [search] if search.num_beams == 1 else [search, greedy]
        found = [generate.search(generator, texts, way, truncate=truncate)[0] for way in ways]
        rows = zip(*found, strict=True)
        return [max(itertools.chain(*row), key=lambda found: found.score) for row in rows]

    order = np.argsort(lengths, kind="stable").tolist()
    found: dict[int, Completion] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        texts = [sources[i] for i in chosen]
        texts += texts[:1] * (batch_size - len(chosen))  # one shape, one program
        found |= dict(zip(chosen, find(texts), strict=False))
    return [found[number] for number in range(len(sources))]
