"""One model of each family, wide enough that matrix products are most of its work."""

from unittest import mock

import jax

from lm_jax.build import BuiltExperiment, build_experiment
from lm_jax.data import LabelledTextConfig
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.convnet.model import ConvNetConfig
from lm_jax.models.dense_classifier import DenseClassifierConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.naive_bayes import NaiveBayesConfig
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from lm_jax.objectives.default_experiment import default_experiment

_V = 2048
_BLOCKS = {"context_length": 256, "num_layers": 2, "d_model": 512, "num_heads": 8}
_STEPS = {"context_length": 8, "d_hidden": 512}  # unrolled: few
# Family -> configuration, rows of a batch.
MODELS = {
    "transformer": (TransformerConfig(_V, **_BLOCKS), 8),
    "encoder": (EncoderConfig(_V, **_BLOCKS), 8),
    "encoder_decoder": (EncoderDecoderConfig(_V, **_BLOCKS, source_length=128), 8),
    "ngram": (NgramConfig(_V, context_length=64), 8),
    "mlp": (MLPConfig(_V, context_length=64), 64),
    "causal_cnn": (CausalCNNConfig(_V, context_length=64, d_model=512), 32),
    "recurrent": (RecurrentConfig(_V, **_STEPS), 128),
    "recurrent_seq2seq": (RecurrentSeq2SeqConfig(_V, **_STEPS, source_length=4), 128),
    "recurrent_classifier": (RecurrentClassifierConfig(_V, 4, **_STEPS), 256),
    "naive_bayes": (NaiveBayesConfig(_V, 4, context_length=64), 8),
    "dense_classifier": (DenseClassifierConfig(10, 28, 28, 1, d_hidden=512), 512),
    "convnet": (ConvNetConfig("alexnet", 1000, 227, 227, 3, dropout_rate=0), 64),
    "skip_gram": (SkipGramConfig(_V, d_embedding=512), 16_384),
}


def program_of(family: str) -> BuiltExperiment:
    """Builds a model of the family on one device."""
    model, rows = MODELS[family]
    experiment = default_experiment(model)
    experiment.mesh, experiment.compute_dtype = "data:1", "float32"
    experiment.training.batch_size = rows
    if isinstance(experiment.data, LabelledTextConfig):
        experiment.data.path = "not read"
    return build_experiment(experiment, {"vocab_size": 1}, jax.devices()[:1])


def unrolled():
    """Makes `jax.lax.scan` repeat its body, because XLA counts the body of a loop once."""
    scan = jax.lax.scan

    def repeat(f, init, xs=None, length=None, reverse=False, unroll=1, **options):
        del unroll
        return scan(f, init, xs, length, reverse, True, **options)

    return mock.patch.object(jax.lax, "scan", repeat)
