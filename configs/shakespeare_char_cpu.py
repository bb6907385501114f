r"""nanoGPT's CPU setting: 4 layers of 128 on the characters of tinyshakespeare.

  python -m launch.train --config=configs/shakespeare_char_cpu.py --workdir=runs/shakespeare \
      --config.data.path=tinyshakespeare.txt

The file is Karpathy's `input.txt` of char-rnn, 1,115,394 characters; the last 10% are validation.
0.8M parameters, 2,000 steps of 12 windows of 64 tokens, about 2 minutes on 2 CPU cores. Validation
loss over the whole split, mean of seeds 0, 1, 2: 1.887 nats in disjoint windows of 64 (1.886,
1.877, 1.898) and 1.863 strided by 32 (launch.evaluate --stride=32). nanoGPT's README gives 1.88;
its code, measured in the same two ways, 1.916 and 1.891.
"""

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.models.transformer.config import TransformerConfig


def get_config() -> Experiment:
    """Returns the experiment; `data.path` is the text file."""
    return Experiment(
        model=TransformerConfig(
            context_length=64, num_layers=4, d_model=128, num_heads=4, use_bias=False
        ),
        data=DataConfig(
            source="files",
            path="tinyshakespeare.txt",
            split="tail",
            drop_repeated_paragraphs=False,
            tokenizer=TokenizerConfig(kind="char", vocab_size=1024),
        ),
        optimizer=OptimizerConfig(beta2=0.99),
        schedule=ScheduleConfig(peak_learning_rate=1e-3, warmup_steps=100),
        training=TrainingConfig(num_steps=2000, batch_size=12, steps_per_call=20),
        # More tokens than the split has: the figures above are of all of it.
        evaluation=EvaluationConfig(every_steps=500, batch_size=64, max_tokens=1_000_000),
        # The one beginning of the one document says little about beginnings; a new line does.
        samples=SamplesConfig(num_samples=3, max_new_tokens=500, prompt="\n"),
    )
