"""Products of dense layers and their gradients beside NumPy's, whatever way XLA is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.models.transformer import layers


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3), (4, 4)])
def test_a_dense_layer_of_many_rows_and_its_gradients_are_those_of_numpy(
    monkeypatch, inputs, outputs
):
    monkeypatch.setattr(layers, "_MANY_ROWS", 8)
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, inputs)), rng.normal(size=(inputs, outputs))
    direction = rng.normal(size=(2, 6, outputs))
    numbers = (((2,), (0,)), ((), ()))

    def product(x, kernel):
        return layers._dense_product(x, kernel, numbers)

    y, pull = jax.vjp(product, jnp.float32(x), jnp.float32(kernel))
    dx, dkernel = pull(jnp.float32(direction))
    np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, direction @ kernel.T, rtol=1e-5, atol=1e-5)
    expected = x.reshape(-1, inputs).T @ direction.reshape(-1, outputs)
    np.testing.assert_allclose(dkernel, expected, rtol=1e-5, atol=1e-5)
    is_own = "custom_vjp" in str(jax.make_jaxpr(product)(x, kernel))
    assert is_own == (inputs != outputs)
