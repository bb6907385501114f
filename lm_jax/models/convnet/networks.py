"""Published convolutional networks, LeNet-5 to ResNet, each declared as a list of layers."""

from typing import NamedTuple


class Conv(NamedTuple):
    """Convolution, normalisation, activation."""

    features: int
    size: int
    stride: int = 1
    padding: int = 0


class MaxPool(NamedTuple):
    size: int
    stride: int
    padding: int | str = 0


class AveragePool(NamedTuple):
    """The mean of disjoint windows."""

    size: int


class GlobalAverage(NamedTuple):
    """The mean over height and width."""


class PadTo(NamedTuple):
    """Zeros around images of size - 4 or more, up to this size."""

    size: int


class LocalResponseNorm(NamedTuple):
    """Left out where another normalisation was asked for."""


class Residual(NamedTuple):
    features: int
    stride: int = 1
    bottleneck: bool = False


class Inception(NamedTuple):
    """The columns of Szegedy et al. 2015, Table 1."""

    one: int
    reduce_three: int
    three: int
    reduce_five: int
    five: int
    pool: int


class Dense(NamedTuple):
    """A dense layer and the activation, over the flattened input."""

    features: int


class Dropout(NamedTuple):
    rate: float


class Network(NamedTuple):
    """A published network up to its classification layer, which is always named `head`."""

    layers: tuple
    stem: tuple = ()  # the layers before `layers`
    small_stem: tuple | None = None  # the stem for images below 64 x 64, where it differs
    activation: str = "relu"
    norm: str = "none"


def resnet(depths: tuple[int, ...], bottleneck: bool) -> Network:
    """Returns a residual network (He et al. 2016, Table 1).

    Small images enter through one 3 x 3 convolution, as in its section 4.2.
    """
    layers = [
        Residual(64 * 2**stage, 2 if stage and not block else 1, bottleneck)
        for stage, depth in enumerate(depths)
        for block in range(depth)
    ]
    return Network(
        stem=(Conv(64, 7, stride=2, padding=3), MaxPool(3, 2, padding=1)),
        small_stem=(Conv(64, 3, padding=1),),
        layers=(*layers, GlobalAverage(), Dropout(0.0)),
        norm="batch_norm",
    )


NETWORKS = {
    # Keras' introductory recipe, whose convolutions are not padded.
    "keras": Network(
        layers=(
            *(Conv(16, 3), MaxPool(2, 2)),
            *(Conv(32, 3), MaxPool(2, 2)),
            *(Dense(128), Dropout(0.0)),
        ),
    ),
    # LeCun et al. 1998, section II.B, as it is read today: plain averages for the trained
    # subsampling, every map connected to every map, softmax for the radial basis functions.
    "lenet5": Network(
        layers=(
            PadTo(32),
            *(Conv(6, 5), AveragePool(2)),
            *(Conv(16, 5), AveragePool(2)),
            *(Dense(120), Dense(84), Dropout(0.0)),
        ),
        activation="tanh",
    ),
    # Krizhevsky et al. 2012, section 3, its two groups of convolutions made one.
    "alexnet": Network(
        layers=(
            *(Conv(96, 11, stride=4), LocalResponseNorm(), MaxPool(3, 2)),
            *(Conv(256, 5, padding=2), LocalResponseNorm(), MaxPool(3, 2)),
            *(Conv(384, 3, padding=1), Conv(384, 3, padding=1), Conv(256, 3, padding=1)),
            *(MaxPool(3, 2), Dense(4096), Dropout(0.5), Dense(4096), Dropout(0.5)),
        ),
    ),
    # Szegedy et al. 2015, Table 1, without the auxiliary classifiers.
    "googlenet": Network(
        stem=(
            *(Conv(64, 7, stride=2, padding=3), MaxPool(3, 2, "SAME"), LocalResponseNorm()),
            *(Conv(64, 1), Conv(192, 3, padding=1), LocalResponseNorm(), MaxPool(3, 2, "SAME")),
        ),
        small_stem=(Conv(64, 3, padding=1), Conv(64, 1), Conv(192, 3, padding=1)),
        layers=(
            Inception(64, 96, 128, 16, 32, 32),
            Inception(128, 128, 192, 32, 96, 64),
            MaxPool(3, 2, "SAME"),
            Inception(192, 96, 208, 16, 48, 64),
            Inception(160, 112, 224, 24, 64, 64),
            Inception(128, 128, 256, 24, 64, 64),
            Inception(112, 144, 288, 32, 64, 64),
            Inception(256, 160, 320, 32, 128, 128),
            MaxPool(3, 2, "SAME"),
            Inception(256, 160, 320, 32, 128, 128),
            Inception(384, 192, 384, 48, 128, 128),
            *(GlobalAverage(), Dropout(0.4)),
        ),
    ),
    "resnet18": resnet((2, 2, 2, 2), bottleneck=False),
    "resnet34": resnet((3, 4, 6, 3), bottleneck=False),
    "resnet152": resnet((3, 8, 36, 3), bottleneck=True),
}


def layers_of(architecture: str, image_size: int) -> tuple:
    """Returns the layers before the head, for images whose shorter side is `image_size`."""
    network = NETWORKS[architecture]
    small = image_size < 64 and network.small_stem is not None
    return (*((network.small_stem or ()) if small else network.stem), *network.layers)


def output_size(layers: tuple, size: int) -> int:
    """Returns the side of the images that leave the layers; 0 if nothing is left."""
    for layer in layers:
        match layer:
            case PadTo(target):
                size = target if size in range(target - 4, target + 1, 2) else 0
            case AveragePool(window):
                size //= window
            case MaxPool(_, stride, "SAME"):
                size = -(-size // stride)
            case Conv(_, window, stride, padding) | MaxPool(window, stride, int(padding)):
                size = (size + 2 * padding - window) // stride + 1
            case Residual(_, stride, _):
                size = -(-size // stride)
        if size < 1:
            return 0
    return size
