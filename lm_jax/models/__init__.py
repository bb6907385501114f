"""Every architecture as a `Model`: pure functions from parameters and a batch to logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lm_jax.models import causal_cnn, dense_classifier, mlp, naive_bayes, skip_gram
from lm_jax.models.convnet import model as convnet
from lm_jax.models.interface import Batch as Batch
from lm_jax.models.interface import Losses as Losses
from lm_jax.models.interface import Model as Model
from lm_jax.models.interface import Variables as Variables
from lm_jax.models.ngram import model as ngram
from lm_jax.models.recurrent import language_model as recurrent
from lm_jax.models.recurrent import seq2seq as recurrent_seq2seq
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig, recurrent_classifier
from lm_jax.models.transformer import model as transformer


class Family(NamedTuple):
    """An architecture: its configuration, what builds it, and what it is trained to do."""

    config: type
    build: Callable[[Any, Any], Model]  # (configuration, dtype of the computation)
    objectives: tuple[str, ...] = ("causal_lm",)
    any_length: bool = False  # whether it reads texts longer than its context_length


_CLASSIFIES = ("classification",)

FAMILIES = {
    "transformer": Family(
        transformer.TransformerConfig,
        transformer.transformer,
        ("causal_lm", "prefix_lm", "seq2seq"),
    ),
    "ngram": Family(ngram.NgramConfig, ngram.ngram, any_length=True),
    "mlp": Family(mlp.MLPConfig, mlp.mlp, any_length=True),
    "causal_cnn": Family(causal_cnn.CausalCNNConfig, causal_cnn.causal_cnn, any_length=True),
    "recurrent": Family(recurrent.RecurrentConfig, recurrent.recurrent, any_length=True),
    "recurrent_seq2seq": Family(
        recurrent_seq2seq.RecurrentSeq2SeqConfig,
        recurrent_seq2seq.recurrent_seq2seq,
        ("seq2seq", "span_corruption"),
        any_length=True,
    ),
    "recurrent_classifier": Family(RecurrentClassifierConfig, recurrent_classifier, _CLASSIFIES),
    "naive_bayes": Family(naive_bayes.NaiveBayesConfig, naive_bayes.naive_bayes, _CLASSIFIES),
    "dense_classifier": Family(
        dense_classifier.DenseClassifierConfig, dense_classifier.dense_classifier, _CLASSIFIES
    ),
    "convnet": Family(convnet.ConvNetConfig, convnet.convnet, _CLASSIFIES),
    "encoder": Family(
        transformer.EncoderConfig, transformer.encoder, ("masked_lm", "classification")
    ),
    "encoder_decoder": Family(
        transformer.EncoderDecoderConfig,
        transformer.encoder_decoder,
        ("seq2seq", "span_corruption"),
    ),
    "skip_gram": Family(skip_gram.SkipGramConfig, skip_gram.skip_gram, ("skip_gram",)),
}


def build_model(config: Any, dtype: Any) -> Model:
    """The model of a configuration, computing in `dtype`; the configuration's type is the family.

    Raises:
      UserError: the configuration cannot be built.
    """
    return next(f.build for f in FAMILIES.values() if f.config is type(config))(config, dtype)
