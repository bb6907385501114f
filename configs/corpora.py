"""Two corpora for comparing architectures, each with one budget for all of them.

`shakespeare` is Karpathy's `input.txt` of char-rnn in characters (give --config.data.path): 0.84M
parameters and 1.5M training tokens, nanoGPT's CPU setting. `reference` is CPython's language
reference, which every Python carries, in 2,048 byte pairs: 2.2M parameters and 0.6M tokens.
"""

from collections.abc import Mapping
from typing import Any

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    SamplesConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import DataConfig, TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.models import family_of


def on_corpus(
    corpus: str, sizes: Mapping[str, Any], peak_learning_rates: Mapping[str, float]
) -> Experiment:
    """Returns the experiment for one corpus, with its model size and the common budget.

    Learning rates are the best of two to four on the validation split with seed 0.

    Raises:
      UserError: the corpus is not one of the two.
    """
    if corpus not in sizes:
        raise UserError(f"no corpus {corpus!r}; expected --config=FILE:{' or :'.join(sizes)}")
    build = _shakespeare if corpus == "shakespeare" else _reference
    return build(sizes[corpus], peak_learning_rates[corpus])


def _evaluation(model: Any, every_steps: int) -> EvaluationConfig:
    """Returns windows of 1,024 where the model reads any length, else half-overlapping windows."""
    if family_of(model).any_length:
        return EvaluationConfig(every_steps, batch_size=8, context_length=1024)
    return EvaluationConfig(every_steps, batch_size=32, stride=model.context_length // 2)


def _shakespeare(model: Any, peak_learning_rate: float) -> Experiment:
    return Experiment(
        model=model,
        data=DataConfig(
            source="files",
            path="tinyshakespeare.txt",
            split="tail",
            drop_repeated_paragraphs=False,
            tokenizer=TokenizerConfig(kind="char", vocab_size=1024),
        ),
        optimizer=OptimizerConfig(beta2=0.99),
        schedule=ScheduleConfig(peak_learning_rate=peak_learning_rate, warmup_steps=100),
        training=TrainingConfig(
            num_steps=2000, batch_size_tokens=768, steps_per_call=20, log_every_steps=20
        ),
        evaluation=_evaluation(model, every_steps=500),
        samples=SamplesConfig(num_samples=2, max_new_tokens=400),
    )


def _reference(model: Any, peak_learning_rate: float) -> Experiment:
    return Experiment(
        model=model,
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048)),
        schedule=ScheduleConfig(peak_learning_rate=peak_learning_rate, warmup_steps=50),
        training=TrainingConfig(num_steps=300, batch_size_tokens=2048),
        evaluation=_evaluation(model, every_steps=100),
        samples=SamplesConfig(num_samples=2, max_new_tokens=200),
    )
