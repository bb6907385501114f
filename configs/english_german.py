r"""English to German with a Transformer, and with LSTMs with and without attention.

  python -m launch.train --config=configs/english_german.py:transformer --workdir=runs/en_de \
      --config.data.path=en_de.tsv
  python -m launch.translate --workdir=runs/en_de --output=translations.tsv

benchmarks/english_german.py makes the pairs from packages. Whole documents are held out, and
held-out pairs that nearly stand in training are dropped. Perplexity and BLEU (four beams,
length-normalised) after 37 to 45 minutes on one shared CPU core: transformer 12.5 and 15.2,
lstm_attention 23.0 and 7.3, lstm 36.8 and 3.3 (400 sentences, standard errors 0.4 to 0.9).
"""

from typing import Any

from lm_jax.config.experiment import (
    CheckpointConfig,
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import ParallelTextConfig, TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.transformer.config import EncoderDecoderConfig

_TRANSLATORS = ("transformer", "lstm_attention", "lstm")
_LENGTH = 128  # tokens per row; several pairs are packed into one


def _recurrent(attention: str) -> RecurrentSeq2SeqConfig:
    return RecurrentSeq2SeqConfig(
        source_length=_LENGTH,
        context_length=_LENGTH,
        d_embedding=192,
        d_hidden=256,
        attention=attention,
    )


def _model(name: str) -> Any:
    if name == "transformer":
        return EncoderDecoderConfig(
            source_length=_LENGTH,
            context_length=_LENGTH,
            num_encoder_layers=3,
            num_layers=2,
            d_model=192,
            num_heads=4,
        )
    return _recurrent("dot" if name == "lstm_attention" else "none")


def get_config(translator: str = "transformer") -> Experiment:
    """Returns the experiment of `transformer`, `lstm_attention` or `lstm`.

    Raises:
      UserError: there is no such model.
    """
    if translator not in _TRANSLATORS:
        known = " or :".join(_TRANSLATORS)
        raise UserError(f"no model {translator!r}; expected --config=FILE:{known}")
    return Experiment(
        objective="seq2seq",
        model=_model(translator),
        data=ParallelTextConfig(
            path="en_de.tsv",
            validation_fraction=0.05,
            longest_characters=250,
            largest_length_ratio=2.5,
            truncate=True,
            tokenizer=TokenizerConfig("bpe", 4096),
        ),
        optimizer=OptimizerConfig(name="adam", beta2=0.98),
        schedule=ScheduleConfig(peak_learning_rate=2e-3, warmup_steps=200),
        training=TrainingConfig(
            num_steps=2800, batch_size=12, label_smoothing=0.1, log_every_steps=50
        ),
        evaluation=EvaluationConfig(every_steps=700),
        checkpoint=CheckpointConfig(every_steps=700),
        samples=SamplesConfig(num_samples=5, temperature=0.0),
    )
