"""The neural probabilistic language model: an MLP on the last n embeddings (Bengio et al. 2003).

Axes: b batch, t time, d width, v vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.causal_shift import lagged, positions_of
from lm_jax.models.dense_product import dense_product
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_kernel, declared_table


@dataclasses.dataclass
class MLPConfig:
    """The shape of an MLP language model (Bengio et al. 2003, eq. 1).

    A window of 1 without hidden layers is the neural bigram model.
    """

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    context_length: int = described(
        64, "Tokens of a training window; `window` limits what is read.", minimum=1
    )
    window: int = described(8, "Last tokens whose embeddings are concatenated.", minimum=1)
    d_embedding: int = described(64, "Width of an embedding.", minimum=1)
    d_hidden: int = described(512, "Width of the hidden layers.", minimum=1)
    num_layers: int = described(1, "Hidden tanh layers.", minimum=0, maximum=10_000)
    direct: bool = described(
        False, "A linear path from the embeddings to the output (Bengio et al. 2003, W)."
    )
    dropout_rate: float = described(0.0, "Dropout after each hidden layer.", minimum=0, below=1)

    def widths(self) -> tuple[str, ...]:
        """Returns the fields that muP scales."""
        return "d_hidden", "d_embedding"


class TokenWindow(NamedTuple):
    """The last tokens [b, window], the newest last, and the number of tokens so far."""

    tokens_bt: jax.Array
    length: jax.Array


class MLP(nn.Module):
    """Maps the concatenated embeddings of a window to logits."""

    config: MLPConfig
    dtype: Any
    train: bool

    def setup(self):
        c = self.config
        table = declared_table(nn.initializers.normal(1.0), ("vocab", "embed"))
        self.embedding = self.param("embedding", table, (c.vocab_size, c.d_embedding))

    def embed(self, tokens):
        """Returns embeddings [..., d] of tokens [...]."""
        return jnp.asarray(self.embedding, self.dtype)[tokens]

    @nn.compact
    def predict(self, window_btd):
        """Returns logits [b, t, v] from windows [b, t, window * d_embedding]."""
        c, x_btd = self.config, window_btd
        for index in range(c.num_layers):
            x_btd = nn.tanh(self._dense(c.d_hidden, ("embed", "mlp"), f"hidden_{index}")(x_btd))
            x_btd = nn.Dropout(c.dropout_rate, deterministic=not self.train)(x_btd)
        # Small, so that a new model predicts nearly uniformly.
        logits_btv = self._dense(c.vocab_size, ("embed", "vocab"), "output", 0.1)(x_btd)
        if c.direct and c.num_layers:
            logits_btv += self._dense(c.vocab_size, ("embed", "vocab"), "direct", 0.1)(window_btd)
        return logits_btv.astype(jnp.float32)

    def _dense(self, features: int, axes: tuple[str, str], name: str, scale: float = 1.0):
        init = nn.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal")
        return nn.Dense(
            features,
            dtype=self.dtype,
            dot_general=dense_product,
            kernel_init=declared_kernel(init, axes),
            bias_init=declared(nn.initializers.zeros, axes[1:]),
            name=name,
        )

    def __call__(self, tokens_bt, positions_bt):
        x_btd = self.embed(tokens_bt)
        lags = range(self.config.window - 1, -1, -1)
        window = [lagged(x_btd, lag, positions_bt) for lag in lags]
        return self.predict(jnp.concatenate(window, axis=-1))

    def step(self, tokens_bt, length):
        """Returns logits [b, v] after the last `length` of the tokens [b, window]."""
        x_btd = self.embed(tokens_bt)
        age_t = jnp.arange(self.config.window - 1, -1, -1)
        x_btd = jnp.where((age_t < length)[None, :, None], x_btd, 0)
        return self.predict(x_btd.reshape(len(x_btd), 1, -1))[:, 0]


def mlp(config: MLPConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the MLP language model of a configuration, which computes in `dtype`.

    Raises:
      UserError: the size of the vocabulary is not given.
    """
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")

    def init(key: jax.Array, batch: Batch) -> Variables:
        return MLP(config, dtype, train=False).init(key, batch["inputs"], positions_of(batch))

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        module, rngs = MLP(config, dtype, train), {} if key is None else {"dropout": key}
        return module.apply(variables, batch["inputs"], positions_of(batch), rngs=rngs), {}

    def start(variables: Variables, batch_size: int, max_length: int) -> TokenWindow:
        return TokenWindow(jnp.zeros((batch_size, config.window), jnp.int32), jnp.int32(0))

    def step(variables: Variables, carry: TokenWindow, tokens: jax.Array):
        tokens_bt = jnp.concatenate([carry.tokens_bt[:, 1:], tokens[:, None]], axis=1)
        length = carry.length + 1
        module = MLP(config, dtype, train=False)
        logits = module.apply(variables, tokens_bt, length, method="step")
        return logits, TokenWindow(tokens_bt, length)

    return Model(init, apply, loss_from_apply(apply), start, step)


FAMILY = Family(
    MLPConfig, mlp, any_length=True, attention_per_token=lambda config: 0, widths=MLPConfig.widths
)
