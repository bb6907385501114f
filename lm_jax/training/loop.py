"""The one training loop: a pure step on an explicit state, and the loop that feeds it."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.models.interface import Batch, Model
from lm_jax.parallel import sharding
from lm_jax.training.optimizers import is_head


class TrainState(NamedTuple):
    """All that a step reads and writes besides its batch."""

    step: jax.Array  # int32: optimizer steps done, which is also the position in the data
    key: jax.Array  # never changes; step s draws from fold_in(key, s)
    params: Any
    stats: Any  # non-gradient variables, such as running statistics; {} where there are none
    opt_state: Any


Shapes = Mapping[str, Any]  # arrays, or `ShapeDtypeStruct`s that stand for them
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def variables_of(state: TrainState) -> dict[str, Any]:
    """The variables that `Model.apply` takes."""
    return {"params": state.params, **state.stats}


def abstract_state(
    model: Model, optimizer: optax.GradientTransformation, batch: Shapes, mesh: Mesh
) -> TrainState:
    """The shapes, dtypes and shardings of a state; nothing is allocated.

    Args:
      batch: arrays or `ShapeDtypeStruct`s of any batch that the model takes.
    """
    boxed = jax.eval_shape(model.init, jax.random.key(0), batch)
    placed = sharding.variable_shardings(boxed, mesh)["params"]
    state = jax.eval_shape(_creator(model, optimizer, batch), jax.random.key(0))
    shardings = sharding.state_shardings(state, state.params, placed, mesh)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings
    )


def state_bytes(model: Model, optimizer: optax.GradientTransformation, batch: Shapes) -> int:
    """What parameters, their gradients and the optimizer's state take in all."""
    state = jax.eval_shape(_creator(model, optimizer, batch), jax.random.key(0))
    leaves = jax.tree.leaves((state.params, state.params, state.opt_state))
    return sum(x.size * x.dtype.itemsize for x in leaves)


def init_state(
    model: Model, optimizer: optax.GradientTransformation, batch: Shapes, mesh: Mesh, seed: int
) -> TrainState:
    """A fresh state, created already split over the mesh."""
    abstract = abstract_state(model, optimizer, batch, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(_creator(model, optimizer, batch), out_shardings=shardings)(jax.random.key(seed))


def _creator(model: Model, optimizer: optax.GradientTransformation, batch: Shapes):
    def create(key: jax.Array) -> TrainState:
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
        variables = dict(sharding.unboxed(model.init(key, zeros)))
        params = variables.pop("params")
        return TrainState(jnp.int32(0), key, params, variables, optimizer.init(params))

    return create


def counted_state(variables: Any, seed: int) -> TrainState:
    """The state after the one step of a model that counts, on one device."""
    return TrainState(jnp.int32(1), jax.random.key(seed), variables["params"], {}, ())


def inherit(state: TrainState, variables: Mapping[str, Any]) -> tuple[TrainState, int, int]:
    """The state with the variables of another run, how many arrays that is, and how many not.

    An array is taken over where its path and its shape agree, and of a longer table of learned
    positions its beginning; the optimizer starts afresh.
    """
    theirs = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables))
    }
    taken: list[bool] = []

    def choose(path: Any, leaf: jax.Array) -> jax.Array:
        found = theirs.get(jax.tree_util.keystr(path))
        if found is not None and getattr(path[-1], "key", None) == "positions":
            found = found[: len(leaf)]
        taken.append(found is not None and found.shape == leaf.shape)
        if not taken[-1]:
            return leaf
        return sharding.placed(jnp.asarray(found, leaf.dtype), leaf.sharding)

    ours = jax.tree_util.tree_map_with_path(choose, variables_of(state))
    params = ours.pop("params")
    return state._replace(params=params, stats=ours), sum(taken), len(taken) - sum(taken)


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    gradient_accumulation_steps: int = 1,
    head_only: bool = False,
    label_smoothing: float = 0.0,
) -> TrainStep:
    """The pure `train_step(state, batch) -> state, metrics`.

    The loss is the weighted mean of the cross-entropy over the whole batch, in nats, also when
    the gradient is accumulated over parts of it whose weights differ. With `head_only` the rest of
    the model extracts features as in evaluation: no dropout, running statistics as they are, and
    no backward pass through it. With `label_smoothing` a target is that share uniform over the
    vocabulary (Szegedy et al. 2016, section 7), and so is the loss.

    Raises:
      UserError: when traced, the model does not give what smoothing needs.
    """

    def mean_loss(params, stats, batch, total_weight, key):
        if head_only:
            params = jax.tree.map(
                lambda x, head: x if head else jax.lax.stop_gradient(x), params, is_head(params)
            )
        variables = {"params": params, **stats}
        losses, new_stats = model.loss(variables, batch, train=not head_only, key=key)
        nats = losses.nats
        if label_smoothing:
            if losses.uniform_nats is None:
                raise UserError("label smoothing needs `Losses.uniform_nats` of the model")
            nats = (1 - label_smoothing) * nats + label_smoothing * losses.uniform_nats
        mean = jnp.sum(nats * batch["weights"]) / total_weight
        return mean, stats if head_only else new_stats

    def gradients(state: TrainState, batch: Batch, key: jax.Array):
        total_weight = jnp.sum(batch["weights"])
        value_and_grad = jax.value_and_grad(mean_loss, has_aux=True)
        parts = gradient_accumulation_steps
        if parts == 1:
            return value_and_grad(state.params, state.stats, batch, total_weight, key)

        def accumulate(carry, part):
            (loss, stats), total = carry
            microbatch, index = part
            (part_loss, stats), grads = value_and_grad(
                state.params, stats, microbatch, total_weight, jax.random.fold_in(key, index)
            )
            return ((loss + part_loss, stats), jax.tree.map(jnp.add, total, grads)), None

        # Part i takes rows i, i + parts, ...: each device keeps rows that it already holds.
        split = jax.tree.map(
            lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), dict(batch)
        )
        zero = ((jnp.float32(0), state.stats), jax.tree.map(jnp.zeros_like, state.params))
        return jax.lax.scan(accumulate, zero, (split, jnp.arange(parts)))[0]

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        (loss, stats), grads = gradients(state, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.global_norm(grads),
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "targets": jnp.sum(batch["weights"]),
        }
        return TrainState(state.step + 1, state.key, params, stats, opt_state), metrics

    return train_step


def jit_train_steps(train_step: TrainStep) -> TrainStep:
    """Several steps as one dispatch: batches stacked [K, B, ...] to metrics stacked [K]."""

    def train_steps(state: TrainState, batches: Batch):
        return jax.lax.scan(train_step, state, dict(batches))

    return jax.jit(train_steps, donate_argnums=0)


class Batches(Protocol):
    """Random access to the batches of a run: `batches[step]` depends on nothing else."""

    def __getitem__(self, step: int) -> Mapping[str, np.ndarray]: ...


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
