"""Small random models of every family that generates, and one that reads a source."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.models import Model, build_model
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.transformer.config import TransformerConfig
from tests.conftest import slow_but
from tests.models.jitted import jitted

VOCAB = 27
_CONFIGS = {
    "ngram": NgramConfig(VOCAB, order=3),
    "mlp": MLPConfig(VOCAB, window=4, d_embedding=16, d_hidden=32),
    "causal_cnn": CausalCNNConfig(VOCAB, num_layers=3, d_model=16),
    "rnn": RecurrentConfig(VOCAB, cell="rnn", num_layers=1, d_hidden=16),
    "lstm": RecurrentConfig(VOCAB, d_hidden=16),
    "gru": RecurrentConfig(VOCAB, cell="gru", num_layers=1, d_hidden=16),
    "carried": RecurrentConfig(VOCAB, num_layers=1, d_hidden=16, carry_state=True),
    "transformer": TransformerConfig(VOCAB, 32, num_layers=2, d_model=32),
    "rotary": TransformerConfig(
        VOCAB, 32, num_layers=2, d_model=32, num_kv_heads=2, positions="rotary", norm="rms_norm"
    ),
}
FAMILIES = slow_but(_CONFIGS, "ngram", "lstm", "transformer", "rotary")


@functools.cache
def model_of(name: str):
    """Returns a model and variables that are large enough for its logits to differ."""
    model = build_model(_CONFIGS[name], jnp.float32)
    rng = np.random.default_rng(0)
    if model.fit is not None:
        text = rng.integers(0, VOCAB - 1, 400) * rng.integers(0, 2, 400)
        end = VOCAB - 1
        split = SimpleNamespace(tokens=np.array([end, *text, end]), starts=np.array([0, 401]))
        return model, model.fit(split)
    batch = {"inputs": jnp.zeros((1, 8), jnp.int32)}
    variables = nn.unbox(jitted(model).init(jax.random.key(0), batch))
    return model, jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, variables)


def reader_of_a_source() -> tuple[Model, dict]:
    """Returns a recurrent network that also reads the sum of the source's embeddings."""
    keys = jax.random.split(jax.random.key(0), 3)
    tables = [
        jax.random.normal(key, shape)
        for key, shape in zip(keys, [(VOCAB, 8), (8, 8), (8, VOCAB)], strict=True)
    ]

    def start(variables, batch_size, max_length, source=None):
        embeddings, *_ = variables["params"]
        mask = source["source_segments"] > 0
        bag = jnp.sum(embeddings[source["source"]] * mask[..., None], axis=1)
        return {"bag": bag, "state": jnp.zeros((batch_size, 8)), "length": jnp.int32(0)}

    def step(variables, carry, tokens):
        embeddings, recurrent, output = variables["params"]
        state = jnp.tanh(embeddings[tokens] + carry["state"] @ recurrent + carry["bag"])
        return 2 * state @ output, carry | {"state": state, "length": carry["length"] + 1}

    def read(variables, carry, tokens):
        for column in tokens.T:
            logits, carry = step(variables, carry, column)
        return logits, carry

    def apply(variables, batch, *, train, key=None):
        carry = start(variables, *batch["inputs"].shape, source=batch)
        logits = []
        for column in batch["inputs"].T:
            now, carry = step(variables, carry, column)
            logits.append(now)
        return jnp.stack(logits, axis=1), {}

    def unused(*arguments, **keywords):
        raise AssertionError("decoding neither initialises a model nor asks for its loss")

    return Model(unused, apply, unused, start, step, read=read), {"params": tables}
