"""Products of dense layers and their gradients beside NumPy's, whatever way XLA is asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm_jax.costs.hlo import read_work
from lm_jax.models.transformer import layers
from lm_jax.parallel import sharding


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


@pytest.mark.parametrize(
    ("platform", "rows", "is_own"), [("cpu", 8, True), ("cpu", 7, False), ("cuda", 8, False)]
)
def test_only_cpus_multiply_many_rows_in_a_way_of_their_own(monkeypatch, platform, rows, is_own):
    monkeypatch.setattr(layers, "_MANY_ROWS", 8)
    monkeypatch.setattr(layers, "target", lambda: platform)
    product = jax.make_jaxpr(lambda x, y: layers._dense_product(x, y, (((1,), (0,)), ((), ()))))
    assert ("custom_vjp" in str(product(jnp.ones((rows, 3)), jnp.ones((3, 5))))) == is_own


@pytest.mark.parametrize(
    ("mesh", "time", "is_flat"),
    [("data:4,tensor:2", None, True), ("data:4,sequence:2", "sequence", False)],
)
def test_gpus_add_as_matrices_what_stays_where_it_lies(monkeypatch, mesh, time, is_flat):
    monkeypatch.setattr(layers, "target", lambda: "cuda")
    devices = sharding.make_mesh(mesh, jax.devices()[:8])
    where = NamedSharding(devices, PartitionSpec("data", time))
    rng = np.random.default_rng(0)
    x, y = (jax.device_put(rng.normal(size=(4, 6, 8)), where) for _ in range(2))
    with jax.set_mesh(devices):
        compiled = jax.jit(layers.added, out_shardings=where).lower(x, y).compile()
        assert ("reshape" in str(jax.make_jaxpr(layers.added)(x, y))) == is_flat
    np.testing.assert_array_equal(compiled(x, y), np.asarray(x) + np.asarray(y))
    assert not read_work(compiled.as_text()).collectives
