import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm_jax.costs.hlo import read_work
from lm_jax.models.transformer import layers
from lm_jax.parallel import sharding


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
