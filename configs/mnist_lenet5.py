"""LeNet-5 (LeCun et al. 1998) on MNIST.

  python -m launch.train --config=configs/mnist_lenet5.py --workdir=runs/mnist_lenet5 \
      --config.data.path=mnist.npz

61,706 parameters, 97 seconds on 2 CPU cores: test accuracy 0.9908 +- 0.0010.
"""

from configs.small_images import mnist, on_images
from lm_jax.config.experiment import Experiment
from lm_jax.models.convnet.model import ConvNetConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    return on_images(
        mnist(),
        ConvNetConfig(architecture="lenet5"),
        num_steps=3000,
        peak_learning_rate=2e-3,
    )
