"""Who attends to whom in one example, layer by layer and head by head, as JSON.

Axes: b batch, l layers, h heads, t tokens that read, s tokens that are read.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.models import Variables
from lm_jax.models.recurrent.seq2seq import RecurrentSeq2SeqConfig
from lm_jax.models.recurrent.seq2seq import attention_weights as recurrent_weights
from lm_jax.models.transformer.attention import visible
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.model import attention_maps

_TOWERS = ("encoder", "decoder", "cross")
_MOST = 12  # layers, and heads of each, that are kept of a tower


def has_attention(config: Any) -> bool:
    """Whether a model of this configuration has attention that can be shown."""
    if isinstance(config, RecurrentSeq2SeqConfig):
        return config.attention != "none"
    return isinstance(config, BlocksConfig)


def attention(
    config: Any, variables: Variables, example: Mapping[str, Any], name: Callable[[int], str]
) -> dict[str, Any]:
    """The maps of one example by tower: `encoder`, `decoder`, `cross`.

    A tower has its `layers` and `heads` by number, from 1; of many the first and the last. Its
    `maps[layer][head]` is a line of text for each token that reads, `readers`, with the weight of
    each token that is read, `read`, in thousandths, and a dot where it sees none of it.

    Args:
      example: one text or pair, [1, T] and [1, S].
      name: of a token, as people should see it.
    """
    text = [name(int(token)) for token in example["inputs"][0]]
    source = [name(int(token)) for token in example["source"][0]] if "source" in example else text
    towers: dict[str, Any] = {}
    maps = _maps(config, variables, example)
    for tower in (tower for tower in _TOWERS if tower in maps):
        readers = source if tower == "encoder" else text
        read = text if tower == "decoder" else source
        map_lhts = np.asarray(maps[tower])[0]
        seen_ts = np.ones(map_lhts.shape[2:], bool)
        if tower == "decoder":
            time_bt = jnp.arange(len(text))[None]
            seen_ts = np.asarray(visible(time_bt, time_bt, example.get("prefix")))[0]
        towers[tower] = _tower(map_lhts, seen_ts, readers, read)
    return towers


def _maps(config: Any, variables: Variables, example: Mapping[str, Any]) -> Mapping[str, jax.Array]:
    batch = {key: jnp.asarray(value) for key, value in example.items()}
    if isinstance(config, RecurrentSeq2SeqConfig):
        weights_bts = jax.jit(functools.partial(recurrent_weights, config))(variables, batch)
        return {"cross": weights_bts[:, None, None]}
    return jax.jit(functools.partial(attention_maps, config))(variables, batch)


def _tower(
    map_lhts: np.ndarray, seen_ts: np.ndarray, readers: Sequence[str], read: Sequence[str]
) -> dict[str, Any]:
    layers, heads = (_first_and_last(count) for count in map_lhts.shape[:2])
    return {
        "readers": list(readers),
        "read": list(read),
        "layers": [layer + 1 for layer in layers],
        "heads": [head + 1 for head in heads],
        "maps": [[_lines(map_lhts[layer, head], seen_ts) for head in heads] for layer in layers],
    }


def _first_and_last(count: int) -> list[int]:
    if count <= _MOST:
        return list(range(count))
    return [*range(_MOST // 2), *range(count - _MOST // 2, count)]


def _lines(map_ts: np.ndarray, seen_ts: np.ndarray) -> list[str]:
    """Weights may also underflow to 0, so that they do not tell what is masked."""
    cells_ts = np.where(seen_ts, np.char.mod("%.0f", 1000 * map_ts), ".")
    return [" ".join(cells) for cells in cells_ts.tolist()]
