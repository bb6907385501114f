"""Every kind of model on every kind of mesh: one device's losses, and parameters really split."""

import dataclasses

import jax
import numpy as np
import pytest

from lm_jax import data
from lm_jax.build import build_experiment, measure
from lm_jax.data import DataConfig, ImageConfig, ParallelTextConfig, TokenizerConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import make_loss_function
from lm_jax.generation import decode_loop
from lm_jax.generation.sampling import Sampling
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.convnet.model import ConvNetConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.recurrent.seq2seq_config import RecurrentSeq2SeqConfig
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from lm_jax.parallel import sharding
from lm_jax.parallel.mesh import parse
from lm_jax.training.loop import Hooks, fit
from lm_jax.training.state import variables_of
from lm_jax.training.train_step import jit_train_steps
from tests.conftest import slow_but
from tests.experiments import tiny
from tests.parallel.on_meshes import VOCABULARY, begin, random_batch

TIME, STEPS = 16, 10
MESHES = ("data:8", "fsdp:8", "data:2,tensor:4", "fsdp:2,sequence:4", "data:2,fsdp:2,tensor:2")
_SHAPE = {"context_length": TIME, "d_model": 32, "num_layers": 1, "num_heads": 4}
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
    "decoder, ring": {
        "model": TransformerConfig(
            **_SHAPE,
            positions="rotary",
            num_kv_heads=2,
            qk_norm="all",
            attention_soft_cap=1.0,
            sliding_window=5,
        )
    },
    "encoder_decoder, ring": _PAIRS
    | {"model": EncoderDecoderConfig(**_SHAPE | {"positions": "relative"}, source_length=24)},
}


def experiment(name, mesh, **fields):
    config = tiny(mesh=mesh, **EXPERIMENTS[name] | fields)
    config.training.num_steps = config.training.steps_per_call = STEPS
    if "ring" in name:
        config.model.context_parallel = "ring"
    return config


class Batches:
    def __init__(self, built):
        self.built = built

    def __getitem__(self, step):
        return random_batch(self.built, step % 4)


def train(name, mesh):
    """The losses of all steps, and the state after them."""
    config = experiment(name, mesh)
    # A vocabulary that divides; the encoder's has a mask besides.
    sizes = {} if name == "cnn" else {"vocab_size": VOCABULARY - (name == "encoder")}
    built, state = begin(config, sizes)
    losses = []
    hooks = Hooks(
        log=lambda step, metrics: losses.extend(metrics["loss"].tolist()),
        evaluate=lambda step, state: True,
        save=lambda step, state: None,
        stop_requested=lambda step: False,
    )
    steps = jit_train_steps(built.train_step)
    with sharding.on_mesh(built.mesh):
        state = fit(steps, state, Batches(built), config, built.mesh, hooks)
    return np.array(losses), state


@pytest.fixture(scope="module")
def one_device():
    """The losses of a model on one device, trained once."""
    found = {}

    def losses_of(name):
        if name not in found:
            found[name] = train(name, "data:1")[0]
        return found[name]

    return losses_of


def most_on_a_device(tree):
    """The bytes of the device that really holds the most, and of all arrays once."""
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return max(held.values()), sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


# Each axis once in the quick tests, all pairs in the slow ones.
_QUICK = {
    ("decoder", "data:2,fsdp:2,tensor:2"),
    ("decoder, ring", "fsdp:2,sequence:4"),
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
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.02  # 200 times what is allowed below
    np.testing.assert_allclose(losses, one_device(name), atol=1e-4)
    sizes = parse(mesh)
    parts = sizes["fsdp"] * sizes["tensor"]
    for tree in (state.params, state.opt_state):
        held, whole = most_on_a_device(tree)
        # What is short, or of one channel, stays whole: norms, some biases, a first convolution.
        assert whole / parts <= held <= 1.3 * whole / parts


ALL_AXES = "fsdp:2,tensor:2,sequence:2"


GENERATORS = ("decoder", "encoder_decoder", "lstm", "causal_cnn")


@pytest.mark.parametrize("name", slow_but(GENERATORS, "decoder"))
def test_texts_are_those_of_one_device(name):
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8], [2, 2]]
    tokens, lengths = decode_loop.batch_of_prompts(prompts, TIME, VOCABULARY)
    sources = np.random.default_rng(0).integers(0, VOCABULARY, (4, 24)).astype(np.int32)
    source = {"source": sources, "source_segments": np.ones_like(sources)}
    how = {"sampling": Sampling(temperature=0.0), "end_tokens": ()}
    if name == "encoder_decoder":
        how["source"] = source
    found = []
    for mesh in ("data:1", ALL_AXES):
        built, state = begin(experiment(name, mesh), {"vocab_size": VOCABULARY})
        # Far apart, so that rounding does not decide between tokens.
        params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, state.params)
        generate = jax.jit(
            decode_loop.generate, static_argnames=("model", *how.keys() - {"source"})
        )
        keys = jax.random.split(jax.random.key(0), len(prompts))
        ends = np.full_like(lengths, TIME)
        found.append(generate(built.model, {"params": params}, tokens, lengths, ends, keys, **how))
    one, eight = found
    np.testing.assert_array_equal(one.tokens, eight.tokens)
    np.testing.assert_allclose(one.log_probabilities, eight.log_probabilities, atol=1e-4)
    assert len(np.unique(one.tokens)) > 8


OBJECTIVES = {
    "causal_lm": TransformerConfig(**_SHAPE),
    "prefix_lm": TransformerConfig(**_SHAPE, **RING),
    "masked_lm": EncoderConfig(**_SHAPE),
    "span_corruption": EncoderDecoderConfig(**_SHAPE, source_length=32),
    "seq2seq": EncoderDecoderConfig(**_SHAPE, source_length=24),
    "skip_gram": SkipGramConfig(d_embedding=8, window=2),
    "classification": ConvNetConfig("lenet5", 10, 28, 28, 1),
}


@pytest.mark.parametrize("objective", slow_but(OBJECTIVES, "causal_lm"))
def test_figures_are_those_of_one_device(objective, tmp_path):
    config = tiny(objective=objective, model=OBJECTIVES[objective])
    if objective == "seq2seq":
        config.data = ParallelTextConfig(source="copy", truncate=True)
        config.data.symbols.num_training_pairs = 500
    elif objective == "classification":
        rng = np.random.default_rng(0)
        pixels, labels = rng.random((200, 28, 28)), np.arange(200) % 10
        np.savez(tmp_path / "noise.npz", x_train=pixels, y_train=labels)
        config.data = ImageConfig(source="npz", path=str(tmp_path / "noise.npz"))
    else:
        lines = (f"{i} times {i + 3} is {i * (i + 3)}." for i in range(900))
        (tmp_path / "text.txt").write_text("\n".join(lines))
        config.data = DataConfig(source="files", path=str(tmp_path / "text.txt"), split="tail")
    if objective != "classification":
        config.data.tokenizer = TokenizerConfig("byte")
    dataset = data.prepare(config.data)
    figures = []
    for mesh in ("data:1", ALL_AXES):
        config.mesh = mesh
        built, state = begin(config, dataset.sizes)
        params = jax.tree.map(lambda x: 4 * x if x.ndim > 1 else x, state.params)
        variables = {"params": params, **state.stats}
        losses = make_loss_function(built.loss)
        how = built.experiment.evaluation
        figures.append(
            measure(built, losses, variables, dataset.validation, dataset.tokenizer, how)
        )
    one, eight = figures
    assert one["cross_entropy"] > 0
    for name, value in one.items():
        near = value if value is None else pytest.approx(value, rel=1e-4)
        assert eight[name] == near, name


@pytest.mark.parametrize(
    ("mesh", "fields", "message"),
    [
        ("data:2,fsdp:2", {}, "mesh data:2,fsdp:2 does not fit 8 devices"),
        ("tensor:8", {}, "model.num_heads 4 does not divide over mesh tensor:8; choose a multiple"),
        ("data:2,tensor:4", {"num_kv_heads": 2}, "model.num_kv_heads 2 does not divide over mesh"),
        ("sequence:8", {"context_length": 20}, "model.context_length 20 does not divide over mesh"),
        ("sequence:8", {"source_length": 20}, "model.source_length 20 does not divide over mesh"),
    ],
)
def test_a_model_that_a_mesh_cannot_split_is_refused_in_one_line(mesh, fields, message):
    name = "encoder_decoder" if "source_length" in fields else "decoder"
    config = experiment(name, mesh)
    config.model = dataclasses.replace(config.model, **fields)
    with pytest.raises(UserError, match=message) as error:
        build_experiment(config, {"vocab_size": VOCABULARY}, jax.devices()[:8])
    assert "\n" not in str(error.value)


def test_windows_that_time_does_not_divide_are_read_whole():
    losses = []
    for mesh in ("data:1", "fsdp:2,sequence:4"):
        built, state = begin(experiment("decoder, ring", mesh), {"vocab_size": VOCABULARY})
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2, 15)).astype(np.int32)
        batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        loss = make_loss_function(built.loss)
        with sharding.on_mesh(built.mesh):
            placed = sharding.place_batch(batch, sharding.batch_sharding(built.mesh))
            losses.append(loss(variables_of(state), placed).nats)
    np.testing.assert_allclose(*losses, atol=1e-5)
