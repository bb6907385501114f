r"""Copying, reversing and sorting symbols: which sequence models learn a task exactly.

  python -m launch.train --config=configs/symbols.py:encoder_decoder --workdir=runs/reverse \
      --config.data.source=reverse
  python -m launch.translate --workdir=runs/reverse --num_beams=1

The models are `encoder_decoder` and `decoder` (Transformers; the second reads a pair as one text),
`lstm_attention` and `lstm`. The tasks copy, reverse or sort 1 to 20 of 26 symbols.

After 2 to 3 minutes on two CPU cores, each of the first three models gets 99.91% to 100% of 4,342
new sequences right to the last symbol, in each task (docs/results.md).
"""

from typing import Any

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import ParallelTextConfig, SymbolsConfig, TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.transformer.config import EncoderDecoderConfig, TransformerConfig

_LENGTH = 32  # tokens per row; several pairs are packed into one
_BATCH_SIZES = {"decoder": 16, "lstm_attention": 48}  # rows
_MODELS: dict[str, tuple[Any, float, int]] = {  # model, peak learning rate, steps
    "encoder_decoder": (
        EncoderDecoderConfig(
            context_length=_LENGTH, source_length=_LENGTH, num_layers=2, d_model=64, num_heads=4
        ),
        4e-3,
        2800,
    ),
    "decoder": (
        TransformerConfig(
            context_length=2 * _LENGTH,
            num_layers=2,
            d_model=64,
            num_heads=4,
            positions="sinusoidal",
            scale_embeddings=True,
        ),
        4e-3,
        4400,
    ),
    "lstm_attention": (
        RecurrentSeq2SeqConfig(
            context_length=24,
            source_length=24,
            d_hidden=128,
            attention="additive",
            d_attention=64,
        ),
        3.5e-3,
        2100,
    ),
    "lstm": (
        RecurrentSeq2SeqConfig(
            context_length=_LENGTH, source_length=_LENGTH, d_hidden=256, attention="none"
        ),
        3e-3,
        2000,
    ),
}


def get_config(sequence_model: str = "encoder_decoder") -> Experiment:
    """Returns the experiment of one of the four models; `data.source` is the task.

    Raises:
      UserError: there is no such model.
    """
    if sequence_model not in _MODELS:
        known = " or :".join(_MODELS)
        raise UserError(f"no model {sequence_model!r}; expected --config=FILE:{known}")
    model, peak_learning_rate, num_steps = _MODELS[sequence_model]
    return Experiment(
        objective="seq2seq",
        model=model,
        data=ParallelTextConfig(
            source="reverse",
            symbols=SymbolsConfig(num_training_pairs=200_000, num_validation_pairs=5_000),
            tokenizer=TokenizerConfig("whitespace", 10_000, unknown=False),
        ),
        optimizer=OptimizerConfig(beta2=0.98, weight_decay=0.0),
        schedule=ScheduleConfig(
            peak_learning_rate=peak_learning_rate, warmup_steps=100, final_fraction=0.01
        ),
        training=TrainingConfig(
            num_steps=num_steps,
            batch_size=_BATCH_SIZES.get(sequence_model, 32),
            steps_per_call=20,
            log_every_steps=100,
        ),
        evaluation=EvaluationConfig(every_steps=0),
        samples=SamplesConfig(num_samples=5, temperature=0.0),
    )
