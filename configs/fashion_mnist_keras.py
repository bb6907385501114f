"""The Keras recipe on Fashion-MNIST: Conv16-Pool-Conv32-Pool-Dense128-Dense10, 5 epochs.

  python -m launch.train --config=configs/fashion_mnist_keras.py --workdir=runs/fashion \
      --config.data.path=fashion-mnist

108,618 parameters, 123 seconds on 2 CPU cores: test accuracy 0.9027 +- 0.0030.
"""

from configs.small_images import fashion_mnist, on_images
from lm_jax.config.experiment import Experiment
from lm_jax.models.convnet.model import ConvNetConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return on_images(
        fashion_mnist(),
        ConvNetConfig(architecture="keras"),
        num_steps=1500,
        peak_learning_rate=4e-3,
    )
