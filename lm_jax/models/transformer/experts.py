"""A mixture of experts: a feed-forward block of which each token passes a few of many parts.

Shazeer et al. 2017; Fedus et al. 2022 (Switch); Jiang et al. 2024 (Mixtral). Dropless: an expert
takes every token that the router sends, however many.

Axes: b batch, t time, d model width, f width of an expert, e experts, k experts of a token,
m pairs of a token and an expert, l layers.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm_jax.models.interface import Auxiliary, Losses
from lm_jax.models.parameters import declared_kernel
from lm_jax.models.transformer.config import BlocksConfig
from lm_jax.models.transformer.feed_forward import FeedForward
from lm_jax.models.transformer.grouped_product import grouped_product
from lm_jax.models.transformer.layers import GATES, activate, residual_stddev

COLLECTION = "router"  # where each layer leaves the logits of its router


class Routed(NamedTuple):
    """What the routers of a stack of layers said."""

    logits_lbte: jax.Array
    is_text_bt: jax.Array  # bool: False for padding


Kernels = Mapping[str, jax.Array]
"""up and down, and in a gated unit gate: [e, in, out]."""


class MixtureOfExperts(nn.Module):
    """A router, experts without biases and, where configured, a shared expert that all pass."""

    config: BlocksConfig
    dtype: Any
    transposed: bool = False  # kernels of the shared expert are stored transposed

    @nn.compact
    def __call__(self, x_btd):
        c = self.config
        normal = declared_kernel(nn.initializers.normal(0.02), ("embed", "router"))
        router_de: Any = self.param("router", normal, (c.d_model, c.num_experts))
        logits_bte = jnp.matmul(
            x_btd, jnp.asarray(router_de, self.dtype), preferred_element_type=jnp.float32
        )
        self.sow(COLLECTION, "logits", logits_bte)
        weights_btk, chosen_btk = route(c, logits_bte)
        y_btd = _on_mesh(c, x_btd, weights_btk, chosen_btk, self._kernels())
        if c.d_shared_expert:
            y_btd = y_btd + self._shared(x_btd)
        return y_btd

    def _kernels(self) -> Kernels:
        c, found = self.config, {}
        names = ("gate", "up", "down") if c.activation in GATES else ("up", "down")
        for name in names:
            is_down = name == "down"
            axes = ("mlp", "embed") if is_down else ("embed", "mlp")
            shape = (c.expert_width, c.d_model) if is_down else (c.d_model, c.expert_width)
            normal = nn.initializers.normal(residual_stddev(c) if is_down else 0.02)
            initializer = declared_kernel(normal, ("experts", *axes))
            kernel_eio: Any = self.param(name, initializer, (c.num_experts, *shape))
            found[name] = jnp.asarray(kernel_eio, self.dtype)
        return found

    def _shared(self, x_btd):
        c = self.config
        shared = FeedForward(c, self.dtype, c.d_shared_expert, self.transposed, name="shared")
        normal = declared_kernel(nn.initializers.normal(0.02), ("embed", "router"))
        gate_d1: Any = self.param("shared_gate", normal, (c.d_model, 1))
        gate_bt1 = jnp.matmul(
            x_btd, jnp.asarray(gate_d1, self.dtype), preferred_element_type=jnp.float32
        )
        return nn.sigmoid(gate_bt1).astype(self.dtype) * shared(x_btd)


def route(config: BlocksConfig, logits_bte: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns weights [b, t, k], float32, and indices [b, t, k] of the experts of each token.

    Of experts with equal logits the one of the lower index comes first.
    """
    chosen_logits_btk, chosen_btk = jax.lax.top_k(logits_bte, config.experts_per_token)
    if config.normalize_expert_weights:
        return jax.nn.softmax(chosen_logits_btk, axis=-1), chosen_btk
    total_bt1 = jax.nn.logsumexp(logits_bte, axis=-1, keepdims=True)
    return jnp.exp(chosen_logits_btk - total_bt1), chosen_btk


def _on_mesh(config: BlocksConfig, x_btd, weights_btk, chosen_btk, kernels: Kernels) -> jax.Array:
    """Returns the weighted sum of the experts' outputs, [b, t, d], on the mesh that is set.

    Each device sorts its own tokens. Over the axis of `experts`, which splits the batch as well,
    tokens are gathered, each device computes what its experts give them, and the sums return to
    the devices of the tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _local(config, x_btd, weights_btk, chosen_btk, kernels, 0)

    def fits(axes: Any, size: int) -> Any:
        names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
        return axes if size % math.prod(mesh.shape[name] for name in names) == 0 else None

    # One by one: in one array, an axis of the mesh could split only the batch or the experts.
    names = ("batch", "time", "experts", "mlp")
    batch, time, experts, tensor = (_mesh_axes(name) for name in names)
    batch, time = fits(batch, x_btd.shape[0]), fits(time, x_btd.shape[1])
    experts, tensor = fits(experts, config.num_experts), fits(tensor, config.expert_width)
    tokens = PartitionSpec(batch, time, None)
    is_gathered = experts is not None and experts in (batch or ())

    def part(x_btd, weights_btk, chosen_btk, kernels):
        if is_gathered:
            x_btd, weights_btk, chosen_btk = (
                jax.lax.all_gather(x, experts, axis=0, tiled=True)
                for x in (x_btd, weights_btk, chosen_btk)
            )
        index = jax.lax.axis_index(experts) if experts else 0
        first = index * len(kernels["down"])
        y_btd = _local(config, x_btd, weights_btk, chosen_btk, kernels, first)
        if tensor:
            y_btd = jax.lax.psum(y_btd, tensor)
        if is_gathered:
            return jax.lax.psum_scatter(y_btd, experts, scatter_dimension=0, tiled=True)
        return jax.lax.psum(y_btd, experts) if experts else y_btd

    up = PartitionSpec(experts, None, tensor)
    specs = {n: PartitionSpec(experts, tensor, None) if n == "down" else up for n in kernels}
    return jax.shard_map(
        part, in_specs=(tokens, tokens, tokens, specs), out_specs=tokens, check_vma=False
    )(x_btd, weights_btk, chosen_btk, dict(kernels))


def _mesh_axes(name: str) -> Any:
    (axes,) = nn.logical_to_mesh_axes((name,)) or (None,)
    return axes


def _local(
    config: BlocksConfig, x_btd, weights_btk, chosen_btk, kernels: Kernels, first: jax.Array | int
) -> jax.Array:
    """Returns what the experts of these kernels, from index `first` on, add to each token."""
    experts, per_token = len(kernels["down"]), chosen_btk.shape[-1]
    expert_m = chosen_btk.reshape(-1) - first
    is_here_m = (expert_m >= 0) & (expert_m < experts)
    expert_m = jnp.where(is_here_m, expert_m, experts)  # last, and in no group
    order_m = jnp.argsort(expert_m)
    inverse_m = jnp.argsort(order_m)
    sizes_e = jnp.bincount(expert_m, length=experts)
    pairs_md = jnp.repeat(x_btd.reshape(-1, x_btd.shape[-1]), per_token, axis=0)
    rows_md = _permuted(pairs_md, order_m, inverse_m)
    up_mf = grouped_product(rows_md, kernels["up"], sizes_e)
    if "gate" in kernels:
        hidden_mf = GATES[config.activation](grouped_product(rows_md, kernels["gate"], sizes_e))
        hidden_mf = hidden_mf * up_mf
    else:
        hidden_mf = activate(config, up_mf)
    y_md = grouped_product(hidden_mf, kernels["down"], sizes_e)
    y_btkd = _permuted(y_md, inverse_m, order_m).reshape(*chosen_btk.shape, -1)
    y_btd = jnp.sum(y_btkd * weights_btk[..., None], axis=2)
    return y_btd.astype(x_btd.dtype)


@jax.custom_vjp
def _permuted(x_md: jax.Array, order_m: jax.Array, inverse_m: jax.Array) -> jax.Array:
    """Returns x_md[order_m]; its gradient is read in the inverse order, not scattered."""
    return x_md[order_m]


_permuted.defvjp(
    lambda x_md, order_m, inverse_m: (x_md[order_m], inverse_m),
    lambda inverse_m, dy_md: (dy_md[inverse_m], None, None),
)


def with_router_losses(config: BlocksConfig, losses: Losses, routed: Sequence[Routed]) -> Losses:
    """Returns the losses with the terms that train a router, and what it did.

    Each term is a mean over layers and over the tokens of a row, one value a row, so that it
    depends neither on the batch nor on the number of parts in which it is computed.

    Args:
      routed: of each stack of layers.
    """
    by_stack = [_router_terms(config, stack) for stack in routed]
    layers = [len(stack.logits_lbte) for stack in routed]

    def mean(name: str) -> jax.Array:
        parts = (terms[name] * count for terms, count in zip(by_stack, layers, strict=True))
        return functools.reduce(jnp.add, parts) / sum(layers)

    auxiliary = {
        "router_balance": Auxiliary(mean("balance_b"), config.router_balance_weight),
        "router_z": Auxiliary(mean("z_b"), config.router_z_weight),
    }
    metrics = {f"router_share_{index}": x_b for index, x_b in enumerate(mean("share_be").T)}
    return losses._replace(
        auxiliary={**losses.auxiliary, **auxiliary},
        metrics={**losses.metrics, **metrics, "router_largest_load": mean("largest_load")},
    )


def _router_terms(config: BlocksConfig, routed: Routed) -> dict[str, jax.Array]:
    """Returns means over the layers of a stack and the tokens of each row; and the largest load.

    The balance is the number of experts times the sum over them of their share of tokens times
    their mean probability (Fedus et al. 2022, eq. 4); z is eq. 5 of Zoph et al. 2022.
    """
    logits_lbte, is_text_bt = routed
    tokens_b = jnp.maximum(jnp.sum(is_text_bt, axis=1), 1).astype(jnp.float32)

    def mean(x_lbt: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(is_text_bt, x_lbt, 0), axis=-1) / tokens_b

    load_lbe = expert_load(config, routed)
    share_lbe = load_lbe / (config.experts_per_token * tokens_b[:, None])
    probabilities_elbt = jnp.moveaxis(jax.nn.softmax(logits_lbte, axis=-1), -1, 0)
    means_lbe = jnp.moveaxis(mean(probabilities_elbt), 0, -1)
    load_le = jnp.sum(load_lbe, axis=1)
    largest_l = jnp.max(load_le, axis=1) / jnp.maximum(jnp.mean(load_le, axis=1), 1)
    return {
        "balance_b": config.num_experts * jnp.mean(jnp.sum(share_lbe * means_lbe, -1), axis=0),
        "z_b": jnp.mean(mean(jnp.square(jax.nn.logsumexp(logits_lbte, axis=-1))), axis=0),
        "share_be": jnp.mean(share_lbe, axis=0),
        "largest_load": jnp.mean(largest_l),
    }


def expert_load(config: BlocksConfig, routed: Routed) -> jax.Array:
    """Returns the number of tokens of each row that each expert takes, float32 [l, b, e]."""
    _, chosen_lbtk = jax.lax.top_k(routed.logits_lbte, config.experts_per_token)
    passes_lbte = jnp.sum(jax.nn.one_hot(chosen_lbtk, config.num_experts), axis=3)
    return jnp.sum(passes_lbte * routed.is_text_bt[..., None], axis=2)
