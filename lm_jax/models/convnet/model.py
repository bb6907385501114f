"""Convolutional networks for images, built from the layers that a network declares.

Axes: b batch, h height, w width, c channels, v classes.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.convnet.layers import (
    NORMS,
    ConvNorm,
    InceptionBlock,
    ResidualBlock,
    Settings,
    local_response_norm,
    max_pool,
)
from lm_jax.models.convnet.networks import (
    NETWORKS,
    AveragePool,
    Conv,
    Dense,
    Dropout,
    GlobalAverage,
    Inception,
    LocalResponseNorm,
    MaxPool,
    PadTo,
    Residual,
    layers_of,
    output_size,
)
from lm_jax.models.dense_product import dense_product
from lm_jax.models.family import Family, FeatureMaps
from lm_jax.models.interface import Batch, Model, Variables, loss_from_apply
from lm_jax.models.parameters import declared, declared_kernel

_PUBLICATIONS = "architecture"  # the norm of the publication
_ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh}
_GAINS = {"relu": 2.0, "tanh": 1.0}  # variance of a kernel times its fan-in: He et al. 2015


@dataclasses.dataclass
class ConvNetConfig:
    """Which network, for images of which size."""

    architecture: str = described("keras", "The network.", choices=NETWORKS)
    num_classes: int = described(0, "Number of classes; 0: the data set's.", minimum=0)
    image_height: int = described(0, "Rows of pixels; 0: the data set's.", minimum=0)
    image_width: int = described(0, "Columns of pixels; 0: the data set's.", minimum=0)
    image_channels: int = described(0, "Channels of a pixel; 0: the data set's.", minimum=0)
    norm: str = described(
        _PUBLICATIONS,
        "The normalisation; architecture: that of the network's publication.",
        choices=(_PUBLICATIONS, *NORMS),
    )
    dropout_rate: float = described(
        -1.0,
        "Rate of the dropout layers; -1: the publication's.",
        minimum=0,
        below=1,
        besides={-1: "the publication's"},
    )

    def validate(self) -> None:
        """Raises UserError for images too small or too large for the network."""
        if self.image_height and self.image_width:
            self._check_image_size()

    def _check_image_size(self) -> None:
        def fits(size: int) -> bool:
            return output_size(layers_of(self.architecture, size), size) > 0

        if fits(self.image_height) and fits(self.image_width):
            return
        sizes = [size for size in range(1, 513) if fits(size)]
        bound = "or more" if sizes[-1] == 512 else f"to {sizes[-1]} x {sizes[-1]}"
        raise UserError(
            f"model.architecture {self.architecture} takes images of {sizes[0]} x {sizes[0]} "
            f"{bound}, not {self.image_height} x {self.image_width}; choose another architecture"
        )


class ConvNet(nn.Module):
    """Images [b, h, w, c] to float32 logits [b, v]; or, with `depth`, what that many layers make.

    Layers are named by kind and number: `conv_1` is the first convolution, `head` the last layer.
    """

    config: ConvNetConfig
    dtype: Any
    train: bool
    depth: int | None = None

    @nn.compact
    def __call__(self, x_bhwc):
        c = self.config
        network = NETWORKS[c.architecture]
        settings = Settings(
            norm=network.norm if c.norm == _PUBLICATIONS else c.norm,
            activation=_ACTIVATIONS[network.activation],
            kernel_init=nn.initializers.variance_scaling(
                _GAINS[network.activation], "fan_in", "normal"
            ),
            dtype=self.dtype,
            train=self.train,
        )
        layers = layers_of(c.architecture, min(c.image_height, c.image_width))
        counts: dict[str, int] = {}
        x = x_bhwc.astype(self.dtype)
        for layer in layers[: self.depth]:
            kind = type(layer).__name__.lower()
            counts[kind] = counts.get(kind, 0) + 1
            x = self._layer(layer, settings, x, f"{kind}_{counts[kind]}")
            x = nn.with_logical_constraint(x, ("batch",) + (None,) * (x.ndim - 1))
        if self.depth is not None:
            return x
        # The publications' small deviation: the first guess is close to uniform.
        logits_bv = self._dense(
            c.num_classes, nn.initializers.normal(0.01), "vocab", "head", head=True
        )(x.reshape(x.shape[0], -1))
        return logits_bv.astype(jnp.float32)

    def _layer(self, layer, settings: Settings, x: jax.Array, name: str) -> jax.Array:
        match layer:
            case Conv():
                return ConvNorm(settings, *layer, name=name)(x)
            case Residual():
                return ResidualBlock(settings, *layer, name=name)(x)
            case Inception():
                return InceptionBlock(settings, *layer, name=name)(x)
            case MaxPool():
                return max_pool(x, *layer)
            case AveragePool(size):
                return nn.avg_pool(x, (size, size), (size, size))
            case GlobalAverage():
                return x.mean(axis=(1, 2), dtype=jnp.float32).astype(x.dtype)
            case LocalResponseNorm():
                return local_response_norm(x) if self.config.norm == _PUBLICATIONS else x
            case PadTo(size):
                high, wide = ((size - side) // 2 for side in x.shape[1:3])
                return jnp.pad(x, ((0, 0), (high, high), (wide, wide), (0, 0)))
            case Dense(features):
                dense = self._dense(features, settings.kernel_init, "mlp", name)
                return settings.activation(dense(x.reshape(x.shape[0], -1)))
            case Dropout(rate):
                rate = rate if self.config.dropout_rate == -1 else self.config.dropout_rate
                return nn.Dropout(rate, deterministic=not self.train)(x)
        raise TypeError(f"{layer} is no layer")

    def _dense(
        self, features: int, kernel_init, axis: str, name: str, head: bool = False
    ) -> nn.Dense:
        return nn.Dense(
            features,
            dtype=self.dtype,
            dot_general=dense_product,
            kernel_init=declared_kernel(kernel_init, ("embed", axis), head=head),
            bias_init=declared(nn.initializers.zeros, (axis,), head=head),
            name=name,
        )


def convnet(config: ConvNetConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the convolutional network of a configuration, which computes in `dtype`.

    The variables of a network with batch normalisation hold its running statistics as
    `batch_stats`; `apply` and `loss` return them, moved on when `train` is true.

    Raises:
      UserError: the size of the images or the number of classes is not given; or, when the model
        is traced, inputs are not of the configured size.
    """
    for field in ("num_classes", "image_height", "image_width", "image_channels"):
        if not getattr(config, field):
            raise UserError(f"model.{field} is 0: give that of the data set")

    def init(key: jax.Array, batch: Batch) -> Variables:
        return ConvNet(config, dtype, train=False).init(key, _checked(config, batch["inputs"]))

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        module = ConvNet(config, dtype, train)
        stats = {name: value for name, value in variables.items() if name != "params"}
        rngs = {} if key is None else {"dropout": key}
        return module.apply(
            variables, _checked(config, batch["inputs"]), rngs=rngs, mutable=list(stats)
        )

    return Model(init, apply, loss_from_apply(apply))


def _checked(config: ConvNetConfig, inputs: jax.Array) -> jax.Array:
    expected = (config.image_height, config.image_width, config.image_channels)
    if inputs.shape[1:] != expected:
        raise UserError(
            f"inputs of {' x '.join(map(str, inputs.shape[1:]))} for a model of "
            f"{' x '.join(map(str, expected))} (height x width x channels); "
            "set model.image_height, image_width and image_channels to those of the data"
        )
    return inputs


def feature_maps(
    config: ConvNetConfig, variables: Variables, inputs: jax.Array, num_layers: int | None = None
) -> jax.Array:
    """Returns feature maps [b, h', w', c'] of the first layers; None: to the first convolution."""
    if num_layers is None:
        layers = layers_of(config.architecture, min(config.image_height, config.image_width))
        num_layers = 1 + next(i for i, layer in enumerate(layers) if isinstance(layer, Conv))
    module = ConvNet(config, jnp.float32, train=False, depth=num_layers)
    return jnp.asarray(module.apply(variables, _checked(config, inputs)))


def first_filters(variables: Variables) -> jax.Array | None:
    """Returns the kernel of the first convolution, [h, w, in, out]; None where a model has none."""
    layer = variables["params"].get("conv_1", {})
    return nn.unbox(layer.get("kernel"))


def _feature_maps(config: ConvNetConfig) -> FeatureMaps:
    def maps(variables: Variables, inputs: jax.Array) -> tuple[jax.Array | None, jax.Array]:
        return first_filters(variables), feature_maps(config, variables, inputs)

    return maps


FAMILY = Family(
    ConvNetConfig,
    convnet,
    ("classification",),
    reads_images=True,
    feature_maps=_feature_maps,
)
