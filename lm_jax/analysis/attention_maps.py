"""The attention weights of one example, by layer and head, as JSON.

Axes: b batch, l layers, h heads, t query tokens, s key tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.models import Variables
from lm_jax.models.family import AttentionMaps
from lm_jax.models.transformer.attention import visible

_KINDS = ("encoder", "decoder", "cross")
_LARGEST = 12  # layers that are kept, and heads of each layer


def analyse_attention(
    attention_maps: AttentionMaps,
    variables: Variables,
    example: Mapping[str, Any],
    name: Callable[[int], str],
) -> dict[str, Any]:
    """Returns the maps of one example by kind: `encoder`, `decoder`, `cross`.

    A kind has the numbers of its `layers` and `heads`, from 1; of more than 12 it has the first
    and the last 6. `maps[layer][head]` has a line of text for each query token (`readers`): its
    weight for each key token (`read`) in thousandths, or a dot where the key is masked.

    Args:
      attention_maps: the function that the model's family declares.
      variables: the model's variables.
      example: one text [1, T], or one pair with a `source` [1, S].
      name: the label of a token.
    """
    text = [name(int(token)) for token in example["inputs"][0]]
    source = [name(int(token)) for token in example["source"][0]] if "source" in example else text
    batch = {key: jnp.asarray(value) for key, value in example.items()}
    maps = jax.jit(attention_maps)(variables, batch)
    found: dict[str, Any] = {}
    for kind in (kind for kind in _KINDS if kind in maps):
        queries = source if kind == "encoder" else text
        keys = text if kind == "decoder" else source
        map_lhts = np.asarray(maps[kind])[0]
        visible_ts = np.ones(map_lhts.shape[2:], bool)
        if kind == "decoder":
            time_bt = jnp.arange(len(text))[None]
            visible_ts = np.asarray(visible(time_bt, time_bt, example.get("prefix")))[0]
        found[kind] = _maps_of_kind(map_lhts, visible_ts, queries, keys)
    return found


def _maps_of_kind(
    map_lhts: np.ndarray, visible_ts: np.ndarray, queries: Sequence[str], keys: Sequence[str]
) -> dict[str, Any]:
    layers, heads = (_first_and_last(count) for count in map_lhts.shape[:2])
    return {
        "readers": list(queries),
        "read": list(keys),
        "layers": [layer + 1 for layer in layers],
        "heads": [head + 1 for head in heads],
        "maps": [[_lines(map_lhts[layer, head], visible_ts) for head in heads] for layer in layers],
    }


def _first_and_last(count: int) -> list[int]:
    if count <= _LARGEST:
        return list(range(count))
    return [*range(_LARGEST // 2), *range(count - _LARGEST // 2, count)]


def _lines(map_ts: np.ndarray, visible_ts: np.ndarray) -> list[str]:
    # The weights alone do not show what is masked: they may underflow to 0.
    cells_ts = np.where(visible_ts, np.char.mod("%.0f", 1000 * map_ts), ".")
    return [" ".join(cells) for cells in cells_ts.tolist()]
