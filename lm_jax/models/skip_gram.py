"""Skip-gram with negative sampling (Mikolov et al. 2013, section 2.2): word vectors.

Axes: b batch of pairs, d width, n negatives, v vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Losses, Model, Variables, cross_entropy
from lm_jax.models.parameters import Declared


@dataclasses.dataclass
class SkipGramConfig:
    """Two tables of vectors, and how words near each other are drawn."""

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    d_embedding: int = described(100, "Width of a vector.", minimum=1)
    negatives: int = described(5, "Drawn words per pair.", minimum=1)
    noise_power: float = described(
        0.75, "Negatives are drawn by frequency to this power.", minimum=0
    )
    window: int = described(5, "The farthest word of a pair.", minimum=1)
    subsampling: float = described(
        1e-3, "t of Mikolov et al. 2013, eq. 5; 0: keep every word.", minimum=0
    )

    def widths(self) -> tuple[str, ...]:
        """Returns the field that muP scales."""
        return ("d_embedding",)


def skip_gram(config: SkipGramConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the skip-gram model of a configuration.

    In training the loss of a pair is that of telling it from `negatives` drawn ones, eq. 4. Its
    optimum is u.v = log p(target | input) / (n q(target)), q being the noise (Levy & Goldberg
    2014), so `apply` gives u.v + log q as logits, and evaluation measures true cross-entropy. The
    frequencies behind q are counted along: `variables["frequencies"]`.

    Raises:
      UserError: the size of the vocabulary is not given.
    """
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")
    shape = (config.vocab_size, config.d_embedding)

    def init(key: jax.Array, batch: Batch) -> Variables:
        # As word2vec.c: small uniform inputs, and outputs that start at zero.
        scale = 0.5 / config.d_embedding
        inputs_vd = jax.random.uniform(key, shape, minval=-scale, maxval=scale)
        axes = ("vocab", "embed")
        params = {
            "embedding": Declared(inputs_vd, axes, looked_up=True),
            "output": Declared(jnp.zeros(shape), axes, summed=(-1,)),
        }
        return {"params": params, "frequencies": {"counts": jnp.ones(config.vocab_size, jnp.int32)}}

    def log_noise(variables: Variables) -> jax.Array:
        counts_v = variables["frequencies"]["counts"].astype(jnp.float32)
        weights_v = counts_v**config.noise_power
        return jnp.log(weights_v / weights_v.sum())

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        params = variables["params"]
        inputs_bd = params["embedding"][batch["inputs"]].astype(dtype)
        logits_bv = jnp.matmul(
            inputs_bd, params["output"].astype(dtype).T, preferred_element_type=jnp.float32
        )
        return logits_bv + log_noise(variables), {"frequencies": variables["frequencies"]}

    def loss(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        if not train:
            logits_bv, stats = apply(variables, batch, train=False)
            return cross_entropy(logits_bv, batch["targets"]), stats
        if key is None:
            raise UserError("skip-gram draws its negatives: training needs a key")
        params, targets_b = variables["params"], batch["targets"]
        # Drawn by inverting the distribution function: a search instead of a sum over words.
        reached_v = jnp.cumsum(jnp.exp(log_noise(variables)))
        draws_bn = jax.random.uniform(key, (*targets_b.shape, config.negatives)) * reached_v[-1]
        negatives_bn = jnp.searchsorted(reached_v, draws_bn)
        input_bd = params["embedding"][batch["inputs"]]
        output_bnd = params["output"][jnp.concatenate([targets_b[:, None], negatives_bn], axis=1)]
        scores_bn = jnp.einsum("bd,bnd->bn", input_bd, output_bnd)
        nats_b = jax.nn.softplus(-scores_bn[:, 0]) + jax.nn.softplus(scores_bn[:, 1:]).sum(axis=1)
        correct_b = (scores_bn[:, 0] > scores_bn[:, 1:].max(axis=1)).astype(jnp.float32)
        counts = (
            variables["frequencies"]["counts"].at[targets_b].add(batch["weights"].astype(jnp.int32))
        )
        return Losses(nats_b, correct_b), {"frequencies": {"counts": counts}}

    return Model(init, apply, loss)


FAMILY = Family(SkipGramConfig, skip_gram, ("skip_gram",), widths=SkipGramConfig.widths)
