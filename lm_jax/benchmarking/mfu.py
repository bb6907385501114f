"""The peak FLOP/s of a device, measured and published, and the share of it that is used (MFU)."""

import jax
import jax.numpy as jnp

from lm_jax.benchmarking.interleaved_timing import Work
from lm_jax.build import BuiltExperiment, compute_dtype
from lm_jax.costs.accelerators import ACCELERATORS, name_of
from lm_jax.costs.compiled_step import step_flops
from lm_jax.costs.model_flops import formula

PRODUCTS = "matrix products"  # the name of this work in the timings
_SIZES = {"cpu": (2048, 2)}  # platform -> rows of a square matrix, products per call
_LARGE = (8192, 32)


def matrix_products(built: BuiltExperiment, size: int = 0, count: int = 0) -> tuple[Work, int]:
    """Returns a chain of square matrix products on one device of the mesh, and its FLOPs.

    Args:
      size: rows of a matrix; 0: 2,048 on a CPU, 8,192 elsewhere.
      count: products per call; 0: 2 on a CPU, 32 elsewhere, which take a fraction of a second.
    """
    device = built.mesh.devices.flat[0]
    usual = _SIZES.get(device.platform, _LARGE)
    size, count = size or usual[0], count or usual[1]
    key = jax.random.key(0)
    # Standard deviation 1 / sqrt(size): the products neither grow nor vanish.
    factor = jax.random.normal(key, (size, size), compute_dtype(built.experiment)) / size**0.5
    factor = jax.device_put(factor, device)

    @jax.jit
    def products(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, y: jnp.dot(y, x), x)

    def work() -> None:
        jax.block_until_ready(products(factor))

    return work, 2 * size**3 * count


def published_peak(built: BuiltExperiment) -> tuple[str, float] | None:
    """Returns the accelerator's name and its published bfloat16 peak in FLOP/s.

    None if the accelerator is unknown, or the experiment computes in another dtype.
    """
    name = name_of(built.mesh.devices.flat[0].device_kind)
    if name is None or compute_dtype(built.experiment) != jnp.bfloat16:
        return None
    return name, ACCELERATORS[name].peak_flops


def flops_per_target(built: BuiltExperiment, targets: int) -> tuple[str, float]:
    """Returns how training FLOPs are counted, and their number per target.

    A model with attention that has a formula gets PaLM's, which does not halve attention for
    causality; other models get the counted matrix products of both passes (`step_flops`).

    Args:
      targets: the number of targets in a step.
    """
    by_formula = formula(built.experiment.model)
    if by_formula and by_formula.attention:
        return "6N + 12 L d T", by_formula.training
    return "products of both passes", step_flops(built) / targets


def utilization(flops: float, seconds: float, peak: float, devices: int = 1) -> float:
    """Returns the model FLOPs utilization: flops / (seconds x peak x devices)."""
    return flops / seconds / (peak * devices)
