"""FLOPs counted by tracing, beside closed forms."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lm_jax.models import build_model
from lm_jax.models.convnet import ConvNetConfig
from lm_jax.models.recurrent import RecurrentConfig
from lm_jax.models.transformer import TransformerConfig
from lm_jax.scaling.accounting import count_parameters, training_flops
from lm_jax.scaling.products import product_flops


def tokens(rows, time):
    shape = jax.ShapeDtypeStruct((rows, time), jnp.int32)
    return {"inputs": shape, "targets": shape}


def counted(function, *shapes):
    return product_flops(jax.make_jaxpr(function)(*map(jnp.zeros, shapes)).jaxpr)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_transformer_costs_6n_and_12ldt_a_token(scan_layers, remat):
    """Chowdhery et al. 2022, appendix B: 6 N + 12 L H Q T, N without what is only looked up."""
    layers, width, time, rows = 3, 32, 16, 5
    config = TransformerConfig(
        64,
        context_length=time,
        num_layers=layers,
        d_model=width,
        num_heads=4,
        use_bias=False,
        scan_layers=scan_layers,
        remat=remat,
    )
    counts = count_parameters(config)
    products = counts["attention"] + counts["feed_forward"] + counts["embedding"]
    of_a_token = 6 * products + 12 * layers * width * time
    flops = training_flops(build_model(config, jnp.float32), tokens(rows, time))
    assert flops == rows * time * of_a_token


def test_half_of_causal_attention_is_spared_where_it_is():
    """From 128 tokens on, the first half of the queries reads half of the keys."""
    shape = {"num_layers": 2, "d_model": 32, "num_heads": 4}

    def attention(time):
        config = TransformerConfig(64, context_length=time, **shape)
        flops = training_flops(build_model(config, jnp.float32), tokens(1, time))
        counts = count_parameters(
            TransformerConfig(64, context_length=time, use_bias=False, **shape)
        )
        products = counts["attention"] + counts["feed_forward"] + counts["embedding"]
        return (flops - 6 * products * time) / (12 * 2 * 32 * time**2)

    assert attention(64) == 1.0
    assert attention(128) == 0.75


def test_loops_branches_and_derivatives_count_what_they_hold():
    n, product = 8, 2 * 8**3

    def scanned(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, None, length=7)[0]

    assert counted(scanned, (n, n)) == 7 * product
    assert counted(jax.grad(lambda x: scanned(x).sum()), (n, n)) == 3 * 7 * product
    assert counted(jax.jit(jax.checkpoint(lambda x: x @ x)), (n, n)) == product

    def branches(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert counted(branches, (n, n)) == 2 * product
    assert counted(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (3, 4, 5), (3, 5, 6)) == 720
    assert counted(lambda x: jnp.sin(x) * x, (n, n)) == 0


def test_a_part_of_a_mesh_counts_for_all_parts():
    mesh = jax.make_mesh((4,), ("x",), (AxisType.Auto,), devices=jax.devices()[:4])
    rows = jax.shard_map(lambda x, y: x @ y, mesh=mesh, in_specs=(P("x"), P()), out_specs=P("x"))
    assert counted(rows, (8, 6), (6, 5)) == 2 * 8 * 6 * 5


def test_a_convolution_counts_each_weight_at_each_position():
    def convolve(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=names)

    assert counted(convolve, (2, 8, 8, 3), (5, 5, 3, 7)) == 2 * (2 * 4 * 4 * 7) * (5 * 5 * 3)


def test_recurrent_and_convolutional_models_are_counted():
    config = RecurrentConfig(5000, context_length=9)  # more than a batch has tokens
    model = build_model(config, jnp.float32)
    one, two = (training_flops(model, tokens(rows, 9)) for rows in (64, 128))
    assert two == 2 * one > 0
    images = {
        "inputs": jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32),
        "targets": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    assert training_flops(build_model(ConvNetConfig("lenet5", 10, 28, 28, 1), jnp.float32), images)
