"""Next-token prediction with planted faults: see `benchmarks.bad_numbers`."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.config.experiment import Experiment
from lm_jax.data.interface import Batches
from lm_jax.models.interface import Batch, Losses, Model, Variables
from lm_jax.objectives.language_modeling import CAUSAL_LM

NAN_STEPS = (200, 201, 350)
NOISE_STEPS = tuple(range(200, 205))
_FACTOR = "factor_of_gradient"  # of a row


@jax.custom_vjp
def _with_gradient(nats: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns the losses; their gradient is multiplied by a factor."""
    return nats


_with_gradient.defvjp(
    lambda nats, factor: (nats, factor),
    lambda factor, cotangent: (cotangent * factor, jnp.zeros_like(factor)),
)


def _loss(
    model: Model, variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None
) -> tuple[Losses, Variables]:
    losses, stats = model.loss(variables, batch, train=train, key=key)
    if _FACTOR in batch:
        nats = _with_gradient(losses.nats, batch[_FACTOR][:, None])
        losses = losses._replace(nats=nats)
    return losses, stats


class _Faulty:
    """Batches with a factor of the gradient in each row, or with noise for a text."""

    def __init__(
        self, batches: Batches, vocab_size: int, nan: Collection[int], noise: Collection[int]
    ):
        self._batches, self._vocab_size, self._nan, self._noise = batches, vocab_size, nan, noise

    note = ""
    facts: Mapping[str, Any] = {}

    def __getitem__(self, step: int) -> Mapping[str, np.ndarray]:
        batch = dict(self._batches[step])
        shape = batch["inputs"].shape
        factor = np.ones(shape[0], np.float32)
        if step in self._nan:
            factor[0] = np.nan
        if step in self._noise:
            drawn = np.random.default_rng(step).integers(self._vocab_size, size=(2, *shape))
            batch["inputs"], batch["targets"] = drawn.astype(np.int32)
        return {**batch, _FACTOR: factor}


def _with_faults(nan: Collection[int] = (), noise: Collection[int] = ()) -> Any:
    def batches(experiment: Experiment, corpus: Any) -> Batches:
        made = CAUSAL_LM.training_batches(experiment, corpus)
        return _Faulty(made, corpus.tokenizer.vocab_size, nan, noise)

    return batches


# One row of the batch has a gradient that is no number; its loss is what it was.
NAN_GRADIENT = CAUSAL_LM._replace(
    name="nan_gradient", like="causal_lm", loss=_loss, training_batches=_with_faults(nan=NAN_STEPS)
)
# Five batches hold random tokens.
NOISE = CAUSAL_LM._replace(
    name="noise", like="causal_lm", loss=_loss, training_batches=_with_faults(noise=NOISE_STEPS)
)
