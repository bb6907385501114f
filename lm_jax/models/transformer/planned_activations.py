"""The collectives that split activations of a Transformer need in any implementation."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_jax.models.family import PlannedCollective
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.layers import NORM_ORDERS
from lm_jax.models.transformer.ring_attention import CONTEXT_PARALLEL


def planned_activations(
    config: BlocksConfig, sequences: int, dtype: Any, mesh: Mapping[str, int]
) -> list[PlannedCollective]:
    """Returns the collectives of a Transformer's split activations in one step.

    Over `tensor`, each attention and feed-forward block sums its output once in the forward pass
    and the gradient of its input once in the backward pass (Shoeybi et al. 2019, section 3);
    parallel blocks share these sums, unless norms stand between. Over
    `sequence`, each attention gathers its keys and values and reduce-scatters their gradients, or
    passes them around a ring, in the backward pass with their gradients. Over `expert`, each
    mixture gathers its tokens and reduce-scatters its outputs, and their gradients the other way
    round. Recomputation is extra.

    Args:
      sequences: per device.
      mesh: sizes by axis.
    """
    attentions: Counter[int] = Counter()  # length of the keys -> layers that read them
    for length, layers, source_length in config.stacks():
        attentions[length] += layers
        if source_length:
            attentions[source_length] += layers
    bytes_per_value = sequences * np.dtype(dtype).itemsize
    tensor, parts, experts = mesh["tensor"], mesh["sequence"], mesh["expert"]
    planned = []
    if tensor > 1:
        width = bytes_per_value * config.d_model
        in_one_sum = config.parallel_blocks and not NORM_ORDERS[config.norm_order].after
        planned += [
            PlannedCollective(
                "all-reduce",
                ("tensor",),
                width * length // parts,
                2 * (1 if in_one_sum else 3 if source_length else 2) * layers,
            )
            for length, layers, source_length in config.stacks()
        ]
    if parts > 1:
        width = bytes_per_value * 2 * config.kv_heads * config.head_width // tensor
        exchange = CONTEXT_PARALLEL[config.context_parallel].exchange
        for length, layers in attentions.items():
            planned += exchange(width * length, layers, parts)
    if experts > 1 and config.num_experts:
        width = bytes_per_value * config.d_model * experts
        planned += [
            PlannedCollective(
                kind, ("expert",), width * stack.length // parts, 2 * stack.num_layers
            )
            for stack in config.stacks()
            for kind in ("all-gather", "reduce-scatter")
        ]
    return planned
