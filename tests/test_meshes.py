"""Every kind of model on every kind of mesh: the losses of one device, and parameters really split."""

import jax
import numpy as np
import pytest

from lm_jax import programs, sharding, training
from lm_jax.data import ImageConfig, ParallelTextConfig
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.convnet import ConvNetConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.recurrent import RecurrentConfig
from lm_jax.models.recurrent_seq2seq import RecurrentSeq2SeqConfig
from lm_jax.models.transformer import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from lm_jax.scaling.compiled import batch_shapes
from tests.experiments import tiny

VOCABULARY, TIME, STEPS = 64, 16, 20
MESHES = ("data:8", "fsdp:8", "data:2,tensor:4", "fsdp:2,sequence:4", "data:2,fsdp:2,tensor:2")
_SHAPE = {"context_length": TIME, "d_model": 32, "num_layers": 2, "num_heads": 4}
_PAIRS = {"objective": "seq2seq", "data": ParallelTextConfig(source="copy")}
_IMAGES = {"objective": "classification", "data": ImageConfig()}
_SIZE = {"num_classes": 8, "image_height": 12, "image_width": 12, "image_channels": 1}
RING = {"context_parallel": "ring"}
EXPERIMENTS = {
    "decoder": {"model": TransformerConfig(**_SHAPE)},
    "encoder_decoder": _PAIRS | {"model": EncoderDecoderConfig(**_SHAPE, source_length=24)},
    "lstm": {"model": RecurrentConfig(context_length=TIME, d_hidden=32)},
    "cnn": _IMAGES | {"model": ConvNetConfig("keras", **_SIZE)},
    "encoder": {"objective": "masked_lm", "model": EncoderConfig(**_SHAPE)},
    "causal_cnn": {"model": CausalCNNConfig(context_length=TIME, d_model=32, num_layers=2)},
    "mlp": {"model": MLPConfig(context_length=TIME, d_embedding=16, d_hidden=32)},
    "recurrent_seq2seq": _PAIRS
    | {"model": RecurrentSeq2SeqConfig(context_length=TIME, source_length=24, d_hidden=32)},
    "decoder, ring": {"model": TransformerConfig(**_SHAPE, positions="rotary", num_kv_heads=2)},
    "encoder_decoder, ring": _PAIRS
    | {"model": EncoderDecoderConfig(**_SHAPE | {"positions": "relative"}, source_length=24)},
}


def experiment(name, mesh, **fields):
    config = tiny(mesh=mesh, **EXPERIMENTS[name] | fields)
    config.training.num_steps = config.training.steps_per_call = STEPS
    if "ring" in name:
        config.model.context_parallel = "ring"
    return config


def random_batch(program, step):
    """A batch of the shapes that the program takes, several documents a row."""
    rng = np.random.default_rng(step)
    batch = {}
    for name, shape in batch_shapes(program).items():
        if shape.dtype == np.float32:
            values = rng.random(shape.shape)
        elif "segments" in name:
            values = np.sort(rng.integers(1, 4, shape.shape), axis=-1)
        elif "positions" in name:
            values = np.broadcast_to(np.arange(shape.shape[1]) % 5, shape.shape)
        else:
            values = rng.integers(0, 8, shape.shape)  # of 8 tokens alone, so that the loss falls
        batch[name] = values.astype(shape.dtype)
    return batch


class Batches:
    def __init__(self, program):
        self.program = program

    def __getitem__(self, step):
        return random_batch(self.program, step % 4)


def train(name, mesh):
    """The losses of all steps, and the state after them."""
    config = experiment(name, mesh)
    count = 1 if mesh == "data:1" else 8
    sizes = {} if "cnn" == name else {"vocab_size": VOCABULARY}
    program = programs.compile_experiment(config, sizes, jax.devices()[:count])
    state = training.init_state(
        program.model, program.optimizer, program.example, program.mesh, config.seed
    )
    losses = []
    hooks = training.Hooks(
        log=lambda step, metrics: losses.extend(metrics["loss"].tolist()),
        evaluate=lambda step, state: None,
        save=lambda step, state: None,
        stop_requested=lambda step: False,
    )
    steps = training.jit_train_steps(program.train_step)
    with sharding.on_mesh(program.mesh):
        state = training.fit(steps, state, Batches(program), config, program.mesh, hooks)
    return np.array(losses), state


@pytest.fixture(scope="module")
def one_device():
    """The losses of a model on one device, trained once."""
    found = {}

    def of(name):
        if name not in found:
            found[name] = train(name, "data:1")[0]
        return found[name]

    return of


def most_on_a_device(tree):
    """The bytes of the device that really holds the most, and of all arrays once."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values()), sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


# Each mesh and each model of the first four once in the quick tests, all pairs in the slow ones.
_QUICK = {
    ("decoder", "data:2,fsdp:2,tensor:2"),
    ("decoder", "data:8"),
    ("decoder, ring", "fsdp:2,sequence:4"),
    ("encoder_decoder", "fsdp:2,sequence:4"),
    ("lstm", "data:2,tensor:4"),
    ("cnn", "fsdp:8"),
}


def _pairs():
    for name in EXPERIMENTS:
        for mesh in MESHES:
            if "ring" in name and "sequence" not in mesh:
                continue  # no ring without an axis for it
            slow = () if (name, mesh) in _QUICK else pytest.mark.slow
            yield pytest.param(name, mesh, marks=slow, id=f"{name} on {mesh}")


@pytest.mark.parametrize(("name", "mesh"), _pairs())
def test_losses_on_every_mesh_equal_one_device(name, mesh, one_device):
    losses, state = train(name, mesh)
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.05
    np.testing.assert_allclose(losses, one_device(name), atol=1e-4)
    shape = state.params and jax.tree.leaves(state.params)[0].sharding.mesh.shape
    parts = shape["fsdp"] * shape["tensor"]
    held, whole = most_on_a_device(state.params)
    # Norms and some vectors are held whole.
    assert whole / parts <= held <= 1.2 * whole / parts
    held, whole = most_on_a_device(state.opt_state)
    assert whole / parts <= held <= 1.2 * whole / parts
