"""Classifiers of dense layers: softmax regression, the perceptron of logic gates, the MLP.

Axes: b batch, f features, v classes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.dense_product import dense_product
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_kernel

_ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}
_GAINS = {"relu": 2.0, "tanh": 1.0, "sigmoid": 1.0}  # fan-in times the variance of a kernel


@dataclasses.dataclass
class DenseClassifierConfig:
    """The shape of a dense classifier; one layer is softmax regression.

    One layer with two classes and two inputs is a single neuron: the softmax of two logits is the
    sigmoid of their difference.
    """

    num_classes: int = described(0, "Number of classes; 0: the data set's.", minimum=0)
    image_height: int = described(
        0, "Rows of pixels; 0: the data set's, and any size of input if it stays 0.", minimum=0
    )
    image_width: int = described(0, "Columns of pixels; 0: the data set's.", minimum=0)
    image_channels: int = described(0, "Channels of a pixel; 0: the data set's.", minimum=0)
    num_layers: int = described(
        3, "Matrix products, including the last.", minimum=1, maximum=10_000
    )
    d_hidden: int = described(128, "Width of the hidden layers.", minimum=1)
    activation: str = described("relu", "Activation of the hidden layers.", choices=_ACTIVATIONS)
    dropout_rate: float = described(0.0, "Dropout after each hidden layer.", minimum=0, below=1)
    zero_init: bool = described(
        False, "The last layer starts at zero: every class is equally likely."
    )

    def widths(self) -> tuple[str, ...]:
        """Returns the field that muP scales."""
        return ("d_hidden",)


class DenseClassifier(nn.Module):
    """Maps flattened inputs [b, ...] to float32 logits [b, v]."""

    config: DenseClassifierConfig
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, inputs):
        c = self.config
        x_bf = inputs.reshape(inputs.shape[0], -1).astype(self.dtype)
        hidden_init = nn.initializers.variance_scaling(_GAINS[c.activation], "fan_in", "normal")
        head_init = nn.initializers.zeros if c.zero_init else nn.initializers.normal(0.01)

        def dense(features: int, kernel_init, axis: str, name: str, head: bool = False):
            return nn.Dense(
                features,
                dtype=self.dtype,
                dot_general=dense_product,
                kernel_init=declared_kernel(kernel_init, ("embed", axis), head=head),
                bias_init=declared(nn.initializers.zeros, (axis,), head=head),
                name=name,
            )

        for layer in range(1, c.num_layers):
            x_bf = dense(c.d_hidden, hidden_init, "mlp", f"dense_{layer}")(x_bf)
            x_bf = _ACTIVATIONS[c.activation](x_bf)
            x_bf = nn.Dropout(c.dropout_rate, deterministic=not self.train)(x_bf)
        head = dense(c.num_classes, head_init, "vocab", "head", head=True)
        return head(x_bf).astype(jnp.float32)


def dense_classifier(config: DenseClassifierConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the dense classifier of a configuration, which computes in `dtype`.

    Raises:
      UserError: the number of classes is not given; or, when the model is traced, inputs are
        not of the configured size.
    """
    if config.num_classes < 1:
        raise UserError("model.num_classes is 0: give the number of classes")
    expected = (config.image_height, config.image_width, config.image_channels)

    def checked(batch: Batch) -> jax.Array:
        shape = batch["inputs"].shape[1:]
        if all(expected) and shape != expected:
            raise UserError(
                f"inputs of {' x '.join(map(str, shape))} for a model of "
                f"{' x '.join(map(str, expected))} (height x width x channels); "
                "set model.image_height, image_width and image_channels to those of the data"
            )
        return batch["inputs"]

    def init(key: jax.Array, batch: Batch) -> Variables:
        return DenseClassifier(config, dtype, train=False).init(key, checked(batch))

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        module = DenseClassifier(config, dtype, train)
        rngs = {} if key is None else {"dropout": key}
        return module.apply(variables, checked(batch), rngs=rngs), {}

    return Model(init, apply, loss_from_apply(apply))


FAMILY = Family(
    DenseClassifierConfig,
    dense_classifier,
    ("classification",),
    reads_images=True,
    widths=DenseClassifierConfig.widths,
)
