"""Classifiers of dense layers: softmax regression, the perceptron of logic gates, the MLP.

Axes: b batch, f features, v classes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_kernel


@dataclasses.dataclass
class DenseClassifierConfig:
    """The shape of a dense classifier; one layer is softmax regression.

    One layer with two classes and two inputs is a single neuron: the softmax of two logits is the
    sigmoid of their difference.
    """

    num_classes: int = 0  # 0: the data set's
    image_height: int = 0  # 0: the data set's; if it stays 0, any input size is accepted
    image_width: int = 0
    image_channels: int = 0
    num_layers: int = 3  # matrix products, including the last
    d_hidden: int = 128
    activation: str = "relu"  # relu, tanh, sigmoid
    dropout_rate: float = 0.0  # after each hidden layer
    zero_init: bool = False  # the last layer starts at zero: every class equally likely

    def widths(self) -> tuple[str, ...]:
        """Returns the field that muP scales."""
        return ("d_hidden",)

    def validate(self) -> None:
        """Raises UserError for an unknown choice or an impossible shape."""
        if self.activation not in _ACTIVATIONS:
            raise UserError(
                f"model.activation is {self.activation!r}; "
                f"expected one of {', '.join(_ACTIVATIONS)}"
            )
        for field in ("num_layers", "d_hidden"):
            if getattr(self, field) < 1:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected at least 1")
        for field in ("num_classes", "image_height", "image_width", "image_channels"):
            if getattr(self, field) < 0:
                raise UserError(f"model.{field} is {getattr(self, field)}; expected 0 or more")
        if not 0.0 <= self.dropout_rate < 1.0:
            raise UserError(f"model.dropout_rate is {self.dropout_rate}; expected 0 <= rate < 1")


_ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "sigmoid": nn.sigmoid}
_GAINS = {"relu": 2.0, "tanh": 1.0, "sigmoid": 1.0}  # fan-in times the variance of a kernel


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
      UserError: the configuration names an unknown choice or an impossible shape; or, when the
        model is traced, inputs are not of the configured size.
    """
    config.validate()
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
