"""Translates with a run that was trained on pairs of texts, of any languages or tasks."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax.config.experiment import SamplesConfig
from lm_jax.data.content import read_text
from lm_jax.data.records import records_of, text_field
from lm_jax.data.seq2seq.parallel_corpus import ParallelSplit
from lm_jax.errors import UserError
from lm_jax.evaluation.bleu_chrf import exact_matches, translation_measures
from lm_jax.generation import generate
from lm_jax.generation.generate import TextGenerator
from lm_jax.generation.prompts import encode_prompts
from lm_jax.generation.sliding_window import Completion
from lm_jax.runs.evaluate import split_of
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.telemetry.json_files import write_text

_SCORED, _EXAMPLES, _BATCH = 100, 8, 32  # held-out texts at the end of a run


def held_out_pairs(run: LoadedModel, split: str = "validation") -> tuple[list[str], list[str]]:
    """Returns the sources and targets of the run's own `validation` or `test` split.

    Raises:
      UserError: the run was not trained on pairs, its data changed since, or has no such split.
    """
    if not run.built.objective.prompts_are_sources:
        raise UserError(f"{run.workdir} was not trained on pairs; give sources as --input")
    sources, targets = zip(*split_of(run, split).texts, strict=True)
    return list(sources), list(targets)


def read_sources(path: str | Path) -> tuple[list[str], list[str]]:
    """Returns the sources of a text file, and its references if it has a second column.

    Sources of JSONL and CSV are their field `source`, references their field `target`.

    Raises:
      UserError: there is no such file, or a line is empty or does not have the columns of the
        first line.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"--input={path}: no such file; give a file with one source per line, or --input=- and "
            "the source itself on the standard input: echo 'TEXT' | python -m launch.translate ..."
        )
    records = records_of(path, ("source",), optional=("target",), given_by="--input")
    if records is not None:
        found = list(records)
        has_targets = all("target" in record.values for record in found)
        sources = [text_field(record, "source") for record in found]
        return sources, [text_field(record, "target") for record in found] if has_targets else []
    return columns_of(read_text(path, "--input"), str(path))


def columns_of(text: str, origin: str) -> tuple[list[str], list[str]]:
    """Returns the sources of lines, and their references if they have a second column.

    Args:
      origin: where the lines are from, for messages.

    Raises:
      UserError: a line is empty, or does not have the columns of the first line.
    """
    lines = [line.rstrip("\r").split("\t") for line in text.rstrip("\n").split("\n")]
    for number, columns in enumerate(lines, 1):
        if len(columns) != len(lines[0]) or len(columns) > 2 or not all(map(str.strip, columns)):
            raise UserError(
                f"{origin}:{number}: expected a source on every line, or source<TAB>reference"
            )
    return [columns[0] for columns in lines], [c[1] for c in lines if len(c) == 2]


def write_translations(
    path: str | Path,
    sources: Sequence[str],
    translations: Sequence[Completion],
    references: Sequence[str],
) -> None:
    """Writes lines of source, translation, log-probability and, if there are any, reference."""
    path = Path(path)
    columns = [
        sources,
        [translation.text for translation in translations],
        [f"{translation.log_probability:.6f}" for translation in translations],
    ]
    columns += [references] if references else []
    # A text may have tabs and several lines, which would break the table.
    rows = ["\t".join(" ".join(text.split()) for text in row) for row in zip(*columns, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{row}\n" for row in rows))


def translations(
    run: LoadedModel, split: ParallelSplit
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Returns examples of greedy translations of a split, and the scores of up to 100 of them.

    An example has `source`, `translation` and `reference`. Without sacrebleu the only score is the
    share of exact matches. Pairs of several tasks have no common score.
    """
    every = max(len(split.texts) // _SCORED, 1)
    sources, references = zip(*split.texts[::every][:_SCORED], strict=True)
    length = run.built.experiment.model.context_length
    search = SamplesConfig(num_samples=1, num_beams=1, max_new_tokens=length)
    batch_size = min(len(sources), _BATCH)
    found = translate(run, sources, search, batch_size=batch_size, truncate=True)
    texts = [translation.text for translation in found]
    names = ("source", "translation", "reference")
    rows = zip(sources, texts, references, strict=True)
    examples = [dict(zip(names, row, strict=True)) for row in itertools.islice(rows, _EXAMPLES)]
    if len(split.instructions) > 1:
        return examples, {}
    try:
        return examples, translation_measures(texts, references)
    except UserError:  # sacrebleu is not installed
        return examples, exact_matches(texts, references)


def translate(
    run: LoadedModel,
    sources: Sequence[str],
    search: SamplesConfig,
    *,
    batch_size: int = 32,
    truncate: bool = False,
) -> list[Completion]:
    """Returns the best translation of each source by beam search; one beam is greedy.

    Beam search may end below the score of the greedy text, so the greedy text is always among the
    candidates. Sources of similar length share a batch; the result does not depend on it.

    Args:
      truncate: cut sources that are longer than the model reads, instead of refusing them.

    Raises:
      UserError: the run was not trained on pairs, or a source is empty or longer than the model
        reads.
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

    def translate_batch(texts: Sequence[str]) -> list[Completion]:
        searches = [search] if search.num_beams == 1 else [search, greedy]
        found = [generate.search(generator, texts, s, truncate=truncate)[0] for s in searches]
        rows = zip(*found, strict=True)
        return [max(itertools.chain(*row), key=lambda found: found.score) for row in rows]

    order = np.argsort(lengths, kind="stable").tolist()
    translations: dict[int, Completion] = {}
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        texts = [sources[i] for i in chosen]
        # All batches have one shape, so that one program is compiled.
        texts += texts[:1] * (batch_size - len(chosen))
        translations |= dict(zip(chosen, translate_batch(texts), strict=False))
    return [translations[number] for number in range(len(sources))]
