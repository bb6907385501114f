"""LeNet-5 (LeCun et al. 1998) on MNIST.

  python -m launch.train --config=configs/mnist_lenet5.py --workdir=runs/mnist_lenet5 \
      --config.data.path=mnist.npz

61,706 parameters, 97 seconds on 2 CPU cores: test accuracy 0.9908 +- 0.0010.
"""

from lm_jax.data import ImageConfig
from lm_jax.experiment import (
    EvaluationConfig,
    Experiment,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from lm_jax.models.convnet import ConvNetConfig


def get_config() -> Experiment:
    """The experiment."""
    return Experiment(
        objective="classification",
        model=ConvNetConfig(architecture="lenet5"),
        data=ImageConfig(source="npz", path="mnist.npz"),
        optimizer=OptimizerConfig(name="adam", clip_norm=0.0),
        schedule=ScheduleConfig(peak_learning_rate=2e-3, name="cosine", warmup_steps=100),
        training=TrainingConfig(
            num_steps=3000, batch_size=200, steps_per_call=20, log_every_steps=20
        ),
        evaluation=EvaluationConfig(batch_size=500, every_steps=600),
    )
