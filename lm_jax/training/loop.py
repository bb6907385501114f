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
from lm_jax.training.schedules import steps_before_decay
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import TrainStep


class NonFiniteLoss(UserError):
    """A loss or a gradient is not a finite number, once too often."""


class Hooks(NamedTuple):
    """What happens around the steps; every function is called between two dispatches."""

    log: Callable[[int, Mapping[str, np.ndarray]], None]
    """(last step, metrics of the steps of one dispatch [K]), one dispatch late."""

    evaluate: Callable[[int, TrainState], bool]
    """(step, state) -> whether training goes on; the same on all processes."""

    save: Callable[[int, TrainState], None]
    stop_requested: Callable[[int], bool]
    """(last step) -> whether to save and stop there; the same on all processes."""

    record_time: Callable[[str], None] = lambda activity: None
    """(activity of `goodput`) -> None, called after each activity to attribute the time elapsed.

    Batches made while the device works cost nothing and count as `steps`. Where the device is idle
    when they are ready, all of their time counts as `input`, which overstates it."""


def fit(
    train_steps: TrainStep,
    state: TrainState,
    batches: Batches,
    experiment: Experiment,
    mesh: Mesh,
    hooks: Hooks,
    num_runs: int | None = None,
    save_at: Collection[int] = (),
) -> TrainState:
    """Returns the state after `training.num_steps` steps, or where a hook ends or stops training.

    The host stays one dispatch ahead of the device: it prepares and sends the next batches before
    it reads the metrics of the last. `train_steps` (from `jit_train_steps`) consumes `state`.

    Args:
      num_runs: number of runs that are trained together; the state except `step`, the batches and
        the metrics then have them as an axis in front.
      save_at: further steps whose states are saved, where they end a dispatch (`end_of_dispatch`).

    A state is logged before it reaches `hooks.save`, so `hooks.log` may raise before it is saved.
    """
    num_steps = experiment.training.num_steps
    stacked = sharding.batch_sharding(mesh, leading_axes=1 if num_runs is None else 2)

    def read(last_step: int, metrics: Mapping[str, jax.Array]) -> None:
        values = {name: np.asarray(value) for name, value in metrics.items()}
        hooks.record_time("steps")
        hooks.log(last_step, values)
        hooks.record_time("logging")

    step = int(state.step)
    hooks.record_time("starting")
    pending = None
    compiled: set[int] = set()  # lengths of dispatches
    while step < num_steps:
        end = end_of_dispatch(step, experiment)
        placed = sharding.place_batch(_stacked(batches, step, end), stacked)
        is_idle = pending is None or _is_done(pending[1]["loss"])
        hooks.record_time("input" if is_idle else "steps")
        state, metrics = train_steps(state, placed)
        hooks.record_time("dispatch" if end - step in compiled else "compiling")
        compiled.add(end - step)
        if pending:
            read(*pending)
        pending, step = (end, metrics), end

        stop = hooks.stop_requested(step)
        evaluates = _is_due(step, experiment.evaluation.every_steps, num_steps)
        saves = _is_due(step, experiment.checkpoint.every_steps, num_steps)
        saves = saves or stop or step in save_at
        if evaluates or saves:
            read(*pending)
            pending = None
        ends = False
        if evaluates:
            ends = not hooks.evaluate(step, state)
            hooks.record_time("evaluation")
        if saves or ends:
            hooks.save(step, state)
            hooks.record_time("checkpoints")
        if stop or ends:
            break
    return state


def _stacked(batches: Batches, first: int, end: int) -> dict[str, np.ndarray]:
    """Returns the batches of the steps after `first`, up to `end`, stacked on an axis in front."""
    rows = [batches[index] for index in range(first, end)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _is_due(step: int, every: int, num_steps: int) -> bool:
    """Returns whether a step is the last one, or one at an interval of steps; 0: none is."""
    return step == num_steps or (every > 0 and step % every == 0)


class SkippedInARow:
    """Ends a run whose updates are all skipped.

    Args:
      most: skipped updates in a row after which it ends.
      advice: (last step) -> what the error says besides, at its end.
    """

    def __init__(self, most: int, advice: Callable[[int], str] = lambda step: ""):
        self._most, self._advice, self._count = most, advice, 0

    def check(self, last_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Raises NonFiniteLoss if too many updates up to this step, [K], were skipped in a row."""
        for index, skipped in enumerate(metrics["skipped"]):
            self._count = self._count + 1 if skipped else 0
            if self._count == self._most:
                step = last_step - len(metrics["skipped"]) + 1 + index
                why = _why(step, self._count, metrics, index)
                raise NonFiniteLoss(why + self._advice(step))


def _why(step: int, count: int, metrics: Mapping[str, np.ndarray], index: int) -> str:
    """Returns why a run ends whose last updates were skipped."""
    loss, norm = metrics["loss"][index], metrics["gradient_norm"][index]
    if np.isfinite(loss):
        loss = metrics.get("total_loss", metrics["loss"])[index]
    last = f"the last {count} updates were skipped" if count > 1 else "the update was skipped"
    if "targets" in metrics and not metrics["targets"][index]:
        return (
            f"the batch of step {step} has no target that counts, so its loss is {loss}: {last}; "
            "use other data or larger batches"
        )
    what = f"the loss of step {step} is {loss}{_cause(metrics, index)}"
    if np.isfinite(loss):
        what = f"the gradient of step {step} has the norm {norm}, its loss is {loss:.4g}"
    advice = "lower schedule.peak_learning_rate or optimizer.clip_norm, or warm up longer"
    if "loss_scale" in metrics:
        advice = f"compute in bfloat16 (compute_dtype), {advice}"
    return f"{what}: {last}, and nothing was saved since; {advice}"


def _cause(metrics: Mapping[str, np.ndarray], index: int) -> str:
    """Returns what made the trained loss of a step infinite if its cross-entropy did not."""
    if not np.isfinite(metrics["loss"][index]):
        return ""
    own = ("total_loss", "gradient_norm", "skipped")
    broken = [n for n, values in metrics.items() if n not in own and not np.isfinite(values[index])]
    named = ", ".join(broken) or "the coefficient of an auxiliary loss"
    return f", because {named} is not finite"


def _is_done(x: jax.Array) -> bool:
    return x.is_ready()  # type: ignore[attr-defined]


def end_of_dispatch(step: int, experiment: Experiment) -> int:
    """Returns the step at which the dispatch that starts at `step` ends.

    A function of the step and the experiment, so that a resumed run groups its steps as an
    uninterrupted one does: XLA may compile groups of different lengths to different roundings. A
    run whose first dispatch would reach into its decay ends one before it, to be forked there. The
    first dispatch of a fork that begins within one of the longer run ends with that.
    """
    num_steps, per_call = experiment.training.num_steps, experiment.training.steps_per_call
    ends = [last_dispatch_end(step, experiment) + per_call, num_steps]
    before_decay = steps_before_decay(experiment.schedule, num_steps)
    if step < before_decay < num_steps and not last_dispatch_end(before_decay, experiment):
        ends.append(before_decay)
    for every in (experiment.evaluation.every_steps, experiment.checkpoint.every_steps):
        if every:
            ends.append((step // every + 1) * every)
    return min(ends)


def last_dispatch_end(step: int, experiment: Experiment) -> int:
    """Returns the last step up to this one at which a dispatch ends, in a run of any length."""
    every = (experiment.evaluation.every_steps, experiment.checkpoint.every_steps)
    begin = max((step // n * n for n in every if n), default=0)
    return step - (step - begin) % experiment.training.steps_per_call
