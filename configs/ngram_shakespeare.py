"""Interpolated modified Kneser-Ney on the characters of tinyshakespeare.
"""

from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.experiment import EvaluationConfig, Experiment, SamplesConfig
from lm_jax.models.ngram import NgramConfig


def get_config() -> Experiment:
    """The experiment; `data.path` is the text file."""
    return Experiment(
        model=NgramConfig(order=5),
        data=DataConfig(
            source="files",
            path="tinyshakespeare.txt",
            split="tail",
            drop_repeated_paragraphs=False,
            tokenizer=TokenizerConfig(kind="char", vocab_size=1024),
        ),
        evaluation=EvaluationConfig(stride=1000, baselines=False),
        samples=SamplesConfig(num_samples=2, max_new_tokens=400, temperature=1.0, top_p=1.0),
    )
