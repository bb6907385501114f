"""The analysis of one held-out text: its attention maps and its next-token predictions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax import data
from lm_jax.analysis.attention_maps import analyse_attention
from lm_jax.analysis.next_tokens import analyse_generation
from lm_jax.build import BuiltExperiment
from lm_jax.generation.token_labels import namer
from lm_jax.models import Variables, family_of

_LONGEST = 40  # tokens of a text, and of a source, whose attention is shown


def analyse_text(
    built: BuiltExperiment, variables: Variables, split: Any, tokenizer: data.Tokenizer
) -> dict[str, Any]:
    """Returns the analysis of one text of a split.

    It is empty for a model that neither has attention nor generates.
    """
    attention_maps = family_of(built.experiment.model).attention_maps(built.experiment.model)
    generates = built.model.step is not None
    if attention_maps is None and not generates:
        return {}
    batches, _ = built.objective.evaluation_batches(
        built.experiment, split, built.experiment.evaluation
    )
    example = example_of(next(iter(batches)))
    name = namer(tokenizer, built.experiment)
    analysis: dict[str, Any] = {}
    if attention_maps is not None:
        shown = {key: value[:, :_LONGEST] for key, value in example.items()}
        windows = family_of(built.experiment.model).attention_windows(built.experiment.model)
        analysis["attention"] = analyse_attention(attention_maps, variables, shown, name, windows)
    if generates:
        analysis |= analyse_generation(built, variables, tokenizer, example, name)
    return analysis


def example_of(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the first text of a batch, arrays [1, T].

    From a batch of pairs it returns the longest pair, [1, T] and [1, S], with at most 40 tokens on
    each side; the first pair where all are longer.
    """
    arrays = {key: np.asarray(value) for key, value in batch.items() if np.ndim(value) == 2}
    source = {key: arrays.pop(key) for key in list(arrays) if key.startswith("source")}
    segments_bt = arrays.get("segments", np.ones_like(arrays["inputs"]))
    if not source:
        return _take(arrays, segments_bt, 0, segments_bt[0, 0])
    segments_bs = source["source_segments"]
    row, segment = _longest_shown(segments_bt, segments_bs)
    return _take(arrays, segments_bt, row, segment) | _take(source, segments_bs, row, segment)


def _take(
    arrays: Mapping[str, np.ndarray], segments: np.ndarray, row: int, segment: int
) -> dict[str, np.ndarray]:
    columns = np.flatnonzero(segments[row] == segment)
    return {key: value[row : row + 1, columns] for key, value in arrays.items()}


def _longest_shown(segments_bt: np.ndarray, segments_bs: np.ndarray) -> tuple[int, int]:
    """Returns row and segment of the longest pair that can be shown whole, or of the first pair."""
    lengths: dict[tuple[int, int], int] = {}
    for row, (target, source) in enumerate(zip(segments_bt, segments_bs, strict=True)):
        for segment in range(1, target.max(initial=0) + 1):
            lengths[row, segment] = max((target == segment).sum(), (source == segment).sum())
    return max(lengths, key=lambda pair: lengths[pair] * (lengths[pair] <= _LONGEST))
