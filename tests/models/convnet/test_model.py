import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.convnet.layers import max_pool
from lm_jax.models.convnet.model import (
    ConvNetConfig,
    convnet,
    feature_maps,
    first_filters,
)
from lm_jax.models.convnet.networks import NETWORKS
from lm_jax.parallel import sharding
from lm_jax.training.gradients import make_gradients
from lm_jax.training.state import init_state
from lm_jax.training.train_step import jit_train_steps, make_train_step
from tests.models.jitted import jitted


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("f")


def filled(shapes):
    """Variables of these shapes at random: no term hides behind a zero, activations stay small."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        noise = rng.normal(size=leaf.shape).astype("f")
        match path[-1].key:
            case "kernel":
                return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
            case "scale" | "variance":
                return 1 + np.float32(0.1) * np.abs(noise)
        return np.float32(0.1) * noise

    return jax.tree_util.tree_map_with_path(fill, nn.unbox(shapes))


def built(config, batch_size=2):
    """The model, variables and a batch."""
    model = jitted(convnet(config))
    shape = (batch_size, config.image_height, config.image_width, config.image_channels)
    batch = {"inputs": images(*shape)}
    return model, filled(jax.eval_shape(model.init, jax.random.key(0), batch)), batch


def parameters(config) -> int:
    shape = (1, config.image_height, config.image_width, config.image_channels)
    batch = {"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}
    shapes = nn.unbox(jax.eval_shape(convnet(config).init, jax.random.key(0), batch))
    return sum(x.size for x in jax.tree.leaves(shapes["params"]))


# The sizes that the publications name, and the counts that follow from their tables.
PUBLISHED = {
    "lenet5": (28, 1, 10, 61_706),
    "alexnet": (227, 3, 1000, 62_378_344),
    "resnet18": (224, 3, 1000, 11_689_512),
    "resnet34": (224, 3, 1000, 21_797_672),
    "resnet152": (224, 3, 1000, 60_192_808),
    # Szegedy et al. 2015, Table 1: the kernels it lists, and a bias for each of their outputs.
    "googlenet": (224, 3, 1000, 6_998_552),
    # 160 + 4,640 + 102,528 + 1,290
    "keras": (28, 1, 10, 108_618),
}


@pytest.mark.parametrize("architecture", NETWORKS)
def test_parameters_are_as_many_as_published(architecture):
    size, channels, classes, count = PUBLISHED[architecture]
    assert parameters(ConvNetConfig(architecture, classes, size, size, channels)) == count


def test_max_pooling_of_a_constant_image_keeps_the_sum_of_the_gradient():
    dx = jax.grad(lambda x: max_pool(x, 2, 2, 0).sum())(jnp.ones((1, 4, 4, 1)))
    assert float(dx.sum()) == 4


@pytest.mark.parametrize("norm", ["none", "batch_norm", "group_norm"])
def test_every_norm_can_take_the_publications_place(norm):
    config = ConvNetConfig("lenet5", 10, 28, 28, 1, norm=norm)
    model, variables, batch = built(config)
    assert ("batch_stats" in variables) == (norm == "batch_norm")
    assert ("bias" in variables["params"]["conv_1"]) == (norm == "none")
    logits, stats = model.apply(variables, batch, train=True)
    assert logits.shape == (2, 10) and bool(jnp.isfinite(logits).all())
    assert jax.tree.structure(stats) == jax.tree.structure(
        {name: value for name, value in variables.items() if name != "params"}
    )


@pytest.mark.parametrize("architecture", ["googlenet", "resnet18", "resnet152"])
def test_small_images_keep_their_size_through_the_stem(architecture):
    config = ConvNetConfig(architecture, 10, 28, 28, 1)
    batch = {"inputs": jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)}
    variables = nn.unbox(jax.eval_shape(convnet(config).init, jax.random.key(0), batch))
    assert first_filters(variables).shape == (3, 3, 1, 64)
    maps = jax.eval_shape(lambda v, x: feature_maps(config, v, x), variables, batch["inputs"])
    assert maps.shape == (2, 28, 28, 64)


def test_dropout_is_the_publications_unless_given():
    config = ConvNetConfig("keras", 10, 12, 12, 1)
    for rate, differ in ((-1.0, False), (0.5, True)):
        config.dropout_rate = rate
        model, variables, batch = built(config)
        first, second = (
            model.apply(variables, batch, train=True, key=jax.random.key(i))[0] for i in (0, 1)
        )
        assert bool((first != second).any()) == differ


def losses_of_training(mesh_config, num_devices):
    """The losses of four steps on the same images, and the final state."""
    config = ConvNetConfig("lenet5", 10, 28, 28, 1, norm="batch_norm")
    model, optimizer = convnet(config), optax.adam(1e-3)
    mesh = sharding.make_mesh(mesh_config, jax.devices()[:num_devices])
    batch = {
        "inputs": images(4, 16, 28, 28, 1),
        "targets": np.tile(np.arange(16, dtype=np.int32) % 10, (4, 1)),
        "weights": np.ones((4, 16), np.float32),
    }
    example = {"inputs": jax.ShapeDtypeStruct((8, 28, 28, 1), jnp.float32)}
    state = init_state(model, optimizer, example, mesh, seed=0)
    step = make_train_step(make_gradients(model.loss), optimizer, lambda _: 1e-3)
    with sharding.on_mesh(mesh):
        placed = sharding.place_batch(batch, sharding.batch_sharding(mesh, leading_axes=1))
        state, metrics = jit_train_steps(step)(state, placed)
    return np.asarray(metrics["loss"]), state


@pytest.fixture(scope="module")
def one_device():
    return losses_of_training("data:1", 1)


def test_training_moves_the_running_statistics_and_starts_near_a_uniform_guess(one_device):
    losses, state = one_device
    assert losses[0] == pytest.approx(np.log(10), rel=0.02)
    assert losses[-1] < losses[0]
    mean = state.stats["batch_stats"]["conv_1"]["norm"]["mean"]
    assert float(jnp.abs(mean).max()) > 0


def test_a_mesh_changes_neither_losses_nor_statistics(one_device):
    one, state = one_device
    eight, split = losses_of_training("data:2,fsdp:2,tensor:2", 8)
    np.testing.assert_allclose(eight, one, atol=1e-4)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3)  # noqa: E731
    jax.tree.map(close, jax.device_get(state.stats), jax.device_get(split.stats))
    kernel = split.params["dense_1"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 0}, "model.num_classes is 0: give that of the data set"),
        ({"image_width": 0}, "model.image_width is 0: give that of the data set"),
        ({"image_channels": -1}, "model.image_channels is -1; expected at least 0"),
        ({"architecture": "vgg"}, "model.architecture is 'vgg'; expected one of keras, lenet5"),
        ({"norm": "layer"}, "model.norm is 'layer'; expected one of architecture, none"),
        ({"dropout_rate": -0.5}, "dropout_rate < 1, or -1 for the publication's"),
        ({"architecture": "alexnet"}, "takes images of 67 x 67 or more, not 28 x 28"),
        ({"image_height": 8}, "keras takes images of 10 x 10 or more, not 8 x 28"),
        (
            {"architecture": "lenet5", "image_height": 64},
            "lenet5 takes images of 28 x 28 to 32 x 32, not 64 x 28; choose another",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build_model(ConvNetConfig(**{"num_classes": 10, **SIZE} | fields), jnp.float32)


SIZE = {"image_height": 28, "image_width": 28, "image_channels": 1}


def test_images_of_another_size_are_refused():
    model, variables, _ = built(ConvNetConfig("keras", 10, 28, 28, 1))
    with pytest.raises(UserError, match="inputs of 32 x 32 x 1 for a model of 28 x 28 x 1"):
        model.apply(variables, {"inputs": images(1, 32, 32, 1)}, train=False)
