"""Reads the state of an experiment from its checkpoints, on its mesh."""

from collections.abc import Callable

import jax

from lm_jax.build import BuiltExperiment
from lm_jax.models.interface import Variables
from lm_jax.models.parameters import path_of
from lm_jax.parallel import sharding
from lm_jax.training import state
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.training.state import TrainState, variables_of


def abstract_state(built: BuiltExperiment) -> TrainState | None:
    """Returns the shapes of checkpoints; None for count-based models, whose data decides them."""
    if built.model.is_count_based:
        return None
    return state.abstract_state(built.model, built.optimizer, built.example, built.mesh)


def restore(
    built: BuiltExperiment, checkpoints: Checkpoints, which: str, log: Callable[[str], None]
) -> tuple[int, TrainState]:
    """Returns the step and the state of a checkpoint, on the experiment's mesh.

    Raises:
      UserError: there is no such checkpoint, or none that can be read.
    """
    shapes = abstract_state(built)
    if shapes is not None:
        checkpoints.refuse_other_shapes(which, shapes.params)
    step, state = checkpoints.restore(shapes, which, log)
    if isinstance(state, dict):
        state = sharding.replicated(TrainState(**state), built.mesh)
    return step, state


def restore_variables(
    built: BuiltExperiment, checkpoints: Checkpoints, which: str, log: Callable[[str], None]
) -> tuple[int, Variables]:
    """Returns the step and the variables of a checkpoint; the optimizer's state is not read.

    Raises:
      UserError: as `restore`.
    """
    shapes = abstract_state(built)
    if shapes is None:
        step, state = restore(built, checkpoints, which, log)
        return step, variables_of(state)
    checkpoints.refuse_other_shapes(which, shapes.params)
    step, found = checkpoints.restore(shapes, which, log, parts=("params", "stats"))
    return step, {"params": found["params"], **found["stats"]}


def merged_variables(built: BuiltExperiment, variables: Variables) -> Variables:
    """Returns the variables that a run is read with: low-rank updates are in their kernels."""
    if built.model.merge is None:
        return variables
    shapes = jax.eval_shape(built.model.merge, variables)
    kept = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(variables)}
    shardings = jax.tree_util.tree_map_with_path(
        lambda path, _: kept[path_of(path)].sharding, shapes
    )
    return jax.jit(built.model.merge, out_shardings=shardings)(variables)
