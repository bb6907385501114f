"""The one training loop: a pure step on an explicit state, and the loop that feeds it."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lm_jax.config.experiment import Experiment
from lm_jax.data.interface import Batches
from lm_jax.errors import UserError
from lm_jax.parallel import sharding
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import TrainStep


class NonFiniteLoss(UserError):
    """The loss is no longer a number; the state must not be saved."""


class Hooks(NamedTuple):
    """What happens around the steps; every function is called between two dispatches."""

    log: Callable[[int, Mapping[str, np.ndarray]], None]
    """(last step, metrics of the steps of one dispatch [K]), one dispatch late."""

    evaluate: Callable[[int, TrainState], None]
    save: Callable[[int, TrainState], None]
    stop_requested: Callable[[int], bool]
    """(last step) -> whether to save and stop there; the same on all processes."""

    spent: Callable[[str], None] = lambda activity: None
    """(activity of `goodput`) -> None, told after each what the time since the last call went to.

    Batches made while the device was at work cost nothing and count as `steps`; where it is found
    idle when they are ready, all that they took counts as `input`, which it can only overstate."""


def fit(
    train_steps: TrainStep,
    state: TrainState,
    batches: Batches,
    experiment: Experiment,
    mesh: Mesh,
    hooks: Hooks,
    runs: int | None = None,
    save_at: Collection[int] = (),
) -> TrainState:
    """The state after `training.num_steps` steps, or after the step where a stop was requested.

    The host stays one dispatch ahead of the device: it prepares and sends the next batches before
    it reads the metrics of the last. `train_steps` (of `jit_train_steps`) consumes `state`.

    Args:
      runs: how many are trained together: all but `state.step` then has them as an axis in front,
        and so have batches and metrics.
      save_at: steps whose states are saved besides, of those at which a dispatch ends: see
        `last_dispatch_end`.

    Raises:
      NonFiniteLoss: before a state with a broken loss reaches `hooks.save`; of several runs
        `hooks.log` has to see to it.
    """
    num_steps = experiment.training.num_steps
    evaluate_every = experiment.evaluation.every_steps
    save_every = experiment.checkpoint.every_steps
    stacked = sharding.batch_sharding(mesh, leading_axes=1 if runs is None else 2)

    def read(last_step: int, metrics: Mapping[str, jax.Array]) -> None:
        values = {name: np.asarray(value) for name, value in metrics.items()}
        hooks.spent("steps")
        if runs is None:
            check_finite(last_step, values["loss"])
        hooks.log(last_step, values)
        hooks.spent("logging")

    step = int(state.step)
    hooks.spent("starting")
    pending = None
    compiled: set[int] = set()  # lengths of dispatches
    while step < num_steps:
        end = _end_of_dispatch(step, experiment)
        rows = [batches[index] for index in range(step, end)]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        placed = sharding.place_batch(batch, stacked)
        is_idle = pending is None or _is_done(pending[1]["loss"])
        hooks.spent("input" if is_idle else "steps")
        state, metrics = train_steps(state, placed)
        hooks.spent("dispatch" if len(rows) in compiled else "compiling")
        compiled.add(len(rows))
        if pending:
            read(*pending)
        pending, step = (end, metrics), end

        stop = hooks.stop_requested(step)
        evaluates = step == num_steps or (evaluate_every and step % evaluate_every == 0)
        saves = stop or step == num_steps or (save_every and step % save_every == 0)
        saves = saves or step in save_at
        if evaluates or saves:
            read(*pending)
            pending = None
        if evaluates:
            hooks.evaluate(step, state)
            hooks.spent("evaluation")
        if saves:
            hooks.save(step, state)
            hooks.spent("checkpoints")
        if stop:
            break
    return state


def check_finite(last_step: int, losses: np.ndarray) -> None:
    """Raises NonFiniteLoss if a loss of the steps up to this one, [K], is no number."""
    broken = np.flatnonzero(~np.isfinite(losses))
    if broken.size:
        at = last_step - len(losses) + 1 + int(broken[0])
        raise NonFiniteLoss(
            f"the loss of step {at} is {losses[broken[0]]}: nothing was saved since; "
            "lower schedule.peak_learning_rate or optimizer.clip_norm, or warm up longer"
        )


def _is_done(x: jax.Array) -> bool:
    return x.is_ready()  # type: ignore[attr-defined]


def _end_of_dispatch(step: int, experiment: Experiment) -> int:
    """The step at which the dispatch that starts at `step` ends.

    A function of the step alone, so that a resumed run groups its steps as an uninterrupted one
    does: XLA may compile groups of different lengths to different roundings.
    """
    ends = [step + experiment.training.steps_per_call, experiment.training.num_steps]
    for every in (experiment.evaluation.every_steps, experiment.checkpoint.every_steps):
        if every:
            ends.append((step // every + 1) * every)
    return min(ends)


def last_dispatch_end(step: int, experiment: Experiment) -> int:
    """The last step up to this one at which a dispatch ends, in a run of any length beyond it."""
    every = (experiment.evaluation.every_steps, experiment.checkpoint.every_steps)
    begin = max((step // n * n for n in every if n), default=0)
    return step - (step - begin) % experiment.training.steps_per_call
