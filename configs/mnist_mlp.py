"""A 3-layer ReLU perceptron on MNIST, with dropout and L2 (decoupled weight decay).

  python -m launch.train --config=configs/mnist_mlp.py --workdir=runs/mnist_mlp \
      --config.data.path=mnist.npz

669,706 parameters, 68 seconds on 2 CPU cores: test accuracy 0.9852 +- 0.0012.
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
        model=DenseClassifierConfig(num_layers=3, d_hidden=512, dropout_rate=0.2),
        data=ImageConfig(source="npz", path="mnist.npz"),
        optimizer=OptimizerConfig(name="adamw", weight_decay=0.01, clip_norm=0.0),
        schedule=ScheduleConfig(peak_learning_rate=1e-3, name="cosine", warmup_steps=100),
        training=TrainingConfig(
            num_steps=4000, batch_size=200, steps_per_call=20, log_every_steps=20
        ),
        evaluation=EvaluationConfig(batch_size=500, every_steps=800),
    )
