"""The inverse of span corruption."""

import numpy as np


def restore_spans(source, target, sentinels):
    """Returns the text that a corrupted source and its targets came from."""
    is_sentinel = np.isin(target, sentinels)
    parts = np.split(target, np.flatnonzero(is_sentinel))[1:]
    spans = {int(part[0]): part[1:] for part in parts}
    merged = [spans[int(token)] if int(token) in spans else [token] for token in source]
    return np.concatenate(merged).astype(np.int32)
