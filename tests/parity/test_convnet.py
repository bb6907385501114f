"""Networks of images and their layers beside PyTorch's with the same weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.convnet.convolution import convolve
from lm_jax.models.convnet.layers import (
    BatchNorm,
    InceptionBlock,
    Settings,
    local_response_norm,
    max_pool,
)
from lm_jax.models.convnet.model import ConvNetConfig, feature_maps, first_filters
from lm_jax.models.convnet.networks import NETWORKS, resnet
from lm_jax.models.dense_classifier import DenseClassifierConfig, dense_classifier
from tests.models.convnet.test_model import built, filled, images
from tests.parity.recorded import reference


def pytorch(case, name, *arguments, inputs):
    """Returns what a function of pytorch_convnet.py computes from the inputs."""

    def compute(arrays):
        from tests.parity import pytorch_convnet

        return getattr(pytorch_convnet, name)(*arguments, arrays)

    return reference("convnet", case, compute, inputs)


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(1, 1, 0), (1, 2, 0), (3, 1, 0), (3, 2, 1), (5, 1, 2), (7, 2, 3), (11, 4, 0)],
)
def test_convolution_and_its_gradients(size, stride, padding):
    x, kernel = images(2, 14, 13, 3), images(size, size, 3, 4, seed=1)
    y, vjp = jax.vjp(jax.jit(lambda x, k: convolve(x, k, stride, padding)), x, kernel)
    cotangent = images(*y.shape, seed=2)
    dx, dkernel = jax.jit(vjp)(cotangent)
    inputs = {"x": x, "kernel": kernel, "cotangent": cotangent}
    case = f"convolution of {size} by {stride}, padded by {padding}"
    theirs = pytorch(case, "convolution", stride, padding, inputs=inputs)
    np.testing.assert_allclose(y, theirs["y"], atol=1e-4)
    np.testing.assert_allclose(dx, theirs["dx"], atol=2e-4)
    np.testing.assert_allclose(dkernel, theirs["dkernel"], atol=2e-4)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1)]
)
def test_max_pooling_and_its_gradient(size, stride, padding):
    x = images(2, 9, 8, 3)
    y, vjp = jax.vjp(lambda x: max_pool(x, size, stride, padding), x)
    cotangent = images(*y.shape, seed=1)
    inputs = {"x": x, "cotangent": cotangent}
    case = f"max pooling of {size} by {stride}, padded by {padding}"
    theirs = pytorch(case, "max_pooling", size, stride, padding, inputs=inputs)
    np.testing.assert_array_equal(y, theirs["y"])
    np.testing.assert_allclose(vjp(cotangent)[0], theirs["dx"], atol=1e-6)


def test_pooling_of_same_size_is_pytorchs_in_ceiling_mode():
    x = images(1, 14, 14, 2)
    theirs = pytorch("pooling in ceiling mode", "pooling_in_ceiling_mode", inputs=x)
    np.testing.assert_array_equal(max_pool(x, 3, 2, "SAME"), theirs["y"])


def test_local_response_norm():
    x = 20 * images(2, 3, 3, 8)
    theirs = pytorch("local response norm", "local_response_norm", inputs=x)
    np.testing.assert_allclose(local_response_norm(x), theirs["y"], rtol=1e-5)


def test_batch_norm_in_training_and_evaluation():
    batches = [3 + 2 * images(4, 3, 3, 5, seed=seed) for seed in range(3)]
    batches.append(images(4, 3, 3, 5, seed=9))
    params = {"scale": images(5, seed=3), "bias": images(5, seed=4)}
    theirs = pytorch("batch norm", "batch_norm", inputs=params | {"images": batches})
    stats = {"mean": np.zeros(5, "f"), "variance": np.ones(5, "f")}
    variables = {"params": params, "batch_stats": stats}
    for index, x in enumerate(batches[:-1]):
        y, moved = BatchNorm(train=True).apply(variables, x, mutable=["batch_stats"])
        np.testing.assert_allclose(y, theirs[f"y{index}"], atol=1e-5)
        variables = {"params": params, **moved}
    stats = variables["batch_stats"]
    np.testing.assert_allclose(stats["mean"], theirs["mean"], atol=1e-6)
    np.testing.assert_allclose(stats["variance"], theirs["variance"], atol=1e-5)
    y = BatchNorm(train=False).apply(variables, batches[-1])
    np.testing.assert_allclose(y, theirs["evaluated"], atol=1e-5)


@pytest.mark.parametrize(
    ("depths", "bottleneck"),
    [((2, 2, 2, 2), False), ((2, 1), True)],
    ids=["resnet18", "bottleneck"],
)
def test_residual_networks_with_the_same_weights(monkeypatch, depths, bottleneck):
    monkeypatch.setitem(NETWORKS, "resnet18", resnet(depths, bottleneck))
    model, variables, batch = built(ConvNetConfig("resnet18", 10, 64, 64, 3))
    logits, stats = model.apply(variables, batch, train=False)
    case = f"residual network of {'-'.join(map(str, depths))}"
    inputs = (variables, batch["inputs"])
    theirs = pytorch(case, "residual_network", depths, bottleneck, inputs=inputs)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, stats, {"batch_stats": variables["batch_stats"]})


def test_keras_recipe_with_the_same_weights():
    model, variables, batch = built(ConvNetConfig("keras", 10, 28, 28, 1))
    theirs = pytorch("keras", "keras_recipe", inputs=(variables, batch["inputs"]))
    logits, stats = model.apply(variables, batch, train=True)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-4)
    assert not stats


def test_inception_joins_four_paths():
    settings = Settings("none", nn.relu, nn.initializers.normal(0.1), jnp.float32, False)
    block = InceptionBlock(settings, 1, 2, 3, 4, 5, 6)
    x = images(1, 5, 5, 4)
    variables = filled(jax.eval_shape(block.init, jax.random.key(0), x))
    theirs = pytorch("inception", "inception", inputs=(variables, x))
    np.testing.assert_allclose(jax.jit(block.apply)(variables, x), theirs["y"], atol=1e-5)


def test_feature_maps_are_the_activations_of_the_first_convolution():
    config = ConvNetConfig("lenet5", 10, 28, 28, 1)
    _, variables, batch = built(config)
    np.testing.assert_array_equal(first_filters(variables), variables["params"]["conv_1"]["kernel"])
    theirs = pytorch("feature maps", "first_feature_maps", inputs=(variables, batch["inputs"]))
    maps = feature_maps(config, variables, batch["inputs"])
    np.testing.assert_allclose(maps, theirs["y"], atol=1e-5)
    assert first_filters({"params": {"head": {}}}) is None


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_a_dense_classifier_with_the_same_weights(activation):
    config = DenseClassifierConfig(10, 6, 5, 3, num_layers=3, d_hidden=16, activation=activation)
    model = dense_classifier(config)
    batch = {"inputs": images(4, 6, 5, 3)}
    variables = filled(jax.eval_shape(model.init, jax.random.key(0), batch))
    case = f"dense network with {activation}"
    theirs = pytorch(case, "dense_network", activation, inputs=(variables, batch["inputs"]))
    logits, stats = model.apply(variables, batch, train=False)
    np.testing.assert_allclose(logits, theirs["logits"], atol=1e-5)
    assert logits.dtype == jnp.float32 and not stats
