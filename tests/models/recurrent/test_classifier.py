import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig, recurrent_classifier
from lm_jax.parallel import sharding
from tests.models.jitted import jitted
from tests.models.recurrent.test_language_model import tokens

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
    model = jitted(recurrent_classifier(config, jnp.float32))
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), texts()))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.4), x.dtype), shapes
    )


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
    model = jitted(recurrent_classifier(tiny(d_hidden=64, num_classes=10)))
    batch = texts()
    variables = nn.unbox(model.init(jax.random.key(0), batch))
    losses, _ = model.loss(variables, batch, train=False)
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
    with pytest.raises(UserError, match=message):
        build_model(tiny(**fields), jnp.float32)
