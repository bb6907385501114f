"""Every architecture as a `Model`: pure functions from parameters and a batch to logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lm_jax.models.causal_cnn import CausalCNNConfig, causal_cnn
from lm_jax.models.convnet import ConvNetConfig, convnet
from lm_jax.models.dense_classifier import DenseClassifierConfig, dense_classifier
from lm_jax.models.interface import Batch as Batch
from lm_jax.models.interface import Losses as Losses
from lm_jax.models.interface import Model as Model
from lm_jax.models.interface import Variables as Variables
from lm_jax.models.mlp import MLPConfig, mlp
from lm_jax.models.naive_bayes import NaiveBayesConfig, naive_bayes
from lm_jax.models.ngram import NgramConfig, ngram
from lm_jax.models.recurrent import RecurrentConfig, recurrent
from lm_jax.models.skip_gram import SkipGramConfig, skip_gram
from lm_jax.models.text_classifier import RecurrentClassifierConfig, recurrent_classifier
from lm_jax.models.transformer import TransformerConfig, transformer


class Family(NamedTuple):
    """An architecture: its configuration, what builds it, and what it is trained to do."""

    config: type
    build: Callable[[Any, Any], Model]  # (configuration, dtype of the computation)
    objectives: tuple[str, ...] = ("causal_lm",)
    any_length: bool = False  # whether it reads texts longer than its context_length


FAMILIES = {
    "transformer": Family(TransformerConfig, transformer),
    "ngram": Family(NgramConfig, ngram, any_length=True),
    "mlp": Family(MLPConfig, mlp, any_length=True),
    "causal_cnn": Family(CausalCNNConfig, causal_cnn, any_length=True),
    "recurrent": Family(RecurrentConfig, recurrent, any_length=True),
    "recurrent_classifier": Family(
        RecurrentClassifierConfig, recurrent_classifier, objectives=("classification",)
    ),
    "naive_bayes": Family(NaiveBayesConfig, naive_bayes, objectives=("classification",)),
    "dense_classifier": Family(
        DenseClassifierConfig, dense_classifier, objectives=("classification",)
    ),
    "convnet": Family(ConvNetConfig, convnet, objectives=("classification",)),
    "skip_gram": Family(SkipGramConfig, skip_gram, objectives=("skip_gram",)),
}


def build_model(config: Any, dtype: Any) -> Model:
    """The model of a configuration, computing in `dtype`; the configuration's type is the family.

    Raises:
      ValueError: the configuration cannot be built.
    """
    return next(f.build for f in FAMILIES.values() if f.config is type(config))(config, dtype)
