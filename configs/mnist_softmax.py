"""Softmax regression on MNIST (an npz file with `x_train`, `y_train`, `x_test`, `y_test`).

  python -m launch.train --config=configs/mnist_softmax.py --workdir=runs/mnist_softmax \
      --config.data.path=mnist.npz

7,850 parameters, 15 seconds on 2 CPU cores: test accuracy 0.9282 +- 0.0026.
"""

from configs.small_images import mnist, on_images
from lm_jax.config.experiment import Experiment
from lm_jax.models.dense_classifier import DenseClassifierConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return on_images(
        mnist(),
        DenseClassifierConfig(num_layers=1, zero_init=True),
        num_steps=3000,
        peak_learning_rate=5e-3,
        warmup_steps=0,
    )
