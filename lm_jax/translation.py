"""Translating with a run whose model reads a source: any text to text, not languages alone."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import data, workdir
from lm_jax.beam_search import BeamSearch, beam_search
from lm_jax.runs import Run


class Translation(NamedTuple):
    """The best text that was found for a source."""

    text: str
    log_probability: float  # nats, its end included
    score: float  # the same over the length penalty


def held_out_pairs(run: Run) -> tuple[list[str], list[str]]:
    """The sources and targets of the run's own validation split.

    Raises:
      ValueError: its data is not of pairs, or no longer that which it was trained on.
    """
    config = run.program.experiment.data
    if not isinstance(config, data.ParallelTextConfig):
        raise ValueError(f"{run.workdir} was not trained on pairs; give sources as --input")
    dataset = data.prepare(config)
    workdir.refuse_other_data(dataset, run.workdir)
    assert isinstance(dataset, data.ParallelSet)
    split = dataset.validation
    return (
        data.texts_of(dataset.tokenizer, split.source),
        data.texts_of(dataset.tokenizer, split.target),
    )


def translate(
    run: Run,
    sources: Sequence[str],
    search: BeamSearch,
    *,
    batch_size: int = 32,
    truncate: bool = False,
) -> list[Translation]:
    """The best translation of each source that a beam search finds; one beam is greedy.

    Sources of like length are translated together; what a source becomes does not depend on it.

    Args:
      truncate: cut sources that are longer than the model reads, instead of refusing them.

    Raises:
      ValueError: the model reads no source, the search cannot be, or a source is empty or longer
        than the model reads.
    """
    config, tokenizer = run.program.experiment.model, run.tokenizer
    if tokenizer is None or not hasattr(config, "source_length"):
        raise ValueError(f"the model of {run.workdir} reads no source; use launch.generate")
    rows = _source_rows(tokenizer, sources, config.source_length, truncate)
    order = np.argsort([len(row) for row in rows], kind="stable")
    end = tokenizer.end_of_document
    find = jax.jit(
        functools.partial(beam_search, run.program.model, search=search, end_tokens=(end,))
    )
    found: dict[int, Translation] = {}
    for first in range(0, len(rows), batch_size):
        chosen = order[first : first + batch_size]
        batch = [rows[i] for i in chosen] + [[end]] * (batch_size - len(chosen))
        beams = find(
            run.variables,
            np.full((batch_size, config.context_length), end, np.int32),
            np.ones(batch_size, np.int32),
            np.full(batch_size, config.context_length, np.int32),
            source=_source_batch(batch, config.source_length),
        )
        tokens, lengths = np.asarray(beams.tokens)[:, 0], np.asarray(beams.lengths)[:, 0]
        for row, number in enumerate(chosen.tolist()):
            found[number] = Translation(
                tokenizer.decode(tokens[row, 1 : lengths[row]]),
                float(beams.log_probabilities[row, 0]),
                float(beams.scores[row, 0]),
            )
    return [found[number] for number in range(len(rows))]


def _source_rows(
    tokenizer: data.Tokenizer, sources: Sequence[str], source_length: int, truncate: bool
) -> list[list[int]]:
    end, rows = tokenizer.end_of_document, []
    for number, tokens in enumerate(tokenizer.encode_all(sources), 1):
        if not len(tokens):
            raise ValueError(f"source {number} is empty; there is nothing to translate")
        if len(tokens) >= source_length and not truncate:
            raise ValueError(
                f"source {number} is {len(tokens):,} tokens long; the model reads at most "
                f"{source_length - 1} and an end: shorten it, or ask to truncate it"
            )
        rows.append([*tokens[: source_length - 1].tolist(), end])
    return rows


def _source_batch(rows: Sequence[Sequence[int]], source_length: int) -> dict[str, Any]:
    tokens = np.zeros((len(rows), source_length), np.int32)
    for row, source in zip(tokens, rows, strict=True):
        row[: len(source)] = source
    lengths = np.array([len(row) for row in rows])
    is_text = np.arange(source_length) < lengths[:, None]
    return {"source": tokens, "source_segments": is_text.astype(np.int32)}
