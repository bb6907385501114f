"""The train step, timed against PyTorch's: tokens per second, FLOPs, memory."""

import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax.benchmarking import mfu
from lm_jax.benchmarking.interleaved_timing import Work, time_interleaved
from lm_jax.build import BuiltExperiment, compute_dtype
from lm_jax.costs.compiled_step import batch_shapes, step_flops
from lm_jax.objectives import targets_per_step
from lm_jax.parallel import sharding
from lm_jax.parallel.sharding import unboxed
from lm_jax.training.state import abstract_state, init_state
from lm_jax.training.train_step import jit_train_steps


class PreparedStep(NamedTuple):
    """A compiled train step on batches that are already on the devices."""

    work: Work  # one dispatch of `training.steps_per_call` optimizer steps
    compile_seconds: float  # tracing and compiling
    compiled: jax.stages.Compiled


def prepare(built: BuiltExperiment, batches: Mapping[str, np.ndarray]) -> PreparedStep:
    """Compiles the train step for batches [K, B, ...] and initializes a state for it."""
    mesh = built.mesh
    seed = built.experiment.seed
    state = init_state(built.model, built.optimizer, built.example, mesh, seed)
    steps = jit_train_steps(built.train_step)
    placed = sharding.place_batch(batches, sharding.batch_sharding(mesh, leading_axes=1))
    start = time.perf_counter()
    with sharding.on_mesh(mesh):
        compiled = steps.lower(state, placed).compile()  # type: ignore[attr-defined]
    compile_seconds = time.perf_counter() - start
    holder = [state]

    def work() -> None:
        with sharding.on_mesh(mesh):  # the same mesh, so that it is not compiled again
            holder[0], _ = steps(holder[0], placed)
        jax.block_until_ready(holder[0])

    return PreparedStep(work, compile_seconds, compiled)


def _planned_bytes(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes of a compiled program on a device; needs one that no cache supplied."""
    analysis = compiled.memory_analysis()
    assert analysis is not None
    not_aliased = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + not_aliased


def random_batches(built: BuiltExperiment, steps: int) -> dict[str, np.ndarray]:
    """Returns random training batches [steps, B, ...]; each row is one document."""
    shapes = {**batch_shapes(built), **built.example}
    if "prefix" not in shapes:  # one document a row needs neither segments nor positions
        shapes = {name: shapes[name] for name in (*built.example, "targets", "weights")}
    rows = batch_shapes(built)["inputs"].shape[0]
    rng = np.random.default_rng(0)
    num_choices = {"targets": _num_outputs(built)}

    def fill(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if name == "weights" or name.endswith("segments"):
            return np.ones(shape, dtype)
        if name == "prefix":
            return np.zeros(shape, dtype)
        if name.endswith("positions"):
            return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
        if np.issubdtype(dtype, np.floating):
            return rng.normal(size=shape).astype(dtype)
        highest = num_choices.get(name) or built.experiment.model.vocab_size
        return rng.integers(highest, size=shape).astype(dtype)

    return {
        name: fill(name, (steps, rows, *shape.shape[1:]), shape.dtype)
        for name, shape in shapes.items()
    }


def _num_outputs(built: BuiltExperiment) -> int:
    """Returns the number of tokens or classes among which the model chooses."""
    variables = unboxed(jax.eval_shape(built.model.init, jax.random.key(0), built.example))
    apply = functools.partial(built.model.apply, train=False)
    with sharding.on_mesh(built.mesh):
        logits, _ = jax.eval_shape(apply, variables, built.example)
    return logits.shape[-1]


def measure(built: BuiltExperiment, rounds: int, baselines: Mapping[str, Any]) -> dict[str, Any]:
    """Times the train step, interleaved with baselines on the same batches.

    Args:
      baselines: by name, functions of the batches [K, B, ...] that return the work to time: K
        optimizer steps.
    """
    steps = built.experiment.training.steps_per_call
    batches = random_batches(built, steps)
    ours = prepare(built, batches)
    products, product_flops = mfu.matrix_products(built)
    work = {"lm_jax": ours.work, **{name: make(batches) for name, make in baselines.items()}}
    timings = time_interleaved(work | {mfu.PRODUCTS: products}, rounds)
    targets = targets_per_step(built.experiment)
    counted_as, flops = mfu.flops_per_target(built, targets)
    measured_peak = product_flops / min(timings.rounds[mfu.PRODUCTS])
    published = mfu.published_peak(built)
    rates = {}
    for name in work:
        rate = rates[name] = timings.rate(name, steps * targets, steps)
        step_seconds = rate["seconds"]["median"]
        used = (targets * flops, step_seconds)
        rate["mfu"] = mfu.utilization(*used, measured_peak, built.mesh.size)
        if published:
            rate["mfu_published"] = mfu.utilization(*used, published[1], built.mesh.size)
    return {
        "unit": built.objective.unit,
        "targets_per_step": targets,
        "steps_per_dispatch": steps,
        "rounds": rounds,
        "dtype": str(compute_dtype(built.experiment)),
        "mesh": dict(built.mesh.shape),
        "parameters": _parameters(built),
        "programs": rates,
        **timings.ratios("lm_jax", list(baselines)),
        "compile_seconds": ours.compile_seconds,
        "memory": {"planned": _planned_bytes(ours.compiled), "peak": _peak_bytes(built)},
        "flops": {
            "counted_as": counted_as,
            "per_step": targets * flops,
            "products_per_step": step_flops(built),
        },
        "peak_flops": {
            "measured": measured_peak,
            "published": published[1] if published else None,
            "accelerator": published[0] if published else None,
        },
    }


def _parameters(built: BuiltExperiment) -> int:
    state = abstract_state(built.model, built.optimizer, built.example, built.mesh)
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _peak_bytes(built: BuiltExperiment) -> int | None:
    """Returns JAX's peak memory in bytes on a device; None on CPU, which does not report it."""
    stats = built.mesh.devices.flat[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")
