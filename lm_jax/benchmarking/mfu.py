"""What a device can do at most, measured and as its maker states it, and what share is used."""

import jax
import jax.numpy as jnp

from lm_jax.benchmarking.interleaved_timing import Turn
from lm_jax.build import BuiltExperiment, compute_dtype
from lm_jax.costs.accelerators import ACCELERATORS, name_of
from lm_jax.costs.compiled_step import step_flops
from lm_jax.costs.model_flops import formula
from lm_jax.models.transformer.model import TransformerConfig

PRODUCTS = "matrix products"  # the name of their turn
_SIZES = {"cpu": (2048, 2)}  # platform -> rows of a square matrix, products a turn
_LARGE = (8192, 32)


def product_turn(built: BuiltExperiment, size: int = 0, count: int = 0) -> tuple[Turn, int]:
    """A turn of dependent products of square matrices on one device of the mesh, and its FLOPs.

    Args:
      size: rows of a matrix; 0: 2,048 on a CPU, 8,192 elsewhere.
      count: products a turn; 0: as many as take a fraction of a second.
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

    def turn() -> None:
        jax.block_until_ready(products(factor))

    return turn, 2 * size**3 * count


def published_peak(built: BuiltExperiment) -> tuple[str, float] | None:
    """The accelerator that the program runs on and its peak in FLOP/s, which is that of bfloat16.

    None where it is not known, or the program computes in another dtype.
    """
    name = name_of(built.mesh.devices.flat[0].device_kind)
    if name is None or compute_dtype(built.experiment) != jnp.bfloat16:
        return None
    return name, ACCELERATORS[name].peak_flops


def flops_per_target(built: BuiltExperiment, targets: int) -> tuple[str, float]:
    """How the FLOPs of training were counted, and how many there are for each of `targets` a step.

    Of a decoder-only Transformer PaLM's count, of which causality halves nothing; of others the
    products of both passes (`step_flops`).
    """
    config = built.experiment.model
    if isinstance(config, TransformerConfig) and (by_formula := formula(config)):
        return "6N + 12 L d T", by_formula.training
    return "products of both passes", step_flops(built) / targets


def utilization(flops: float, seconds: float, peak: float, devices: int = 1) -> float:
    """The share of `devices` peaks in FLOP/s that so many FLOPs in so many seconds are (MFU)."""
    return flops / seconds / (peak * devices)
