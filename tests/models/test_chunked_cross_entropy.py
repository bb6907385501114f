"""Losses without the logits: the same numbers, less memory, no more traffic."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from lm_jax.costs.collectives import by_kind
from lm_jax.costs.hlo import read_work
from lm_jax.errors import UserError
from lm_jax.models import build_model
from lm_jax.models.chunked_cross_entropy import chunked_cross_entropy
from lm_jax.models.interface import cross_entropy
from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig, TransformerConfig
from lm_jax.parallel import sharding
from tests.conftest import slow_but


def example(batch=4, time=6, width=16, vocab=52):
    """Activations, an output matrix, biases, targets, and what each loss counts."""
    keys = jax.random.split(jax.random.key(0), 6)
    normal = jax.random.normal
    parameters = (
        normal(keys[0], (batch, time, width)),
        normal(keys[1], (vocab, width)),
        normal(keys[2], (vocab,)),
    )
    targets = jax.random.randint(keys[3], (batch, time), 0, vocab)
    return parameters, targets, normal(keys[4], (2, batch, time))


def plain(x_btd, output_vd, bias_v, targets_bt, soft_cap):
    logits_btv = jnp.einsum("btd,vd->btv", x_btd, output_vd)
    if soft_cap:
        logits_btv = soft_cap * jnp.tanh(logits_btv / soft_cap)
    return cross_entropy(logits_btv + (0 if bias_v is None else bias_v), targets_bt)


def chunked(x_btd, output_vd, bias_v, targets_bt, soft_cap, num_chunks):
    return chunked_cross_entropy(
        x_btd, output_vd, targets_bt, num_chunks, soft_cap=soft_cap, bias_v=bias_v
    )


def losses_and_gradients(loss, parameters, weights, *arguments):
    """Returns losses and gradients of a sum that weights every nat differently."""

    def total(parameters):
        losses = loss(*parameters, *arguments)
        squared = jnp.square(losses.log_normalizer) * weights[0]
        return jnp.sum(
            losses.nats * weights[0] + losses.uniform_nats * weights[1] + squared
        ), losses

    (_, losses), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(parameters)
    return losses, gradients


def assert_same(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), found, expected
    )


@pytest.mark.parametrize(
    ("num_chunks", "soft_cap", "biased"),
    # Of 52 tokens: 7 and 60 do not divide.
    [(1, 0.0, False), (1, 5.0, True), (4, 0.0, False), (7, 5.0, True), (60, 0.0, True)],
)
def test_losses_and_gradients_are_those_of_the_logits(num_chunks, soft_cap, biased):
    (x_btd, output_vd, bias_v), targets, weights = example()
    parameters = (x_btd, output_vd, bias_v if biased else None)
    arguments = (weights, targets, soft_cap)
    expected = losses_and_gradients(plain, parameters, *arguments)
    assert_same(losses_and_gradients(chunked, parameters, *arguments, num_chunks), expected)


def test_in_bfloat16_losses_are_exact_and_gradients_are_rounded():
    (x_btd, output_vd, _), targets, weights = example()
    x_btd, rounded_vd = (x.astype(jnp.bfloat16) for x in (x_btd, output_vd))
    exact = (x_btd.astype(jnp.float32), rounded_vd.astype(jnp.float32), None)
    expected, wanted = losses_and_gradients(plain, exact, weights, targets, 5.0)
    found, gradients = losses_and_gradients(
        chunked, (x_btd, output_vd, None), weights, targets, 5.0, 4
    )
    assert_same(found, expected)
    assert [x.dtype for x in gradients[:2]] == [jnp.bfloat16, jnp.float32]
    for gradient, true in zip(gradients[:2], wanted[:2], strict=True):
        error = jnp.linalg.norm(gradient.astype(jnp.float32) - true) / jnp.linalg.norm(true)
        assert error < 2**-7


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_rounded_logits_change_a_mean_loss_by_less_than_their_rounding(monkeypatch, device):
    monkeypatch.setattr("lm_jax.models.chunked_cross_entropy.target", lambda: device)
    (x_btd, output_vd, _), targets, weights = example(batch=8, time=64, vocab=1100)  # one is filled
    exact = tuple(x.astype(jnp.bfloat16).astype(jnp.float32) for x in (x_btd, output_vd))
    expected, wanted = losses_and_gradients(plain, (*exact, None), weights, targets, 0.0)

    def held(x_btd, output_vd, targets):
        x_btd = x_btd.astype(jnp.bfloat16)
        return chunked_cross_entropy(x_btd, output_vd, targets, 1, dtype=jnp.bfloat16)

    found, gradients = losses_and_gradients(held, exact, weights, targets)
    assert abs(jnp.mean(found.nats - expected.nats)) < 2e-3  # logits of up to 16: rounded by 0.03
    assert 1e-3 < jnp.max(abs(found.nats - expected.nats)) < 0.07
    for gradient, true in zip(gradients[:2], wanted[:2], strict=True):
        assert jnp.linalg.norm(gradient - true) / jnp.linalg.norm(true) < 2**-6


def test_of_equal_logits_the_first_is_the_prediction():
    (x_btd, output_vd, _), _, _ = example()
    twice_vd = jnp.concatenate([output_vd, output_vd])
    best_bt = jnp.argmax(x_btd @ output_vd.T, axis=-1)
    for targets_bt, correct in ((best_bt, 1), (best_bt + len(output_vd), 0)):
        losses = chunked_cross_entropy(x_btd, twice_vd, targets_bt, 4)
        assert (losses.correct == correct).all()


@pytest.mark.parametrize(
    ("mesh", "vocab", "num_chunks"),
    [
        ("fsdp:8", 52, 3),
        ("data:2,fsdp:2,tensor:2", 52, 1),
        ("fsdp:2,tensor:4", 53, 3),  # the tensor axis does not divide it
    ],
    ids=str,
)
def test_a_mesh_changes_nothing(mesh, vocab, num_chunks):
    parameters, targets, weights = example(batch=8, vocab=vocab)
    expected = losses_and_gradients(plain, parameters, weights, targets, 5.0)
    with sharding.on_mesh(sharding.make_mesh(mesh)):
        found = losses_and_gradients(chunked, parameters, weights, targets, 5.0, num_chunks)
    assert_same(found, expected)


@pytest.mark.parametrize("mesh", ["data:8", "fsdp:2,tensor:4"])
def test_tpus_order_the_sums_of_devices_and_find_the_same(monkeypatch, mesh):
    monkeypatch.setattr("lm_jax.models.chunked_cross_entropy.target", lambda: "tpu")
    (x_btd, output_vd, _), targets, weights = example(batch=8)
    parameters, arguments = (x_btd, output_vd, None), (weights, targets, 0.0)
    expected = losses_and_gradients(plain, parameters, *arguments)
    with sharding.on_mesh(sharding.make_mesh(mesh)):
        found = losses_and_gradients(chunked, parameters, *arguments, 1)
    assert_same(found, expected)


def test_devices_are_sent_a_rounded_matrix_where_products_are_rounded():
    (x_btd, output_vd, _), targets, _ = example(batch=8)

    def total(x_btd, output_vd):
        given = (x_btd.astype(jnp.bfloat16), output_vd, targets, 4)
        return jnp.sum(chunked_cross_entropy(*given).nats)

    with sharding.on_mesh(sharding.make_mesh("fsdp:8")):
        jaxpr = jax.make_jaxpr(jax.grad(total))(x_btd, output_vd)
    entered = [
        variable.aval
        for equation in jaxpr.eqns
        if equation.primitive.name == "shard_map"
        for variable in equation.invars
    ]
    assert {x.dtype for x in entered if x.shape == output_vd.shape} == {jnp.dtype("bfloat16")}


def compiled_gradient(loss, *shape, mesh=None):
    """The program of the gradient of a mean loss, its arrays split as a train step splits them."""
    (x_btd, output_vd, _), targets, _ = jax.eval_shape(lambda: example(*shape))
    if mesh is not None:

        def placed(x, *names):
            where = NamedSharding(mesh, nn.logical_to_mesh_axes(names))
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

        targets, x_btd = placed(targets, "batch", "time"), placed(x_btd, "batch", "time", None)
        output_vd = placed(output_vd, "vocab", "embed")

    def mean(x_btd, output_vd, targets):
        return jnp.mean(loss(x_btd, output_vd, targets).nats)

    shardings = None if mesh is None else (x_btd.sharding, output_vd.sharding)
    gradient = jax.jit(jax.grad(mean, (0, 1)), out_shardings=shardings)
    return gradient.lower(x_btd, output_vd, targets).compile()


def chunked_into(num_chunks):
    return lambda x_btd, output_vd, targets: chunked(
        x_btd, output_vd, None, targets, 0.0, num_chunks
    )


def whole(x_btd, output_vd, targets):
    return plain(x_btd, output_vd, None, targets, 0.0)


def test_memory_is_that_of_a_piece():
    shape = (8, 64, 32, 8192)
    logits = 8 * 64 * 8192 * 4  # bytes: 16 MiB

    def temporaries(loss):
        return compiled_gradient(loss, *shape).memory_analysis().temp_size_in_bytes

    assert temporaries(whole) >= logits
    sixteenths = temporaries(chunked_into(16))
    # Two arrays of a piece's logits, beside copies of the matrix and of the activations.
    assert sixteenths < logits / 4
    assert sixteenths < temporaries(chunked_into(4)) < temporaries(chunked_into(2))


def test_traffic_does_not_grow_with_the_pieces():
    mesh = sharding.make_mesh("data:2,fsdp:2,tensor:2")
    _, _, width, vocab = shape = (8, 16, 32, 512)
    with sharding.on_mesh(mesh):
        found = [
            by_kind(read_work(compiled_gradient(loss, *shape, mesh=mesh).as_text()).collectives)
            for loss in (chunked_into(2), chunked_into(16), whole)
        ]
    assert found[0] == found[1]
    sent = [sum(traffic.sent for traffic in kinds.values()) for kinds in found]
    assert 0 < sent[0] <= sent[2]
    # What is gathered is the output matrix over fsdp, once for both passes; no logits.
    assert found[0]["all-gather"].bytes == vocab // 2 * width * 4


KINDS = {
    "decoder": TransformerConfig(logit_soft_cap=4.0),
    "decoder, untied": TransformerConfig(tie_embeddings=False, positions="rotary"),
    "encoder": EncoderConfig(),
    "encoder_decoder": EncoderDecoderConfig(source_length=12),
}


@pytest.mark.parametrize("kind", slow_but(KINDS, "encoder_decoder", "encoder"))
def test_every_transformer_can_do_without_its_logits(kind):
    shape = {"vocab_size": 50, "context_length": 12, "num_layers": 1, "d_model": 16, "num_heads": 2}
    config = dataclasses.replace(KINDS[kind], **shape)
    rng = np.random.default_rng(0)
    names = ("inputs", "targets") + ("source",) * (kind == "encoder_decoder")
    batch = {name: jnp.asarray(rng.integers(0, 50, (2, 12)), jnp.int32) for name in names}

    def built(config):
        model = build_model(config, jnp.float32)

        def mean(params):
            losses, _ = model.loss({"params": params}, batch, train=True, key=jax.random.key(2))
            return jnp.mean(losses.nats + 0.1 * losses.uniform_nats), losses

        return model, jax.jit(jax.value_and_grad(mean, has_aux=True))

    model, expected = built(config)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))["params"]
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype("f"), shapes)
    _, found = built(dataclasses.replace(config, loss_chunks=4))
    assert_same(found(params), expected(params))


def float32_logits(jaxpr, shape):
    """The float32 arrays of this shape that a program makes."""
    found = []
    for equation in jaxpr.eqns:
        made = [v.aval for v in equation.outvars if getattr(v.aval, "shape", ()) == shape]
        found += [equation.primitive.name for aval in made if aval.dtype == jnp.float32]
        for inner in jax.core.jaxprs_in_params(equation.params):
            found += float32_logits(inner, shape)
    return found


@pytest.mark.parametrize("train", [True, False])
def test_on_an_accelerator_no_product_gives_float32_logits_of_all_tokens(monkeypatch, train):
    config = TransformerConfig(50, 12, num_layers=1, d_model=16, num_heads=2)
    batch = {name: jnp.zeros((8, 12), jnp.int32) for name in ("inputs", "targets")}

    def products():
        model = build_model(config, jnp.bfloat16)
        shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
        loss = partial(model.loss, batch=batch, train=train)
        return float32_logits(jax.make_jaxpr(loss)(shapes).jaxpr, (8, 12, 50)).count("dot_general")

    assert products() == 1
    monkeypatch.setattr("lm_jax.models.transformer.assembly.target", lambda: "tpu")
    assert products() == 0


def test_pieces_are_counted_from_one():
    with pytest.raises(UserError, match="model.loss_chunks is 0"):
        build_model(TransformerConfig(vocab_size=5, loss_chunks=0), jnp.float32)
