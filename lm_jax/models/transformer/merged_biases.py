"""Biases of keys and values whose gradients need no sum over tokens.

Weights of a softmax sum to 1, so the bias of values adds its product with the output matrix to
every token, whatever is attended to. The bias of keys adds the same to all scores of a query,
which changes no weight: its gradient is 0.

Axes: d model width, g key/value heads, k head width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.target import target
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.positions import POSITIONS


def merges_biases(config: BlocksConfig) -> bool:
    """Returns whether attention has `merged` biases: on GPUs, with matrices in one piece.

    Where blocks are recomputed XLA adds other passes than it saves.
    """
    mesh = jax.sharding.get_abstract_mesh().shape
    is_split = mesh.get("fsdp", 1) * mesh.get("tensor", 1) > 1
    is_kept = config.use_bias and config.remat == "none"
    return is_kept and target() == "cuda" and not is_split


def merged(config: BlocksConfig, dtype: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """Returns variables of an `Attention` that give the same, its value biases in its output's.

    Autodiff sums gradients of keys and of values over all tokens otherwise, a pass over each.
    """
    params = dict(nn.meta.unbox(variables["params"]))
    key, value, output = (params[name] for name in ("key", "value", "output"))
    if output.keys() == {"kernel", "bias"}:  # no low-rank update beside it, and not in int8
        params["value"] = {**value, "bias": jnp.zeros_like(value["bias"])}
        bias_d = output["bias"] + _through_output(config, dtype, value["bias"], output["kernel"])
        params["output"] = {**output, "bias": bias_d}
    if _adds_to_all_scores_alike(config):
        params["key"] = {**key, "bias": jax.lax.stop_gradient(key["bias"])}
    return {**variables, "params": params}


def _through_output(
    config: BlocksConfig, dtype: Any, bias: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Returns what a bias [g k] of values adds to an output [d], float32."""
    bias_gk = bias.reshape(config.kv_heads, -1).astype(dtype)
    bias_hk = jnp.repeat(bias_gk, config.num_heads // config.kv_heads, axis=0)
    return jnp.matmul(bias_hk.reshape(-1), kernel.astype(dtype), preferred_element_type=jnp.float32)


def _adds_to_all_scores_alike(config: BlocksConfig) -> bool:
    """Returns whether the bias of keys meets a query as it is, and its scores are not bent."""
    is_turned = POSITIONS[config.positions].rotates or config.qk_norm != "none"
    return not is_turned and not config.attention_soft_cap
