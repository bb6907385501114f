"""FLOPs of products counted by tracing, beside closed forms, autodiff and XLA."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lm_jax.costs.jaxpr_flops import product_flops
from lm_jax.errors import UserError
from lm_jax.models.transformer.grouped_product import grouped_product


def counted(function, *shapes, gradients=None):
    return product_flops(jax.make_jaxpr(function)(*map(jnp.zeros, shapes)).jaxpr, gradients)


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


def test_a_convolution_counts_each_weight_at_each_position_but_no_padding():
    def convolve(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=names)

    along_an_axis = 4 + 5 + 5 + 3  # of 8 values seen from -1, 1, 3 and 5 on
    forward = 2 * 2 * 7 * 3 * along_an_axis**2
    assert counted(convolve, (2, 8, 8, 3), (5, 5, 3, 7)) == forward

    def with_gradients(x, kernel):  # which are convolutions with zeros between the values
        return jax.vjp(convolve, x, kernel)[1](jnp.ones((2, 4, 4, 7)))

    assert counted(with_gradients, (2, 8, 8, 3), (5, 5, 3, 7)) == 3 * forward


def test_a_ragged_product_meets_one_matrix_for_each_row():
    """Mixtures of experts: rows [m, k] in groups, each with a matrix [k, n] of its own."""
    m, k, n, groups = 12, 4, 5, 3
    sizes = jnp.array([2, 4, 6], jnp.int32)

    def experts(x, kernels):
        return jax.lax.ragged_dot(x, kernels, sizes)

    shapes = (m, k), (groups, k, n)
    assert counted(experts, *shapes) == 2 * m * k * n
    assert counted(experts, *shapes, gradients=[True, True]) == 3 * 2 * m * k * n
    gradient = jax.grad(lambda x, kernels: experts(x, kernels).sum(), argnums=(0, 1))
    assert counted(gradient, *shapes) in (2 * 2 * m * k * n, 3 * 2 * m * k * n)


def test_products_of_experts_count_as_ragged_ones():
    """Also on a CPU, where they are loops of a length that the data decides."""
    m, k, n, groups = 12, 4, 5, 3
    sizes = jnp.array([2, 4, 6], jnp.int32)

    def experts(x, kernels):
        return grouped_product(x, kernels, sizes)

    shapes = (m, k), (groups, k, n)
    assert counted(experts, *shapes) == 2 * m * k * n
    assert counted(experts, *shapes, gradients=[True, True]) == 3 * 2 * m * k * n
    gradient = jax.grad(lambda x, kernels: experts(x, kernels).sum(), argnums=(0, 1))
    assert counted(gradient, *shapes) == 3 * 2 * m * k * n


@pytest.mark.parametrize(
    ("function", "name"), [(jnp.linalg.cholesky, "cholesky"), (jnp.fft.fft, "fft")]
)
def test_a_primitive_of_unknown_cost_is_refused_by_its_name(function, name):
    with pytest.raises(UserError, match=f"FLOPs of the primitive '{name}' are not known"):
        counted(lambda x: function(jnp.tanh(x)), (8, 8))


N = 8
PRODUCT = 2 * N**3


@pytest.mark.parametrize(
    ("function", "gradients", "products"),
    [
        (lambda x, y: x @ y, [True, True], 3),
        (lambda x, y: x @ y, [True, False], 2),  # y is data
        (lambda x, y: x @ y, [False, False], 1),
        (lambda x, y: (x @ y) @ y, [False, True], 5),
        (lambda x, y: jax.lax.stop_gradient(x) @ y, [True, True], 2),
        (
            lambda x, y: jnp.argmax(x, axis=-1).astype(jnp.float32)[:, None] * y @ y,
            [True, False],
            1,
        ),
        (lambda x, y: jax.jit(jax.checkpoint(lambda a: a @ y))(x), [False, True], 2),
        (lambda x, y: jax.lax.cond(y[0, 0] > 0, lambda a: a @ y, lambda a: a, x), [True, False], 2),
        # A state that no gradient reaches at first, but after its first turn.
        (lambda x, y: jax.lax.fori_loop(0, 7, lambda _, c: c @ x, y), [True, False], 7 * 3),
        (
            lambda x, y: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ x, y),
            [True, False],
            3,
        ),
    ],
)
def test_a_factor_with_a_gradient_costs_a_product_more(function, gradients, products):
    assert counted(function, (N, N), (N, N), gradients=gradients) == products * PRODUCT
