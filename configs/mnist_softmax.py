"""Softmax regression on MNIST (`x_train`, `y_train`, `x_test`, `y_test` of an npz file).

  python -m launch.train --config=configs/mnist_softmax.py --workdir=runs/mnist_softmax \
      --config.data.path=mnist.npz

7,850 parameters, 15 seconds on 2 CPU cores: test accuracy 0.9282 +- 0.0026.
"""

from lm_jax.data import ImageConfig
from lm_jax.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.models.dense_classifier import DenseClassifierConfig


def get_config() -> Experiment:
    """The experiment."""
    return Experiment(
        objective="classification",
        model=DenseClassifierConfig(num_layers=1, zero_init=True),
        data=ImageConfig(source="npz", path="mnist.npz"),
        optimizer=OptimizerConfig(name="adam", clip_norm=0.0),
        schedule=ScheduleConfig(peak_learning_rate=5e-3, name="cosine", warmup_steps=0),
        training=TrainingConfig(
            num_steps=3000, batch_size=200, steps_per_call=20, log_every_steps=20
        ),
        evaluation=EvaluationConfig(batch_size=500, every_steps=600),
    )
