"""Three sets of labelled texts and one budget of training for each, for any text classifier.

Each is a file of `label<TAB>text` lines, given as --config.data.path: `reviews`, snippets of movie
reviews, positive or negative; `newsgroups`, 20 Newsgroups (and --config.data.validation_path, its
own test split); `genres`, sentences of the Brown corpus with the genre of their text.
"""

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
    """The experiment of a classifier on one of the sets; it sets how much of a text is read.

    Raises:
      UserError: there is no such set.
    """
    if texts not in _STEPS:
        raise UserError(f"no texts {texts!r}; expected --config=FILE:{' or :'.join(_STEPS)}")
    model.context_length = CONTEXT_LENGTHS[texts]
    steps = _STEPS[texts]
    return Experiment(
        objective="classification",
        model=model,
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
