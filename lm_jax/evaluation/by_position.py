"""The loss by place in the context: how much a token gains from those before it.

Place 1 is the first target of a window, which is predicted from one token, place t from t tokens
(Kaplan et al. 2020, figure 7, right). An evaluation leaves `by_position_SPLIT.json` in the work
directory of its run.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.config.experiment import EvaluationConfig
from lm_jax.evaluation.loss_sums import PositionSums
from lm_jax.telemetry.json_files import write_json


class Part(NamedTuple):
    """The targets of neighbouring places."""

    first: int  # from 1
    last: int
    nats: float  # mean
    tokens: int


def parts(sums: PositionSums, per_octave: int) -> list[Part]:
    """Places in so many parts each time that they double, and none of no target.

    With one part an octave they are 1, 2, 3 to 4, 5 to 8 and so on.
    """
    count = len(sums.tokens)
    octaves = math.ceil(math.log2(count)) if count > 1 else 0
    lasts = np.ceil(2.0 ** (np.arange(octaves * per_octave + 1) / per_octave) - 1e-9)
    lasts = np.unique(np.minimum(lasts, count).astype(int))
    found, first = [], 1
    for last in lasts.tolist():
        here = slice(first - 1, last)
        tokens = float(sums.tokens[here].sum())
        if tokens:
            found.append(Part(first, last, float(sums.nats[here].sum()) / tokens, int(tokens)))
        first = last + 1
    return found


def write_by_position(
    workdir: Path, split: str, sums: PositionSums, step: int, how: EvaluationConfig
) -> Path:
    """The path of what `read_by_position` reads: means of each place, and of what they are.

    Raises:
      OSError: it cannot be written.
    """
    tokens = sums.tokens.sum()
    path = workdir / f"by_position_{split}.json"
    record = {
        "step": step,
        "stride": how.stride,
        "context_length": how.context_length,
        "cross_entropy": float(sums.nats.sum() / tokens),
        "tokens": int(tokens),
        "nats_by_position": (sums.nats / np.where(sums.tokens, sums.tokens, np.nan)).tolist(),
        "tokens_by_position": sums.tokens.astype(int).tolist(),
    }
    write_json(path, record)
    return path


def read_by_position(workdir: Path, step: int, split: str = "validation") -> PositionSums | None:
    """The sums of each place in disjoint windows of a model's context, as of a step.

    None: that has not been measured, but nothing or something else, or it cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads((workdir / f"by_position_{split}.json").read_text())
        means, tokens = record["nats_by_position"], record["tokens_by_position"]
        nats = [mean * count if count else 0.0 for mean, count in zip(means, tokens, strict=True)]
        how = record["step"], record["stride"], record["context_length"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if how != (step, 0, 0):
        return None
    return PositionSums(np.array(nats), np.array(tokens, float))
