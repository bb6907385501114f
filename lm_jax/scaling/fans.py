"""Runs of one shape trained together, as one program: fans of learning rates, decays and seeds.

Small runs leave most of a device idle; side by side they are larger products. Each run has its own
parameters, batches and schedule, and comes to what it comes to alone, but for rounding.

Axes: r runs, n steps.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import evaluation, programs, sharding, training
from lm_jax import experiment as experiments
from lm_jax.experiment import Experiment
from lm_jax.optimizers import learning_rate_schedule
from lm_jax.training import TrainState

# What runs of one fan may differ in: numbers that the step reads, not what it is.
FREE = ("seed", "schedule", "optimizer.weight_decay")
# A fan is at one step, and all else is stacked.
_STACKED = TrainState(None, 0, 0, 0, 0)  # type: ignore[arg-type]


class Trained(NamedTuple):
    """What one run of a fan came to."""

    losses: (
        np.ndarray
    )  # float32 [n]: of each step, nats a target; not finite from where it diverged
    validation: dict[int, dict[str, Any]]  # measures by step, as of `programs.measure`
    state: TrainState


def shape_of(experiment: Experiment) -> str:
    """The same text for experiments that can be trained as one fan."""
    found = experiments.to_dict(experiment)
    for path in FREE:
        *parts, name = path.split(".")
        inner = found
        for part in parts:
            inner = inner[part]
        del inner[name]
    return json.dumps(found, sort_keys=True)


def fans_of(runs: Mapping[str, Experiment]) -> list[list[str]]:
    """The names of runs, those that can be trained together in one list; in the order given."""
    found: dict[str, list[str]] = {}
    for name, experiment in runs.items():
        found.setdefault(shape_of(experiment), []).append(name)
    return list(found.values())


def train(
    fan: Sequence[Experiment],
    dataset: Any,
    devices: Sequence[jax.Device] | None = None,
) -> list[Trained]:
    """Trains experiments of one shape together, each to its end.

    Args:
      dataset: of `data.prepare`, which all of them read.
      devices: where the mesh of the experiments is; None: all there are.

    Raises:
      ValueError: there are none, they are not of one shape, or they count instead of descending.
      NonFiniteLoss: all of them have diverged.
    """
    if len({shape_of(experiment) for experiment in fan}) != 1:
        raise ValueError(
            f"{len(fan)} runs are not of one shape; runs of a fan differ in {', '.join(FREE)} alone"
        )
    sizes = dataset.description["sizes"]
    members = [programs.compile_experiment(experiment, sizes, devices) for experiment in fan]
    first = members[0]
    if first.model.fit is not None:
        raise ValueError("a model that counts has no steps; train it alone")
    losses: list[np.ndarray] = []
    measured: list[dict[int, dict[str, Any]]] = [{} for _ in fan]
    loss_of = evaluation.make_loss_function(first.model)

    def evaluate(step: int, state: TrainState) -> None:
        for index, member in enumerate(members):
            variables = training.variables_of(_member(state, index))
            measured[index][step] = programs.measure(
                member,
                loss_of,
                variables,
                dataset.validation,
                dataset.tokenizer,
                member.experiment.evaluation,
            )

    hooks = training.Hooks(
        log=lambda step, metrics: losses.append(metrics["loss"]),
        evaluate=evaluate,
        save=lambda step, state: None,
        stop_requested=lambda step: False,
    )
    steps = training.jit_train_steps(make_train_step(members))
    state = init_state(members)
    with sharding.on_mesh(first.mesh):
        state = training.fit(
            steps,
            state,
            _Batches([programs.training_batches(member, dataset) for member in members]),
            first.experiment,
            first.mesh,
            hooks,
            runs=len(fan),
        )
    of_runs = np.concatenate(losses).T
    return [
        Trained(of_runs[index], measured[index], _member(state, index)) for index in range(len(fan))
    ]


def init_state(members: Sequence[programs.Program]) -> TrainState:
    """The first states of all runs, stacked; each is what the run starts from alone."""
    states = [
        training.init_state(p.model, p.optimizer, p.example, p.mesh, p.experiment.seed)
        for p in members
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return stacked._replace(step=states[0].step)


def make_train_step(members: Sequence[programs.Program]) -> training.TrainStep:
    """The train step of all runs on stacked states and batches [r, B, ...]; metrics are [r].

    Schedules enter as tables of their learning rates, so that any two can be in one fan.
    """
    configs = [member.experiment for member in members]
    num_steps = configs[0].training.num_steps
    rates_rn = jnp.stack(
        [
            jnp.asarray(
                jax.vmap(learning_rate_schedule(config.schedule, num_steps))(jnp.arange(num_steps)),
                jnp.float32,
            )
            for config in configs
        ]
    )
    decays_r = jnp.array([config.optimizer.weight_decay for config in configs], jnp.float32)

    def of_one(rates_n: jax.Array, decay: jax.Array, state: TrainState, batch: Any):
        _, train_step = programs.make_training(
            configs[0], members[0].model, lambda step: rates_n[step], decay
        )
        return train_step(state, batch)

    of_all = jax.vmap(of_one, in_axes=(0, 0, _STACKED, 0), out_axes=(_STACKED, 0))
    return lambda state, batch: of_all(rates_rn, decays_r, state, batch)


def _member(state: TrainState, index: int) -> TrainState:
    """The state of one run of a fan."""
    rest = jax.tree.map(lambda x: x[index], state._replace(step=None))  # type: ignore[arg-type]
    return rest._replace(step=state.step)


class _Batches:
    """The batches of all runs, stacked [r, B, ...]; the same where seeds are the same."""

    def __init__(self, of_runs: Sequence[training.Batches]):
        self._of_runs = of_runs

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        batches = [batches[step] for batches in self._of_runs]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
