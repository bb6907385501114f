"""Several runs of one shape as one program: learning rates, weight decays and seeds side by side.

Small runs leave most of a device idle; side by side their matrix products are larger. Each run has
its own parameters, batches and schedule, and its results equal those of the run alone up to
rounding. A group of one run is the run itself, bit for bit.

Axes: r runs, n steps.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import data
from lm_jax.build import BuiltExperiment, make_training, training_batches
from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import flat_without
from lm_jax.data.interface import Batches
from lm_jax.errors import UserError
from lm_jax.models.interface import Batch
from lm_jax.runs.origin import continued
from lm_jax.training.schedules import learning_rate_schedule
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import TrainStep

# The fields in which runs of one group may differ: numbers that the step reads.
FREE = ("seed", "schedule", "optimizer.weight_decay")
# A group is at one step; everything else has an axis of runs.
_STACKED = TrainState(None, 0, 0, 0, 0)  # type: ignore[arg-type]


def _shape_of(experiment: Experiment) -> str:
    """Returns a text that is equal for experiments that can be trained as one group."""
    return json.dumps(flat_without(experiment, FREE), sort_keys=True)


def groups_of(runs: Mapping[str, Experiment]) -> list[list[str]]:
    """Returns the names of runs, one list for each group that can be trained together."""
    found: dict[str, list[str]] = {}
    for name, experiment in runs.items():
        # Runs that may end early end at different steps: each is a group of its own.
        alone = name if experiment.training.stop_after_no_improvement else ""
        found.setdefault(_shape_of(experiment) + alone, []).append(name)
    return list(found.values())


def refuse_several_shapes(experiments: Sequence[Experiment]) -> None:
    """Raises UserError unless the experiments can be trained as one group."""
    if len({_shape_of(experiment) for experiment in experiments}) > 1:
        raise UserError(
            f"{len(experiments)} runs are not of one shape; runs of a group differ in "
            f"{', '.join(FREE)} only"
        )


class RunGroup(NamedTuple):
    """One or more built experiments of one shape, trained by one program.

    States, batches and metrics of several runs have them as an axis in front, all but `state.step`;
    those of a single run are its own.
    """

    members: list[BuiltExperiment]

    @property
    def is_single(self) -> bool:
        """Whether there is one run, which nothing is stacked for."""
        return len(self.members) == 1

    def validate(self) -> None:
        """Raises UserError if several runs cannot be trained as one program."""
        first = self.members[0]
        if self.is_single:
            return
        if first.model.is_count_based:
            raise UserError("a count-based model takes no steps; train it alone")
        if first.experiment.training.stop_after_no_improvement:
            raise UserError(
                "training.stop_after_no_improvement ends runs at different steps, and runs that "
                "are trained together take the same; set it to 0, or train the runs one by one"
            )
        if first.mesh.size > first.mesh.shape["data"]:
            raise UserError(
                "runs that are trained together split their batches only, and the mesh is "
                f"{first.experiment.mesh}; set mesh to data:-1, or train the runs one by one"
            )

    def train_step(self) -> TrainStep:
        """Returns the pure step on the state and the batch of the group."""
        return self.members[0].train_step if self.is_single else vmapped_step(self.members)

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """Returns the state of the group from states of its runs, all at the same step."""
        if self.is_single:
            return states[0]
        return _stacked(list(states))._replace(step=states[0].step)

    def member_state(self, state: TrainState, index: int) -> TrainState:
        """Returns the state of one run."""
        if self.is_single:
            return state
        rest = _member(state._replace(step=None), index)  # type: ignore[arg-type]
        return rest._replace(step=state.step)

    def member_metrics(
        self, metrics: Mapping[str, np.ndarray], index: int
    ) -> Mapping[str, np.ndarray]:
        """Returns the metrics [K] of one run from those of the group [K] or [K, r]."""
        if self.is_single:
            return metrics
        return {name: value[:, index] for name, value in metrics.items()}

    def batches(self, dataset: data.Dataset, extra_rows: Sequence[int]) -> Batches:
        """Returns the training batches of the group.

        Args:
          extra_rows: of each run, `lm_jax.runs.origin.rows_passed`.
        """
        found = [
            continued(training_batches(member, dataset), extra, member.experiment)
            for member, extra in zip(self.members, extra_rows, strict=True)
        ]
        return found[0] if self.is_single else _StackedBatches(found)


def vmapped_step(members: Sequence[BuiltExperiment]) -> TrainStep:
    """Returns the step of several runs on stacked states and batches [r, B, ...]; metrics are [r].

    Schedules enter as tables of their learning rates, so that any two can be in one group.
    """
    configs = [member.experiment for member in members]
    steps_n = jnp.arange(configs[0].training.num_steps)
    rates_rn = jnp.stack(
        [
            jax.vmap(learning_rate_schedule(config.schedule, len(steps_n)))(steps_n)
            for config in configs
        ]
    ).astype(jnp.float32)
    decays_r = jnp.array([config.optimizer.weight_decay for config in configs], jnp.float32)

    def step_of_one(rates_n: jax.Array, decay: jax.Array, state: TrainState, batch: Batch):
        _, train_step = make_training(
            configs[0],
            members[0].model,
            lambda step: rates_n[step],
            members[0].declarations,
            decay,
            members[0].fan_in_out,
        )
        return train_step(state, batch)

    step_of_all = jax.vmap(step_of_one, in_axes=(0, 0, _STACKED, 0), out_axes=(_STACKED, 0))
    return lambda state, batch: step_of_all(rates_rn, decays_r, state, batch)


# Jitted: one program for all leaves, and for each run the same.
@jax.jit
def _stacked(states: list[TrainState]) -> TrainState:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@jax.jit
def _member(state: TrainState, index: int) -> TrainState:
    return jax.tree.map(lambda x: x[index], state)


class _StackedBatches:
    """The batches of all runs, stacked [r, B, ...]; equal where seeds are equal."""

    def __init__(self, of_runs: Sequence[Batches]):
        self._of_runs = of_runs

    @property
    def note(self) -> str:
        """The note of the first run, whose data are those of all."""
        return self._of_runs[0].note

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts of the batches of the first run."""
        return self._of_runs[0].facts

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        batches = [batches[step] for batches in self._of_runs]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
