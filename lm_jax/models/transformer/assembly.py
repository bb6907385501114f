"""What decoder, encoder and encoder-decoder share: embeddings, logits, masks, and the `Model`.

Axes: b batch, t time, s source time, d model width, v vocabulary, l layers, h heads.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.models.chunked_cross_entropy import chunked_cross_entropy
from lm_jax.models.family import AttentionMaps, ExpertLoads, HiddenStates
from lm_jax.models.interface import (
    Batch,
    Losses,
    Model,
    Variables,
    cross_entropy,
    loss_from_apply,
)
from lm_jax.models.parameters import path_of
from lm_jax.models.target import target
from lm_jax.models.transformer.attention import Tokens, attention_mask, distances, visible
from lm_jax.models.transformer.blocks import AttentionInputs, Keys, KeysValues, LayerCache
from lm_jax.models.transformer.config import BlocksConfig, check_mesh
from lm_jax.models.transformer.experts import COLLECTION, Routed, expert_load, with_router_losses
from lm_jax.models.transformer.flash_attention import kernel
from lm_jax.models.transformer.layers import product, table
from lm_jax.models.transformer.planned_activations import planned_activations
from lm_jax.models.transformer.positions import POSITIONS
from lm_jax.models.transformer.ring_attention import CONTEXT_PARALLEL, time_axis
from lm_jax.models.transformer.stack import in_dtype

_PIECES = 8  # of the vocabulary, where a loss is measured

Call = Callable[[Any, Any, bool, Batch], tuple[nn.Module, tuple[Any, ...]]]
"""(configuration, dtype, train, batch) -> a module, and what it is called with."""


class Cache(NamedTuple):
    """Keys and values that were read, by layer, and the number of tokens."""

    layers: tuple[LayerCache, ...]
    length: jax.Array  # int32 scalar, the same for every sequence
    source_mask_bs: jax.Array | None = None


def embedding_table(module: Any) -> jax.Array:
    """Creates the table of token embeddings, [v, d]."""
    c = module.config
    return table(module, "embedding", (c.vocab_size, c.d_model), ("vocab", "embed"))


def embed(module: Any, embedding_vd: jax.Array, tokens_bt: jax.Array) -> jax.Array:
    """Returns the embeddings of tokens, [b, t, d]."""
    x_btd = jnp.asarray(embedding_vd, module.dtype)[tokens_bt]
    return x_btd * math.sqrt(module.config.d_model) if module.config.scale_embeddings else x_btd


def logits_or_losses(
    module: Any,
    embedding_vd: jax.Array,
    x_btd: jax.Array,
    targets_bt: jax.Array | None = None,
    bias_v: jax.Array | None = None,
    head: bool = False,
) -> jax.Array | Losses:
    """Returns float32 logits [b, t, v]; or the losses of targets, without holding the logits.

    Args:
      head: an output table of its own belongs to the model's head.
    """
    c = module.config
    output_vd = embedding_vd
    if not c.tie_embeddings:
        shape, axes = (c.vocab_size, c.d_model), ("vocab", "embed")
        output_vd = table(module, "output", shape, axes, output=True, head=head)
    if c.logit_scale != 1.0:
        x_btd = x_btd * c.logit_scale
    if targets_bt is not None:
        # In training one piece is held, as it was rounded; a measured loss is not rounded.
        held = module.train and c.loss_chunks == 1
        return chunked_cross_entropy(
            x_btd,
            output_vd,
            targets_bt,
            c.loss_chunks if held or c.loss_chunks > 1 else _PIECES,
            soft_cap=c.logit_soft_cap,
            bias_v=bias_v,
            dtype=module.dtype if module.train else jnp.float32,
        )
    logits_btv = product(x_btd, jnp.asarray(output_vd, module.dtype).T, jnp.float32)
    if c.logit_soft_cap:
        logits_btv = c.logit_soft_cap * jnp.tanh(logits_btv / c.logit_soft_cap)
    return logits_btv if bias_v is None else logits_btv + bias_v


def _time(tokens_bt: jax.Array) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(tokens_bt.shape[1]), tokens_bt.shape)


def masks_by_block(config: BlocksConfig, *tokens: jax.Array) -> bool:
    """Returns whether attention makes its masks itself: over a ring of devices, or blockwise."""
    if not time_axis():
        return config.attention in ("blockwise", "splash")
    lengths = (x_bt.shape[1] for x_bt in tokens)
    return CONTEXT_PARALLEL[config.context_parallel].uses_ring(*lengths)


def _keys(config: BlocksConfig, tokens: Tokens, time_bt: jax.Array) -> Keys:
    return Keys(
        attention_mask(tokens, tokens), distance_bts=window_distances(config, time_bt, time_bt)
    )


def _keys_by_block(config: BlocksConfig, tokens: Tokens, time_bt: jax.Array) -> Keys:
    tokens = tokens._replace(place_bt=time_bt if config.sliding_window else None)
    return Keys(tokens=(tokens, tokens))


def window_distances(
    config: BlocksConfig, queries_bt: jax.Array, keys_bs: jax.Array
) -> jax.Array | None:
    """Returns how far keys are from queries, the same in all rows; None without a window."""
    return distances(queries_bt[:1], keys_bs[:1]) if config.sliding_window else None


def decoder_inputs(config: BlocksConfig, batch: Batch, by_block: bool) -> AttentionInputs:
    """Lets each token read the earlier ones of its segment, and the prefix of its segment."""
    time_bt, segments_bt = _time(batch["inputs"]), batch.get("segments")
    prefix_bt, positions_bt = batch.get("prefix"), batch.get("positions", time_bt)
    if by_block:
        tokens = Tokens(time_bt, segments_bt, prefix_bt)
        return AttentionInputs(positions_bt, _keys_by_block(config, tokens, time_bt))
    fused = config.attention == "cudnn" and not time_axis()
    is_plain = segments_bt is None and prefix_bt is None
    if fused and is_plain and not config.sliding_window:
        return AttentionInputs(positions_bt, Keys())
    # Rows of one document each share one mask.
    index_bt = time_bt[:1] if is_plain else time_bt
    tokens = Tokens(index_bt, segments_bt, prefix_bt)
    return AttentionInputs(positions_bt, _keys(config, tokens, time_bt))


def encoder_inputs(
    config: BlocksConfig,
    tokens_bt: jax.Array,
    segments_bt: jax.Array | None,
    positions_bt: jax.Array | None,
    by_block: bool = False,
) -> AttentionInputs:
    """Lets each token read its whole segment; padding is segment 0."""
    time_bt, tokens = _time(tokens_bt), Tokens(segments_bt=segments_bt)
    positions_bt = time_bt if positions_bt is None else positions_bt
    make_keys = _keys_by_block if by_block else _keys
    return AttentionInputs(positions_bt, make_keys(config, tokens, time_bt))


def make_model(config: BlocksConfig, dtype: Any, call: Call, chunks_loss: bool = True) -> Model:
    """Returns `init`, `apply` and `loss` of a Transformer.

    Args:
      chunks_loss: the loss may be summed over `loss_chunks` pieces of the vocabulary.

    Raises:
      UserError: the size of the vocabulary is not given, or the kernel of attention cannot run.
    """
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")
    config = dataclasses.replace(config, attention=kernel(config, dtype))

    def init(key: jax.Array, batch: Batch) -> Variables:
        module, arguments = call(config, dtype, False, batch)
        return module.init(key, *arguments, mutable=["params"])

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool,
        key: jax.Array | None = None,
        targets: jax.Array | None = None,
    ):
        module, arguments = call(config, dtype, train, batch)
        rngs = {} if key is None else {"dropout": key}
        return module.apply(variables, *arguments, targets_bt=targets, rngs=rngs)[0], {}

    def chunked_loss(
        variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None
    ):
        return apply(variables, batch, train=train, key=key, targets=batch["targets"])

    # On an accelerator float32 logits of a whole batch are never held.
    in_chunks = chunks_loss and (config.loss_chunks > 1 or target() != "cpu")

    def routed_loss(
        variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None
    ):
        module, arguments = call(config, dtype, train, batch)
        rngs = {} if key is None else {"dropout": key}
        targets = batch["targets"] if in_chunks else None
        (found, _), sown = module.apply(
            variables, *arguments, targets_bt=targets, rngs=rngs, mutable=[COLLECTION]
        )
        losses: Any = found if in_chunks else cross_entropy(found, batch["targets"])
        routed = _routed(sown[COLLECTION], batch)
        return with_router_losses(config, losses, list(routed.values())), {}

    if config.num_experts:
        return Model(init, apply, routed_loss)
    return Model(init, apply, chunked_loss if in_chunks else loss_from_apply(apply))


def _routed(sown: Mapping[str, Any], batch: Batch) -> dict[str, Routed]:
    """Returns what the routers of each stack of layers did: `encoder`, `decoder`, or `layers`."""
    found = {}
    for path, logits_lbte in jax.tree_util.tree_leaves_with_path(sown):
        name = path_of(path).partition("/")[0]
        # Windows of one document have no segments; what has no weight there is padding.
        names = ("source_segments",) if name == "encoder" else ("segments", "weights")
        shape = logits_lbte.shape[1:3]
        marks = (batch[n] for n in names if n in batch and batch[n].shape == shape)
        found[name] = Routed(logits_lbte, next(marks, jnp.ones(shape)) > 0)
    return found


def expert_loads_of(config: BlocksConfig, call: Call) -> ExpertLoads | None:
    """Returns a function from variables and a batch to the tokens of each expert, [l, e]."""

    def expert_loads(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        module, arguments = call(config, jnp.float32, False, batch)
        _, sown = module.apply(variables, *arguments, mutable=[COLLECTION])
        routed = _routed(sown[COLLECTION], batch)
        return {name: jnp.sum(expert_load(config, x), axis=1) for name, x in routed.items()}

    return expert_loads if config.num_experts else None


def with_decoding(
    model: Model,
    config: BlocksConfig,
    dtype: Any,
    module_class: Callable[..., nn.Module],
    prepare_params: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> Model:
    """Returns the model with `read`, `step`, which is `read` for one token, `forget`, `prepare`.

    Args:
      prepare_params: parameters -> the same with the decoder's layers unstacked.
    """
    config = dataclasses.replace(config, remat="none")  # nothing is differentiated

    def read(variables: Variables, carry: Cache, tokens: jax.Array):
        layers, start, source_mask_bs = carry
        now_t = start + jnp.arange(tokens.shape[1])
        keys_s = jnp.arange(layers[0].own[0].shape[2])
        positions_bt = jnp.broadcast_to(now_t, tokens.shape)
        distance_bts = window_distances(config, now_t[None], keys_s[None])
        own = Keys(visible(now_t[None], keys_s[None]), distance_bts=distance_bts)
        inputs = AttentionInputs(positions_bt, own, start)
        if source_mask_bs is not None:
            inputs = inputs._replace(source=Keys(source_mask_bs[:, None]))
        module = module_class(config, dtype, train=False)
        result: Any = module.apply(variables, tokens, inputs, caches=layers)
        logits_btv, layers = result
        return logits_btv[:, -1], Cache(layers, start + tokens.shape[1], source_mask_bs)

    def step(variables: Variables, carry: Cache, tokens: jax.Array):
        return read(variables, carry, tokens[:, None])

    def forget(carry: Cache, count: jax.Array | int) -> Cache:
        # What caches hold of later tokens is hidden until it is written again.
        return carry._replace(length=carry.length - count)

    def prepare(variables: Variables) -> Variables:
        params = prepare_params(variables["params"])
        return {**variables, "params": {**params, **_tables_in(params, dtype)}}

    return model._replace(step=step, read=read, forget=forget, prepare=prepare)


def _tables_in(params: Mapping[str, Any], dtype: Any) -> dict[str, jax.Array]:
    """Returns the tables of tokens in the dtype that logits are multiplied in.

    A loop would otherwise round all of a table at every step.
    """
    found = (name for name in ("embedding", "output") if name in params)
    rounded = {name: in_dtype(params[name], dtype) for name in found if params[name].dtype != dtype}
    return jax.lax.optimization_barrier(rounded)


def empty_cache(config: BlocksConfig, dtype: Any, batch_size: int, max_length: int) -> KeysValues:
    """Returns keys and values of a layer before the first token, [b, g, s, k] each.

    Raises:
      UserError: the model has learned positions, and fewer than `max_length`.
    """
    if POSITIONS[config.positions].has_table and max_length > config.context_length:
        raise UserError(
            f"{max_length} tokens asked of a model with learned positions up to "
            f"{config.context_length}; ask for fewer"
        )
    empty = jnp.zeros((batch_size, config.kv_heads, max_length, config.head_width), dtype)
    return empty, empty


def maps_of(
    config: BlocksConfig,
    call: Call,
    paths: Mapping[str, tuple[str, ...]],
    dtype: Any = jnp.float32,
) -> AttentionMaps:
    """Returns a function from variables and a batch to attention weights [b, l, h, t, s], float32.

    Each row of a map sums to one.

    Args:
      paths: name of a map -> module in which attention sows it.
    """
    config = dataclasses.replace(config, attention="xla")

    def attention_maps(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        module, arguments = call(config, dtype, False, batch)
        _, kept = module.apply(variables, *arguments, mutable=["intermediates"])
        found = {}
        for name, path in paths.items():
            sown: Any = kept["intermediates"]
            for part in (*path, "map"):
                sown = sown[part]
            (map_lbhts,) = sown
            found[name] = map_lbhts.swapaxes(0, 1)
        return found

    return attention_maps


def attention_windows_of(config: BlocksConfig, layers: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Returns the window of each layer, int [l], by the name of its map; empty without windows.

    Args:
      layers: name of a map -> number of layers of its stack.
    """
    if not config.sliding_window:
        return {}
    return {
        name: np.broadcast_to(np.asarray(config.window(config.layer_kinds(count))), count)
        for name, count in layers.items()
    }


def hidden_states_of(
    config: BlocksConfig, call: Call, paths: Mapping[str, tuple[str, ...]]
) -> HiddenStates:
    """Returns a function from variables and a batch to the states [b, l + 1, t, d], float32.

    They are what the first layer reads and the output of each layer, the last after the final norm.

    Args:
      paths: name of a stack of layers -> its module.
    """

    def hidden_states(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        module, arguments = call(config, jnp.float32, False, batch)
        _, kept = module.apply(variables, *arguments, mutable=["intermediates"])
        found = {}
        for name, path in paths.items():
            sown: Any = kept["intermediates"]
            for part in path:
                sown = sown[part]
            (embedded_btd,), (final_btd,) = sown["embedded"], sown["final"]
            (hidden_lbtd,) = sown["layers"]["hidden"]
            states_lbtd = [embedded_btd[None], hidden_lbtd[:-1], final_btd[None]]
            found[name] = jnp.concatenate(states_lbtd).swapaxes(0, 1)
        return found

    return hidden_states


def attention_per_token(config: BlocksConfig) -> int:
    """Returns layers x width of all heads x context, as `Family.attention_per_token`."""
    return config.num_layers * config.num_heads * config.head_width * config.context_length


def _for_any_device(config: BlocksConfig) -> BlocksConfig:
    # XLA's kernel runs everywhere, so a model that chose it keeps it.
    is_here_only = config.attention == "cudnn"
    return dataclasses.replace(config, attention="auto") if is_here_only else config


DECLARED: dict[str, Any] = {
    "splits_time": True,
    "planned_activations": planned_activations,
    "widths": BlocksConfig.widths,
    "ties_embeddings": lambda config: config.tie_embeddings,
    "scale_logits": lambda config, factor: dataclasses.replace(
        config, logit_scale=config.logit_scale * factor
    ),
    "check_mesh": check_mesh,
    "experts": lambda config: (
        (config.experts_per_token, config.num_experts) if config.num_experts else (1, 1)
    ),
    "for_low_memory": lambda config: dataclasses.replace(config, scan_layers=True, remat="full"),
    "for_any_device": _for_any_device,
}
"""What all three families declare alike."""
