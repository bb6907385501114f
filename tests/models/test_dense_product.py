"""Products of dense layers and their gradients beside NumPy's, whatever way XLA is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models import dense_product


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3), (4, 4)])
def test_a_dense_layer_of_many_rows_and_its_gradients_are_those_of_numpy(
    monkeypatch, inputs, outputs
):
    monkeypatch.setattr(dense_product, "_MANY_ROWS", 8)
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, inputs)), rng.normal(size=(inputs, outputs))
    direction = rng.normal(size=(2, 6, outputs))
    numbers = (((2,), (0,)), ((), ()))

    def product(x, kernel):
        return dense_product.dense_product(x, kernel, numbers)

    y, pull = jax.vjp(product, jnp.float32(x), jnp.float32(kernel))
    dx, dkernel = pull(jnp.float32(direction))
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, direction @ kernel.T, rtol=1e-5, atol=1e-5)
    expected = x.reshape(-1, inputs).T @ direction.reshape(-1, outputs)
    np.testing.assert_allclose(dkernel, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "rows", "is_own"), [("cpu", 8, True), ("cpu", 7, False), ("cuda", 8, False)]
)
def test_only_cpus_multiply_many_rows_in_a_way_of_their_own(monkeypatch, platform, rows, is_own):
    monkeypatch.setattr(dense_product, "_MANY_ROWS", 8)
    monkeypatch.setattr(dense_product, "target", lambda: platform)
    product = jax.make_jaxpr(
        lambda x, y: dense_product.dense_product(x, y, (((1,), (0,)), ((), ())))
    )
    assert ("custom_vjp" in str(product(jnp.ones((rows, 3)), jnp.ones((3, 5))))) == is_own
