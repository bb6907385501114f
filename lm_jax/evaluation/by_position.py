"""The loss by position in the context: how much a token gains from the tokens before it.

Position 1 is the first target of a window, which is predicted from one token; position t is
predicted from t tokens (Kaplan et al. 2020, figure 7, right).
"""

import math
from typing import NamedTuple

import numpy as np

from lm_jax.evaluation.loss_sums import PositionSums


class PositionBin(NamedTuple):
    """The mean loss of the targets at neighbouring positions."""

    first: int  # position, from 1
    last: int
    nats: float  # mean per target
    tokens: int  # number of targets


def position_bins(sums: PositionSums, per_octave: int) -> list[PositionBin]:
    """Groups positions into `per_octave` log-spaced bins; drops empty bins.

    One bin per octave gives positions 1, 2, 3 to 4, 5 to 8 and so on.
    """
    count = len(sums.tokens)
    octaves = math.ceil(math.log2(count)) if count > 1 else 0
    lasts = np.ceil(2.0 ** (np.arange(octaves * per_octave + 1) / per_octave) - 1e-9)
    lasts = np.unique(np.minimum(lasts, count).astype(int))
    bins, first = [], 1
    for last in lasts.tolist():
        inside = slice(first - 1, last)
        tokens = float(sums.tokens[inside].sum())
        if tokens:
            nats = float(sums.nats[inside].sum()) / tokens
            bins.append(PositionBin(first, last, nats, int(tokens)))
        first = last + 1
    return bins
