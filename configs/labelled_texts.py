"""Three sets of labelled texts, each with one training budget for all text classifiers.

Each is a file of `label<TAB>text` lines, given as --config.data.path: `reviews`, positive and
negative snippets of movie reviews; `newsgroups`, 20 Newsgroups (give its own test split as
--config.data.validation_path); `genres`, sentences of the Brown corpus with their genre.
"""

import dataclasses
from typing import Any

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import LabelledTextConfig, TokenizerConfig
from lm_jax.errors import UserError

CONTEXT_LENGTHS = {"reviews": 48, "newsgroups": 128, "genres": 40}
_STEPS = {"reviews": 600, "newsgroups": 900, "genres": 1200}


def on_texts(texts: str, model: Any) -> Experiment:
    """Returns the experiment of a classifier on one set, with the context length of that set.

    Raises:
      UserError: there is no such set.
    """
    if texts not in _STEPS:
        raise UserError(f"no texts {texts!r}; expected --config=FILE:{' or :'.join(_STEPS)}")
    steps = _STEPS[texts]
    return Experiment(
        objective="classification",
        model=dataclasses.replace(model, context_length=CONTEXT_LENGTHS[texts]),
        data=LabelledTextConfig(
            path=f"{texts}.tsv",
            tokenizer=TokenizerConfig("word", vocab_size=20_000, lowercase=True, minimum_count=2),
        ),
        optimizer=OptimizerConfig(name="adam", beta2=0.999),
        schedule=ScheduleConfig(peak_learning_rate=2e-3, warmup_steps=50),
        training=TrainingConfig(
            num_steps=steps, batch_size=64, steps_per_call=20, log_every_steps=20
        ),
        evaluation=EvaluationConfig(batch_size=256, every_steps=steps // 4),
    )
