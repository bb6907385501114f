"""The train step of an experiment, compiled for devices that need not exist: what it will take."""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lm_jax.build import BuiltExperiment, compute_dtype
from lm_jax.config.experiment import sequences_per_step
from lm_jax.costs import hlo
from lm_jax.costs.accelerators import USABLE, Accelerator
from lm_jax.costs.collectives import PlannedCollective, planned_activations, planned_collectives
from lm_jax.costs.model_flops import training_flops
from lm_jax.models import family_of
from lm_jax.parallel import sharding
from lm_jax.training.optimizers import is_head
from lm_jax.training.state import TrainState, abstract_state


class Placed(NamedTuple):
    """A parameter and its part on one device."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[Any, ...]  # of the mesh, for each dimension
    local_shape: tuple[int, ...]
    local_bytes: int


class Held(NamedTuple):
    """Bytes on each device by arithmetic, from shapes and shardings: what no compiler can spare."""

    parameters: int
    optimizer_state: int
    gradients: int
    batch: int


class Memory(NamedTuple):
    """Bytes on each device: what is `Held`, and what the compiled program takes."""

    parameters: int
    optimizer_state: int
    gradients: int
    batch: int
    # Of the compiled program.
    arguments: int  # the state and the batch; the new state takes the old one's place
    temporaries: int  # gradients, activations, gathered parameters
    total: int

    @property
    def least(self) -> int:
        """What no compiler can do without: state, gradients and batch."""
        return self.parameters + self.optimizer_state + self.gradients + self.batch


class Compiled(NamedTuple):
    """A train step, of one device unless said otherwise."""

    placed: list[Placed]
    memory: Memory
    model_flops: float  # its share of `training_flops`
    work: hlo.Work
    xla_flops: float | None  # XLA's cost analysis, which counts the body of a loop once
    planned: list[PlannedCollective]  # exchanges without which the step cannot be
    compile_seconds: float


# Nothing that is compiled here runs, so its machine code need not be good.
_QUICKLY: dict[str, str | bool] = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}


def compile_step(built: BuiltExperiment) -> Compiled:
    """Compiles the train step on the mesh of the program; no array is allocated.

    The devices of the mesh may be simulated: see `jax_num_cpu_devices`. XLA's memory and
    collectives are those of the backend whose devices they are.
    """
    mesh = built.mesh
    state, batch = _arguments(built)
    # A loop over steps hands the state on as it took it.
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(built.train_step, donate_argnums=0, out_shardings=(shardings, None))
    start = time.monotonic()
    with sharding.on_mesh(mesh):
        compiled = step.lower(state, batch).compile(_QUICKLY)
    compile_seconds = time.monotonic() - start
    costs = compiled.cost_analysis() or {}
    return Compiled(
        placed=placed_parameters(state.params),
        memory=_memory(compiled.memory_analysis(), _held(state, batch)),
        model_flops=step_flops(built) / mesh.size,
        work=hlo.read_work(compiled.as_text() or ""),
        xla_flops=costs.get("flops"),
        planned=_planned(built, state.params),
        compile_seconds=compile_seconds,
    )


def held(built: BuiltExperiment) -> Held:
    """What a train step holds whatever compiles it; nothing is compiled or allocated."""
    return _held(*_arguments(built))


def step_flops(built: BuiltExperiment) -> int:
    """FLOPs of the matrix products of one train step, over all devices: see `training_flops`."""
    head_only = built.experiment.fine_tuning.parameters == "head"
    shapes = batch_shapes(built)
    return training_flops(built.model, shapes, is_head(built.declarations) if head_only else None)


def _arguments(built: BuiltExperiment) -> tuple[TrainState, dict[str, jax.ShapeDtypeStruct]]:
    """A state and a batch as they lie on the mesh."""
    mesh = built.mesh
    state = abstract_state(built.model, built.optimizer, built.example, mesh)
    where = sharding.batch_sharding(mesh)
    return state, jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), batch_shapes(built)
    )


def batch_shapes(built: BuiltExperiment) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a whole training batch whose rows hold several documents."""
    experiment = built.experiment
    sequences = sequences_per_step(experiment)
    batch = dict(built.objective.example(experiment, sequences))
    inputs = batch["inputs"]
    shape = inputs.shape if built.objective.fixed_rows else inputs.shape[:1]
    for name in ("targets", *built.objective.packed):
        batch[name] = jax.ShapeDtypeStruct(shape, jnp.int32)
    return batch | {"weights": jax.ShapeDtypeStruct(shape, jnp.float32)}


def bytes_per_device(tree: Any) -> int:
    """What one device holds of arrays, or of `ShapeDtypeStruct`s with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def placed_parameters(params: Any) -> list[Placed]:
    """Where each parameter lies."""
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(str(getattr(part, "key", part)) for part in path)
        spec = (*leaf.sharding.spec, *(None,) * (leaf.ndim - len(leaf.sharding.spec)))
        local = leaf.sharding.shard_shape(leaf.shape)
        rows.append(Placed(name, leaf.shape, spec, local, bytes_per_device(leaf)))
    return rows


def _held(state: TrainState, batch: Any) -> Held:
    parameters = bytes_per_device(state.params)
    return Held(
        parameters=parameters,
        optimizer_state=bytes_per_device(state.opt_state),
        gradients=parameters,  # of the same shape, dtype and sharding
        batch=bytes_per_device(batch),
    )


def _memory(analysis: Any, by_arithmetic: Held) -> Memory:
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    not_aliased = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(
        *by_arithmetic,
        arguments=arguments,
        temporaries=temporaries,
        total=arguments + temporaries + not_aliased,
    )


def _planned(built: BuiltExperiment, params: Any) -> list[PlannedCollective]:
    experiment, mesh = built.experiment, built.mesh
    dtype = compute_dtype(experiment)
    parts = experiment.training.gradient_accumulation_steps
    splits_time = family_of(experiment.model).splits_time
    planned = planned_collectives(params, dtype, mesh, parts, splits_time)
    if splits_time:
        sequences = sequences_per_step(experiment) // sharding.data_parts(mesh)
        planned += planned_activations(experiment.model, sequences, dtype, mesh)
    return planned


def fits(memory: Memory, device: Accelerator) -> bool | None:
    """Whether the step fits; None: the compiled program does not, but what it must hold does.

    Programs compiled for a CPU hold more than others: products in float32, and gradients summed
    whole before they are split.
    """
    usable = USABLE * device.memory_bytes
    if memory.total <= usable:
        return True
    return False if memory.least > usable else None
