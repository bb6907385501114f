"""The cost of a train step, compiled for devices that need not exist."""

import math
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.build import BuiltExperiment, compute_dtype
from lm_jax.config.experiment import sequences_per_step
from lm_jax.costs import hlo
from lm_jax.costs.accelerators import USABLE, Accelerator
from lm_jax.costs.collectives import planned_collectives
from lm_jax.costs.model_flops import training_flops
from lm_jax.costs.topologies import Described
from lm_jax.errors import UserError
from lm_jax.models import family_of
from lm_jax.models.family import PlannedCollective
from lm_jax.models.parameters import path_of
from lm_jax.models.target import target, target_device
from lm_jax.parallel import sharding
from lm_jax.parallel.xla_flags import step_options
from lm_jax.training.state import TrainState, abstract_state, trained_leaves


class PlacedParameter(NamedTuple):
    """A parameter and its part on one device."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[Any, ...]  # mesh axes of each dimension
    local_shape: tuple[int, ...]


class ResidentBytes(NamedTuple):
    """Bytes on each device from shapes and shardings, which no compiler can avoid."""

    parameters: int
    optimizer_state: int
    gradients: int
    batch: int


class DeviceMemory(NamedTuple):
    """Bytes on each device: the fields of `ResidentBytes`, and those of the compiled program."""

    parameters: int
    optimizer_state: int
    gradients: int
    batch: int
    # The compiled program:
    arguments: int  # the state and the batch; the new state reuses the buffers of the old one
    temporaries: int  # gradients, activations, gathered parameters
    total: int

    @property
    def lower_bound(self) -> int:
        """Bytes that no compiler can avoid: state, gradients and batch."""
        return self.parameters + self.optimizer_state + self.gradients + self.batch


class Compiled(NamedTuple):
    """A compiled train step; figures are per device."""

    placed: list[PlacedParameter]
    memory: DeviceMemory
    model_flops: float  # its share of `training_flops`
    work: hlo.Work
    xla_flops: float | None  # XLA's cost analysis, which counts the body of a loop once
    planned: list[PlannedCollective]  # exchanges that any implementation needs
    compile_seconds: float
    text: str  # the optimized HLO


# Nothing that is compiled here runs, so its machine code needs no optimization.
_FAST_COMPILATION: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}


def compile_step(built: BuiltExperiment, described: Described | None = None) -> Compiled:
    """Compiles the train step on the experiment's mesh without allocating an array.

    The devices of the mesh may be simulated: see `jax_num_cpu_devices`. XLA reports memory and
    collectives for the backend of these devices.

    Args:
      described: the devices of the mesh, where they are only described.

    Raises:
      UserError: a compiler that plans memory exactly finds that the step does not fit.
    """
    mesh = built.mesh
    state, batch = _arguments(built)
    # The new state has the shardings of the old one, as in a loop over steps.
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(built.train_step, donate_argnums=0, out_shardings=(shardings, None))
    platforms = (described.platform,) if described else None
    options: dict[str, str | bool | int] = {
        **(described.options if described else _FAST_COMPILATION)
    }
    start = time.monotonic()
    try:
        with sharding.on_mesh(mesh):
            traced = step.trace(state, batch)
            options |= step_options(target(), target_device().device_kind)
            compiled = traced.lower(lowering_platforms=platforms).compile(options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        advice = "give it more devices, a smaller batch, or model.remat=full"
        raise does_not_fit(str(error), advice) from error
    compile_seconds = time.monotonic() - start
    costs = compiled.cost_analysis() or {}
    text = compiled.as_text() or ""
    return Compiled(
        placed=placed_parameters(state.params),
        memory=_memory(compiled.memory_analysis(), _resident_bytes(built, state, batch)),
        model_flops=step_flops(built) / mesh.size,
        work=hlo.read_work(text),
        xla_flops=costs.get("flops"),
        planned=_planned(built, state.params),
        compile_seconds=compile_seconds,
        text=text,
    )


def does_not_fit(message: str, advice: str) -> UserError:
    """Returns the error of a step that its compiler cannot place in memory, in one line.

    Args:
      message: the compiler's.
    """
    used = re.search(r"Used \S+ of \S+ \w+", message)
    size = used[0].lower() if used else message.splitlines()[0]
    return UserError(f"the step does not fit: {size}; {advice}")


def resident_bytes(built: BuiltExperiment) -> ResidentBytes:
    """Returns the bytes that a train step needs under any compiler; compiles nothing."""
    return _resident_bytes(built, *_arguments(built))


def step_flops(built: BuiltExperiment) -> int:
    """Returns the matrix-product FLOPs of one train step on all devices: see `training_flops`."""
    return training_flops(built.model, batch_shapes(built), built.is_trained)


def _arguments(built: BuiltExperiment) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the shapes of a state and a batch with their shardings on the mesh."""
    mesh = built.mesh
    state = abstract_state(built.model, built.optimizer, built.example, mesh)
    batch_sharding = sharding.batch_sharding(mesh)
    return state, jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding),
        batch_shapes(built),
    )


def batch_shapes(built: BuiltExperiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a whole training batch whose rows hold several documents."""
    experiment = built.experiment
    sequences = sequences_per_step(experiment)
    batch = dict(built.objective.example(experiment, sequences))
    inputs = batch["inputs"]
    shape = inputs.shape if built.objective.fixed_rows else inputs.shape[:1]
    for name in ("targets", *built.objective.packed):
        batch[name] = jax.ShapeDtypeStruct(shape, jnp.int32)
    return batch | {"weights": jax.ShapeDtypeStruct(shape, jnp.float32)}


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes per device of arrays, or of `ShapeDtypeStruct`s with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def placed_parameters(params: Any) -> list[PlacedParameter]:
    """Returns each parameter with its part on one device."""
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        spec = (*leaf.sharding.spec, *(None,) * (leaf.ndim - len(leaf.sharding.spec)))
        local = leaf.sharding.shard_shape(leaf.shape)
        rows.append(PlacedParameter(path_of(path), leaf.shape, spec, local))
    return rows


def _resident_bytes(built: BuiltExperiment, state: TrainState, batch: Any) -> ResidentBytes:
    return ResidentBytes(
        parameters=bytes_per_device(state.params),
        optimizer_state=bytes_per_device(state.opt_state),
        # of the shapes, dtypes and shardings of what is trained
        gradients=bytes_per_device(trained_leaves(state.params, built.is_trained)),
        batch=bytes_per_device(batch),
    )


def _memory(analysis: Any, resident: ResidentBytes) -> DeviceMemory:
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    not_aliased = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return DeviceMemory(
        *resident,
        arguments=arguments,
        temporaries=temporaries,
        total=arguments + temporaries + not_aliased,
    )


def _planned(built: BuiltExperiment, params: Any) -> list[PlannedCollective]:
    experiment, mesh = built.experiment, built.mesh
    dtype = compute_dtype(experiment)
    parts = experiment.training.gradient_accumulation_steps
    family = family_of(experiment.model)
    sequences = sequences_per_step(experiment) // sharding.data_parts(mesh)
    return [
        *planned_collectives(params, dtype, mesh, parts, family.splits_time),
        *family.planned_activations(experiment.model, sequences, dtype, mesh.shape),
    ]


def fits(memory: DeviceMemory, device: Accelerator, exact: bool = False) -> bool | None:
    """Returns whether the step fits; None if only the lower bound fits, not the compiled program.

    Programs compiled for CPUs need more memory than others: their matrix products are float32, and
    they sum whole gradients before splitting them.

    Args:
      exact: whether the accelerator's own compiler planned the memory.
    """
    usable = USABLE * device.memory_bytes
    if memory.total <= usable:
        return True
    return False if exact or memory.lower_bound > usable else None
