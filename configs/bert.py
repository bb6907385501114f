r"""A small BERT, trained to predict masked tokens of the embedded corpus or of any text.

  python -m launch.train --config=configs/bert.py --workdir=runs/bert
  python -m launch.train --config=configs/bert_classifier.py:reviews --workdir=runs/bert_reviews \
      --config.data.path=reviews.tsv --config.data.tokenizer.path=runs/bert \
      --config.fine_tuning.workdir=runs/bert

15% of the tokens are hidden, whole words at a time (Devlin et al. 2019, and the later release).
After 3,000 steps on 324,657 characters, 12 minutes on one shared core, the perplexity of hidden
tokens is 478. docs/results.md shows what a classifier gains from it.
"""

from lm_jax.config.experiment import (
    DenoisingConfig,
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.models.transformer.config import EncoderConfig

CONTEXT_LENGTH = 128


def encoder() -> EncoderConfig:
    """Returns the encoder that is pretrained here and classifies in bert_classifier.py."""
    return EncoderConfig(
        context_length=CONTEXT_LENGTH,
        num_layers=2,
        d_model=128,
        num_heads=2,
        norm_order="pre",
        dropout_rate=0.1,
    )


def get_config() -> Experiment:
    """Returns the experiment; set `data.source=files` and `data.path` for other texts."""
    return Experiment(
        objective="masked_lm",
        model=encoder(),
        data=DataConfig(tokenizer=TokenizerConfig("bpe", 4096)),
        denoising=DenoisingConfig(whole_words=True),
        optimizer=OptimizerConfig(beta2=0.98, weight_decay=0.01),
        schedule=ScheduleConfig(peak_learning_rate=1e-3, warmup_steps=100),
        training=TrainingConfig(num_steps=3000, batch_size=8, log_every_steps=100),
        evaluation=EvaluationConfig(every_steps=1000, batch_size=32),
    )
