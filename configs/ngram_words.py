"""Modified Kneser-Ney on the words of tinyshakespeare, for comparison with KenLM.

  python -m launch.train --config=configs/ngram_words.py --workdir=runs/ngram_words \
      --config.data.path=tinyshakespeare.txt

8 seconds on 2 CPU cores: perplexity 125.962 over 24,629 events, and 132.727 with model.order=2.
benchmarks/ngram_perplexity.py has KenLM's figures.
"""

from lm_jax.config.experiment import EvaluationConfig, Experiment, SamplesConfig
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.models.ngram.model import NgramConfig


def get_config() -> Experiment:
    """Returns the experiment: lower-case words; a word seen once is unknown."""
    return Experiment(
        model=NgramConfig(order=3),
        data=DataConfig(
            source="files",
            path="tinyshakespeare.txt",
            split="tail",
            drop_repeated_paragraphs=False,
            tokenizer=TokenizerConfig(
                "whitespace", vocab_size=50_000, lowercase=True, minimum_count=2
            ),
        ),
        evaluation=EvaluationConfig(stride=1000),
        samples=SamplesConfig(num_samples=2, max_new_tokens=100, temperature=1.0, top_p=1.0),
    )
