import jax
import jax.numpy as jnp

from lm_jax.checkpoints import Checkpoints
from lm_jax.experiment import CheckpointConfig


def test_the_best_outlives_the_last_and_is_found_again(tmp_path):
    config = CheckpointConfig(keep_last=1, keep_best=1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", config)
    for step, cross_entropy in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5)):
        checkpoints.save(step, {"x": jnp.full(2, step)}, cross_entropy)
    checkpoints.close()

    again = Checkpoints(tmp_path / "checkpoints", config, read_only=True)
    assert again.steps() == [4, 2]
    shape = {"x": jax.ShapeDtypeStruct((2,), jnp.int32, sharding=jnp.zeros(2).sharding)}
    step, state = again.restore(shape, "best", print)
    assert step == 2 and state["x"].tolist() == [2, 2]
    again.close()
