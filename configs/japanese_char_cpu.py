r"""Japanese in characters: pairs of characters, an MLP and a Transformer, as in a first lecture.

  python -m benchmarks.raw_texts japanese --output=data
  python -m launch.prepare_data --config=configs/data/japanese.py --output=corpora/japanese \
      --config.path=data/japanese.jsonl
  python -m launch.train --config=configs/japanese_char_cpu.py:transformer \
      --workdir=runs/japanese_transformer --config.data.path=corpora/japanese/documents

A token is a character, and a rare one its UTF-8 bytes, so any text can be written. With 4,064
tokens a uniform guess costs 8.31 nats. 2,000 steps of 16 windows of 64 tokens. Results are in
docs/results/japanese.md.
"""

from typing import Any

from lm_jax.choices import choose
from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.transformer.config import TransformerConfig

MODELS: dict[str, Any] = {
    "bigram": NgramConfig(context_length=64, order=2),
    "mlp": MLPConfig(context_length=64, d_hidden=512),
    "transformer": TransformerConfig(context_length=64, num_layers=4, d_model=128, num_heads=4),
}


def get_config(architecture: str = "transformer") -> Experiment:
    """Returns the experiment of one of `MODELS`; `data.path` is a corpus."""
    return Experiment(
        model=choose(MODELS, architecture, "the architecture after --config=FILE:"),
        data=DataConfig(
            source="files",
            path="corpora/japanese/documents",
            tokenizer=TokenizerConfig(kind="char", vocab_size=4064),
        ),
        schedule=ScheduleConfig(peak_learning_rate=1e-3, warmup_steps=100),
        training=TrainingConfig(num_steps=2000, batch_size=16, steps_per_call=20),
        # More tokens than the split has: all are measured.
        evaluation=EvaluationConfig(every_steps=1000, batch_size=64, max_tokens=1_000_000),
        samples=SamplesConfig(num_samples=2, max_new_tokens=200),
    )
