import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig, recurrent_classifier
from lm_jax.parallel import sharding
from tests.models.recurrent.test_language_model import TORCH, tokens, torch_weights

LENGTHS = (9, 4, 1)


def tiny(**fields) -> RecurrentClassifierConfig:
    shape = {"vocab_size": 31, "num_classes": 3, "context_length": 9}
    return RecurrentClassifierConfig(**shape | {"d_embedding": 7, "d_hidden": 5} | fields)


def texts(time=9, seed=0):
    """Texts of LENGTHS tokens, with random tokens for padding."""
    inputs = tokens(len(LENGTHS), 9, seed=1)
    padding = tokens(len(LENGTHS), time, seed=seed)
    is_text = np.arange(time) < np.array(LENGTHS)[:, None]
    inputs = jnp.where(is_text, padding.at[:, :9].set(inputs), padding)
    return {"inputs": inputs, "segments": is_text.astype("i4"), "targets": jnp.array([0, 2, 1])}


def built(config):
    """The model, and variables with every leaf random, so that no term hides behind a zero."""
    model = recurrent_classifier(config, jnp.float32)
    model = model._replace(
        apply=jax.jit(model.apply, static_argnames="train"),
        loss=jax.jit(model.loss, static_argnames="train"),
    )
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), texts()))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.4), x.dtype), shapes
    )


def torch_logits(config, params):
    """The same classifier in PyTorch on packed sequences, and its recurrent layers."""
    peer = TORCH[config.cell](
        config.d_embedding, config.d_hidden, config.num_layers, bidirectional=config.bidirectional
    )
    state = {}
    for index in range(config.num_layers):
        state |= torch_weights(config.cell, params[f"forward_{index}"], f"l{index}")
        if config.bidirectional:
            backward = params[f"backward_{index}"]
            state |= torch_weights(config.cell, backward, f"l{index}_reverse")
    peer.load_state_dict(state)
    as_tensor = lambda x: torch.tensor(np.array(x))  # noqa: E731
    inputs = as_tensor(texts()["inputs"]).long().T
    x = torch.nn.utils.rnn.pack_padded_sequence(
        as_tensor(params["embedding"])[inputs], torch.tensor(LENGTHS)
    )
    h, final = peer(x)
    h, _ = torch.nn.utils.rnn.pad_packed_sequence(h)
    final = final[0] if config.cell == "lstm" else final
    ends = {
        "last": torch.cat(list(final[-2:] if config.bidirectional else final[-1:]), dim=1),
        "mean": h.sum(0) / torch.tensor(LENGTHS)[:, None],
        "max": torch.stack([h[:n, row].max(0).values for row, n in enumerate(LENGTHS)]),
    }
    head = params["head"]
    return ends[config.pooling] @ as_tensor(head["kernel"]) + as_tensor(head["bias"]), peer


@pytest.mark.parametrize(
    "fields",
    [
        {"cell": "lstm", "num_layers": 2},
        {"cell": "gru", "pooling": "max"},
        {"cell": "rnn", "pooling": "mean", "num_layers": 2},
        {"cell": "lstm", "bidirectional": False, "num_layers": 2},
        {"cell": "gru", "bidirectional": False, "pooling": "mean"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_logits_and_gradients_equal_pytorch_on_packed_sequences(fields):
    config = tiny(**fields)
    model, variables = built(config)
    params, batch = variables["params"], texts()
    expected, peer = torch_logits(config, params)
    logits, stats = model.apply(variables, batch, train=False)
    assert stats == {} and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected.detach(), atol=1e-5)

    targets = torch.tensor(np.array(batch["targets"])).long()
    torch.nn.functional.cross_entropy(expected, targets).backward()
    theirs = {name: value.grad for name, value in peer.named_parameters()}

    def loss(params):
        return model.loss({"params": params}, batch, train=False)[0].nats.mean()

    grads = jax.jit(jax.grad(loss))(params)
    for index in range(config.num_layers):
        directions = [("forward", "")] + [("backward", "_reverse")] * config.bidirectional
        for direction, suffix in directions:
            ours = grads[f"{direction}_{index}"]
            for name, leaf in (
                ("weight_ih", ours["input"]["kernel"].T),
                ("weight_hh", ours["recurrent"]["kernel"].T),
                ("bias_ih", ours["bias"]),
            ):
                np.testing.assert_allclose(leaf, theirs[f"{name}_l{index}{suffix}"], atol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_padding_does_not_change_the_logits(pooling):
    model, variables = built(tiny(pooling=pooling, num_layers=2))
    short, _ = model.apply(variables, texts(), train=False)
    longer, _ = model.apply(variables, texts(time=14, seed=6), train=False)
    np.testing.assert_allclose(longer, short, atol=1e-6)
    alone = {"inputs": texts()["inputs"][1:2, : LENGTHS[1]]}
    without, _ = model.apply(variables, alone, train=False)
    np.testing.assert_allclose(without[0], short[1], atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_a_row_without_text_costs_a_finite_number(pooling):
    model, variables = built(tiny(pooling=pooling))
    batch = texts() | {"segments": jnp.zeros((3, 9), jnp.int32)}
    losses, _ = model.loss(variables, batch, train=False)
    assert losses.nats.shape == (3,) and np.isfinite(losses.nats).all()


def test_a_new_model_guesses_uniformly():
    model = recurrent_classifier(tiny(d_hidden=64, num_classes=10))
    batch = texts()
    variables = jax.jit(lambda key: nn.unbox(model.init(key, batch)))(jax.random.key(0))
    losses, _ = jax.jit(model.loss, static_argnames="train")(variables, batch, train=False)
    loss = float(losses.nats.mean())
    assert loss == pytest.approx(np.log(10), rel=0.02)


def test_dropout_acts_in_training_alone():
    model, variables = built(tiny(dropout_rate=0.5))
    run = lambda train, seed: model.apply(  # noqa: E731
        variables, texts(), train=train, key=jax.random.key(seed)
    )[0]
    np.testing.assert_array_equal(run(False, 0), run(False, 1))
    assert jnp.abs(run(True, 0) - run(True, 1)).max() > 1e-2


def test_it_does_not_generate_and_every_parameter_names_its_axes():
    model = recurrent_classifier(tiny(num_layers=2))
    assert model.start is None and model.step is None
    boxed = jax.eval_shape(model.init, jax.random.key(0), texts())
    assert set(boxed["params"]["head"]) == {"kernel", "bias"}
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    for leaf in jax.tree.leaves(boxed, is_leaf=is_box):
        assert is_box(leaf) and len(leaf.names) == leaf.value.ndim
        assert set(leaf.names) <= {name for name, _ in sharding.RULES}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "first"}, "model.pooling is 'first'; expected one of last, mean, max"),
        ({"cell": "mgu"}, "model.cell is 'mgu'"),
        ({"d_embedding": 0}, "model.d_embedding is 0"),
        ({"num_classes": 0}, "model.num_classes is 0: give the size of the set of classes"),
        ({"vocab_size": 0}, "model.vocab_size is 0: give the size of the vocabulary"),
        ({"dropout_rate": 1.5}, "model.dropout_rate is 1.5"),
    ],
)
def test_impossible_shapes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        recurrent_classifier(tiny(**fields))
