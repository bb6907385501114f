"""One neuron learns the AND gate by gradient descent: a smooth version of Rosenblatt's perceptron.

python -m launch.train --config=configs/and_gate.py --workdir=runs/and_gate

500 steps, 15 seconds on 2 CPU cores: all four points correct, cross-entropy 0.017 nats.
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
        model=DenseClassifierConfig(num_layers=1, zero_init=True),
        data=ImageConfig(source="and_gate"),
        optimizer=OptimizerConfig(name="sgd", beta1=0.0, weight_decay=0.0, clip_norm=0.0),
        schedule=ScheduleConfig(peak_learning_rate=1.0, name="constant", warmup_steps=0),
        training=TrainingConfig(num_steps=500, batch_size=4, steps_per_call=50, log_every_steps=50),
        evaluation=EvaluationConfig(batch_size=4, every_steps=100),
    )
