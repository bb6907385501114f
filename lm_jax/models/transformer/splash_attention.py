"""Attention on TPUs by the kernel that ships with JAX: blocks in fast memory, masks made inside.

Axes: b batch, t query time, s key time, h query heads, g key/value heads, k head width.
"""

import math
from functools import partial
from typing import TYPE_CHECKING

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from lm_jax.models.transformer.attention import Scoring, Tokens
from lm_jax.models.transformer.flash_attention import LANES, RESIDUALS

if TYPE_CHECKING:
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import Mask

CALLS = {False: "splash_attention", True: "splash_attention_causal"}
"""Whether it is causal -> the name of the call in a jaxpr, by which its cost is counted."""

_BLOCK = 512  # tokens; the largest multiple of LANES up to it that divides a length is taken
_KEYS_BACKWARD = 2048  # tokens likewise: each block of keys adds a partial gradient of all queries


def splash_attend(
    scoring: Scoring,
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    queries: Tokens,
    keys: Tokens,
    *,
    causal: bool = False,
    window: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attends as `attend` and returns [b, t, h, k], rows and heads split as the mesh splits them.

    Args:
      queries, keys: their segments decide who sees whom; there is no prefix.
      causal: queries and keys are the same tokens, and none reads a later one.
      window: no key is read at this distance or further.
      interpret: runs the kernel's program step by step on any device, to test it.
    """
    attend = partial(
        _attend_part,
        causal=causal,
        window=window,
        soft_cap=scoring.soft_cap or None,
        interpret=interpret,
    )
    given = (scoring.scaled(q_bthk), k_bsgk, v_bsgk, queries.segments_bt, keys.segments_bt)
    if jax.sharding.get_abstract_mesh().empty:
        return attend(*given)
    heads, groups, tokens = (
        PartitionSpec(*(nn.logical_to_mesh_axes(axes) or ()))
        for axes in (
            ("batch", None, "heads", None),
            ("batch", None, "kv_heads", None),
            ("batch", None),
        )
    )
    part = jax.shard_map(
        attend,
        in_specs=(heads, groups, groups, tokens, tokens),
        out_specs=heads,
        check_vma=False,
    )
    return part(*given)


def serves(q_bthk: jax.Array, k_bsgk: jax.Array, bias_hts: object, keys: Tokens) -> bool:
    """Returns whether the kernel can attend: no bias, no prefix, and parts of a mesh are even."""
    if bias_hts is not None or keys.prefix_bt is not None:
        return False
    mesh = jax.sharding.get_abstract_mesh().shape
    parts = []
    for name in ("batch", "kv_heads"):
        (axes,) = nn.logical_to_mesh_axes((name,)) or (None,)
        axes = (axes,) if isinstance(axes, str) else axes or ()
        parts.append(math.prod(mesh.get(axis, 1) for axis in axes))
    whole = not len(q_bthk) % parts[0] and not k_bsgk.shape[2] % parts[1]
    return whole and not any(x.shape[1] % LANES for x in (q_bthk, k_bsgk))


def _attend_part(
    q_bthk: jax.Array,
    k_bsgk: jax.Array,
    v_bsgk: jax.Array,
    segments_bt: jax.Array | None,
    segments_bs: jax.Array | None,
    *,
    causal: bool,
    window: int | None,
    soft_cap: float | None,
    interpret: bool,
) -> jax.Array:
    """Attends with the rows and heads of one device."""
    # A tenth of a second to import, which only TPUs need.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    q_bhtk, k_bgsk, v_bgsk = (x.transpose(0, 2, 1, 3) for x in (q_bthk, k_bsgk, v_bsgk))
    shape = (q_bhtk.shape[2], k_bgsk.shape[2])
    mask = masks.MultiHeadMask([_mask(shape, causal, window)] * q_bhtk.shape[1])
    q_block, k_block = (_block(length, _BLOCK) for length in shape)
    sizes = splash.BlockSizes(
        block_q=q_block,
        block_kv=k_block,
        block_q_dkv=q_block,
        block_kv_dkv=_block(shape[1], _KEYS_BACKWARD),
        block_kv_dkv_compute=k_block,
        use_fused_bwd_kernel=True,
    )
    kernel = splash.make_splash_mha(
        mask=mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )
    segments = None
    if segments_bt is not None and segments_bs is not None:
        segments = splash.SegmentIds(q=segments_bt, kv=segments_bs)

    def run(q_bhtk: jax.Array, k_bgsk: jax.Array, v_bgsk: jax.Array) -> jax.Array:
        return jax.vmap(kernel)(q_bhtk, k_bgsk, v_bgsk, segments)

    run.__name__ = CALLS[causal]
    y_bhtk = jax.jit(run)(q_bhtk, k_bgsk, v_bgsk)
    return y_bhtk.transpose(0, 2, 1, 3)


def _mask(shape: tuple[int, int], causal: bool, window: int | None) -> "Mask":
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    if window is not None:
        behind = window - 1
        return masks.LocalMask(shape, window_size=(behind, 0 if causal else behind), offset=0)
    return masks.CausalMask(shape) if causal else masks.FullMask(shape)


def _block(length: int, most: int) -> int:
    return next(size for size in range(most, 0, -LANES) if length % size == 0)
