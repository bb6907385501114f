"""Attention of a recurrent decoder over the states of an encoder.

Axes: b batch, t target time, s source time, d width of the decoder, m width of the encoder's
states, k width in which the two are compared.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.models.dense_product import times
from lm_jax.models.parameters import declared
from lm_jax.models.recurrent.layer import Kernel, side_by_side


class Scoring(NamedTuple):
    """How the states of a decoder are scored against the keys of source tokens."""

    key_width: Callable[["GlobalAttention"], int]  # the width k
    scores: Callable[["GlobalAttention", jax.Array, jax.Array], jax.Array]
    """(attention, h_btd, keys_bsk) -> the score of each source token at each target step, float32
    [b, t, s]."""

    is_additive: bool = False  # has a projection of states, and a vector that weighs the sums


class GlobalAttention(nn.Module):
    """Maps decoder states to attentional states, tanh(W_c [context; h]) (Luong et al. 2015, eq. 5).

    All kinds attend with the state after each step, as Luong et al. do, for all steps at once.
    Bahdanau et al. 2015 attend with the state before the step and feed the context into it, which
    would put the attention inside the scan; the kind `additive` uses only their score.
    """

    d_hidden: int
    d_memory: int
    d_attention: int  # the width k of additive attention
    dtype: Any
    scoring: Scoring

    def setup(self):
        lecun, width = nn.initializers.lecun_normal(), self.scoring.key_width(self)
        self.memory = Kernel((self.d_memory, width), lecun)
        self.combine = Kernel((self.d_memory + self.d_hidden, self.d_hidden), lecun)
        if self.scoring.is_additive:
            self.query = Kernel((self.d_hidden, width), lecun)
            weigh = declared(nn.initializers.normal(width**-0.5), ("mlp",), summed=(-1,))
            self.score: Any = self.param("score", weigh, (width,))

    def keys(self, memory_bsm: jax.Array) -> jax.Array:
        """Returns keys_bsk, computed once for each source, to compare decoder states with."""
        return self.project(memory_bsm, self.memory)

    def project(self, x_btd: jax.Array, kernel: Kernel) -> jax.Array:
        """Returns the product with a kernel, in the dtype of the computation."""
        return times(x_btd, jnp.asarray(kernel(), self.dtype))

    def weights(self, h_btd: jax.Array, keys_bsk: jax.Array, mask_bts: jax.Array) -> jax.Array:
        """Returns the weight of each source token, float32 [b, t, s]; masked rows sum to 0."""
        weights_bts, total_bt1 = self._weights(h_btd, keys_bsk, mask_bts)
        return weights_bts / total_bt1

    def __call__(self, h_btd, memory_bsm, keys_bsk, mask_bts) -> jax.Array:
        weights_bts, total_bt1 = self._weights(h_btd, keys_bsk, mask_bts)
        sums_btm = jnp.matmul(
            weights_bts.astype(self.dtype), memory_bsm, preferred_element_type=jnp.float32
        )
        # Normalized last: divides [t, m] instead of [t, s], forward and backward.
        context_btm = (sums_btm / total_bt1).astype(self.dtype)
        joined_btd = side_by_side([context_btm, h_btd], batch_axis=0)
        return jnp.tanh(self.project(joined_btd, self.combine))

    def _weights(self, h_btd, keys_bsk, mask_bts):
        scores_bts = jnp.where(mask_bts, self.scoring.scores(self, h_btd, keys_bsk), -1e30)
        highest_bt1 = jax.lax.stop_gradient(scores_bts.max(axis=-1, keepdims=True))
        weights_bts = jnp.where(mask_bts, jnp.exp(scores_bts - highest_bt1), 0)
        total_bt1 = weights_bts.sum(axis=-1, keepdims=True)
        return weights_bts, total_bt1 + (total_bt1 == 0)  # padding attends to nothing


def _dot_scores(attention: GlobalAttention, h_btd: jax.Array, keys_bsk: jax.Array) -> jax.Array:
    return jnp.matmul(h_btd, keys_bsk.swapaxes(1, 2), preferred_element_type=jnp.float32)


def _additive_scores(
    attention: GlobalAttention, h_btd: jax.Array, keys_bsk: jax.Array
) -> jax.Array:
    query_btk = attention.project(h_btd, attention.query)
    return additive_scores(query_btk, keys_bsk, attention.score)


ATTENTIONS: dict[str, Scoring | None] = {
    "none": None,
    # e = v^T tanh(W h + U m) (Bahdanau et al. 2015, section A.1.2).
    "additive": Scoring(lambda attention: attention.d_attention, _additive_scores, True),
    # e = h^T W m (Luong et al. 2015, eq. 8, "general").
    "dot": Scoring(lambda attention: attention.d_hidden, _dot_scores),
}


def additive_scores(query_btk: jax.Array, keys_bsk: jax.Array, score_k: jax.Array) -> jax.Array:
    """Returns score^T tanh(query + key) of every pair, float32 [b, t, s].

    It takes one target step at a time, forward and backward, so memory is [b, s, k]. Each pair
    costs k hyperbolic tangents, even across segments of a row.
    """

    @jax.checkpoint
    def of_step(query_bk: jax.Array) -> jax.Array:
        return jnp.tanh(query_bk[:, None] + keys_bsk).astype(jnp.float32) @ score_k

    return jax.lax.map(of_step, query_btk.swapaxes(0, 1)).swapaxes(0, 1)
