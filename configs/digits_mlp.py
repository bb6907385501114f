"""A multilayer perceptron on scikit-learn's 8 x 8 digits, the embedded image set.

python -m launch.train --config=configs/digits_mlp.py --workdir=runs/digits_mlp

26,122 parameters, 12 seconds on 2 CPU cores: accuracy 0.967 +- 0.013 on 180 held-out images.
"""

from lm_jax.config.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.data import ImageConfig
from lm_jax.models.dense_classifier import DenseClassifierConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return Experiment(
        objective="classification",
        model=DenseClassifierConfig(num_layers=3, dropout_rate=0.2),
        data=ImageConfig(source="digits"),
        optimizer=OptimizerConfig(name="adam", clip_norm=0.0),
        schedule=ScheduleConfig(peak_learning_rate=1e-3, name="constant", warmup_steps=0),
        training=TrainingConfig(
            num_steps=1000, batch_size=64, steps_per_call=20, log_every_steps=20
        ),
        evaluation=EvaluationConfig(batch_size=180, every_steps=200),
    )
