"""One held-out text as a trained model sees it: its attention, and what it would write.

Attention and generation are found in `attention_findings` and `generation_findings`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax import data
from lm_jax.analysis.attention_maps import attention, has_attention
from lm_jax.analysis.next_tokens import generation
from lm_jax.build import BuiltExperiment
from lm_jax.generation.token_labels import namer
from lm_jax.models import Variables

_LONGEST = 40  # tokens of a side whose attention is shown


def analyse_text(
    built: BuiltExperiment, variables: Variables, split: Any, tokenizer: data.Tokenizer
) -> dict[str, Any]:
    """What a model makes of one text of a split; {} where it neither attends nor generates."""
    config, findings = built.experiment.model, dict[str, Any]()
    attends, generates = has_attention(config), built.model.step is not None
    if not attends and not generates:
        return {}
    batches, _ = built.objective.evaluation_batches(
        built.experiment, split, built.experiment.evaluation
    )
    example = example_of(next(iter(batches)))
    name = namer(tokenizer, built.experiment)
    if attends:
        shown = {key: value[:, :_LONGEST] for key, value in example.items()}
        findings["attention"] = attention(config, variables, shown, name)
    if generates:
        findings |= generation(built, variables, tokenizer, example, name)
    return findings


def example_of(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """One text of a batch, [1, T]: the first one.

    Of pairs, [1, T] and [1, S], it is the longest that can be looked at whole, if there is one.
    """
    arrays = {key: np.asarray(value) for key, value in batch.items() if np.ndim(value) == 2}
    source = {key: arrays.pop(key) for key in list(arrays) if key.startswith("source")}
    segments_bt = arrays.get("segments", np.ones_like(arrays["inputs"]))
    if not source:
        return _take(arrays, segments_bt, 0, segments_bt[0, 0])
    segments_bs = source["source_segments"]
    place = _longest_shown(segments_bt, segments_bs)
    return _take(arrays, segments_bt, *place) | _take(source, segments_bs, *place)


def _take(
    arrays: Mapping[str, np.ndarray], segments: np.ndarray, row: int, segment: int
) -> dict[str, np.ndarray]:
    columns = np.flatnonzero(segments[row] == segment)
    return {key: value[row : row + 1, columns] for key, value in arrays.items()}


def _longest_shown(segments_bt: np.ndarray, segments_bs: np.ndarray) -> tuple[int, int]:
    """Row and segment of the longest pair of which all can be shown, or of the first."""
    lengths: dict[tuple[int, int], int] = {}
    for row, (target, source) in enumerate(zip(segments_bt, segments_bs, strict=True)):
        for segment in range(1, target.max(initial=0) + 1):
            lengths[row, segment] = max((target == segment).sum(), (source == segment).sum())
    return max(lengths, key=lambda pair: lengths[pair] * (lengths[pair] <= _LONGEST))
