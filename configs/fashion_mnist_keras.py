"""The Keras recipe on Fashion-MNIST: Conv16-Pool-Conv32-Pool-Dense128-Dense10, 5 epochs.

  python -m launch.train --config=configs/fashion_mnist_keras.py --workdir=runs/fashion \
      --config.data.path=fashion-mnist

108,618 parameters, 123 seconds on 2 CPU cores: test accuracy 0.9027 +- 0.0030.
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
        model=ConvNetConfig(architecture="keras"),
        data=ImageConfig(
            source="idx",
            path="fashion-mnist",
            label_names="T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,boot",
        ),
        optimizer=OptimizerConfig(name="adam", clip_norm=0.0),
        schedule=ScheduleConfig(peak_learning_rate=4e-3, name="cosine", warmup_steps=100),
        training=TrainingConfig(
            num_steps=1500, batch_size=200, steps_per_call=20, log_every_steps=20
        ),
        evaluation=EvaluationConfig(batch_size=500, every_steps=300),
    )
