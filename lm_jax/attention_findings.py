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
from lm_jax.models.recurrent_seq2seq import RecurrentSeq2SeqConfig
from lm_jax.models.recurrent_seq2seq import attention_weights as recurrent_weights
from lm_jax.models.transformer import attention_maps
from lm_jax.models.transformer_config import BlocksConfig

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
    readers = read = [name(int(token)) for token in example["inputs"][0]]
    source = [name(int(token)) for token in example["source"][0]] if "source" in example else []
    towers: dict[str, Any] = {}
    for tower, map_blhts in _maps(config, variables, example).items():
        readers_of = source if tower == "encoder" and source else readers
        read_of = source if tower != "decoder" and source else read
        towers[tower] = _tower(np.asarray(map_blhts)[0], readers_of, read_of)
    return towers


def _maps(config: Any, variables: Variables, example: Mapping[str, Any]) -> Mapping[str, jax.Array]:
    batch = {key: jnp.asarray(value) for key, value in example.items()}
    if isinstance(config, RecurrentSeq2SeqConfig):
        weights_bts = jax.jit(functools.partial(recurrent_weights, config))(variables, batch)
        return {"cross": weights_bts[:, None, None]}
    return jax.jit(functools.partial(attention_maps, config))(variables, batch)


def _tower(map_lhts: np.ndarray, readers: Sequence[str], read: Sequence[str]) -> dict[str, Any]:
    layers, heads = (_first_and_last(count) for count in map_lhts.shape[:2])
    return {
        "readers": list(readers),
        "read": list(read),
        "layers": [layer + 1 for layer in layers],
        "heads": [head + 1 for head in heads],
        "maps": [[_lines(map_lhts[layer, head]) for head in heads] for layer in layers],
    }


def _first_and_last(count: int) -> list[int]:
    if count <= _MOST:
        return list(range(count))
    return [*range(_MOST // 2), *range(count - _MOST // 2, count)]


def _lines(map_ts: np.ndarray) -> list[str]:
    """What is masked weighs exactly 0, and what is seen hardly ever does."""
    return [
        " ".join(f"{1000 * weight:.0f}" if weight else "." for weight in row)
        for row in map_ts.tolist()
    ]
