"""Learning rates as functions of the step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm_jax.choices import choose
from lm_jax.config.experiment import ScheduleConfig


class Schedule(NamedTuple):
    """A shape of the learning rate after its warm-up.

    Steps are counted from 1: the n-th step of a run has index n - 1.
    """

    shape: Callable[[ScheduleConfig, int], optax.Schedule]
    """(configuration, steps of the run) -> (n - `warmup_steps`) -> rate of the n-th step."""

    steps_before_decay: Callable[[ScheduleConfig, int], int]
    """(configuration, steps of the run) -> first steps whose rates every longer run has too."""


def learning_rate_schedule(config: ScheduleConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate of each step index: a linear warm-up, then the named shape.

    Rates follow n, the index + 1: no step has rate 0, and the last one has the last rate of the
    shape. The warm-up reaches the peak at n = `warmup_steps`. `linear` and `cosine` fall to
    `final_fraction` of the peak at n = `num_steps`; `rsqrt` falls as 1/sqrt(n) from the warm-up's
    end (Vaswani et al. 2017, eq. 3); `wsd` stays at the peak until the last `decay_fraction` of
    the steps, then falls linearly (Hagele et al. 2024).

    Raises:
      UserError: there is no schedule of this name.
    """
    shape = choose(SCHEDULES, config.name, "schedule.name").shape(config, num_steps)
    warmup = config.warmup_steps
    if not warmup:
        return lambda step: shape(step + 1)
    warm_up = optax.linear_schedule(0.0, config.peak_learning_rate, warmup)

    def rate(step: Any) -> jax.Array:
        return jnp.where(step < warmup, warm_up(step + 1), shape(step + 1 - warmup))

    return rate


def steps_before_decay(config: ScheduleConfig, num_steps: int) -> int:
    """Returns how many first steps of a run have the learning rates of every longer run.

    These are all steps of `constant` and `rsqrt`, and the steps of `wsd` before its decay. For
    `linear` and `cosine`, which share at most a warm-up, the number is 0.
    """
    schedule = choose(SCHEDULES, config.name, "schedule.name")
    return schedule.steps_before_decay(config, num_steps)


def _constant(config: ScheduleConfig, num_steps: int) -> optax.Schedule:
    return optax.constant_schedule(config.peak_learning_rate)


def _linear(config: ScheduleConfig, num_steps: int) -> optax.Schedule:
    peak = config.peak_learning_rate
    final = config.final_fraction * peak
    return optax.linear_schedule(peak, final, num_steps - config.warmup_steps)


def _cosine(config: ScheduleConfig, num_steps: int) -> optax.Schedule:
    steps = num_steps - config.warmup_steps
    return optax.cosine_decay_schedule(
        config.peak_learning_rate, steps, alpha=config.final_fraction
    )


def _rsqrt(config: ScheduleConfig, num_steps: int) -> optax.Schedule:
    peak, warmup = config.peak_learning_rate, config.warmup_steps
    first = max(warmup, 1)

    def shape(step: Any) -> jax.Array:
        return peak * jnp.sqrt(first / jnp.maximum(step + warmup, first))

    return shape


def _wsd(config: ScheduleConfig, num_steps: int) -> optax.Schedule:
    peak, decay = config.peak_learning_rate, _decay_steps(config, num_steps)
    stable = num_steps - config.warmup_steps - decay
    fall = optax.linear_schedule(peak, config.final_fraction * peak, decay)

    def shape(step: Any) -> jax.Array:
        # Before the decay it is the peak exactly, as in a longer run, and not up to rounding.
        return jnp.where(step <= stable, peak, fall(step - stable))

    return shape


def _decay_steps(config: ScheduleConfig, num_steps: int) -> int:
    """Returns the number of steps in which `wsd` falls."""
    return min(round(config.decay_fraction * num_steps), num_steps - config.warmup_steps)


SCHEDULES = {
    "constant": Schedule(_constant, lambda config, num_steps: num_steps),
    "linear": Schedule(_linear, lambda config, num_steps: 0),
    "cosine": Schedule(_cosine, lambda config, num_steps: 0),
    "rsqrt": Schedule(_rsqrt, lambda config, num_steps: num_steps),
    "wsd": Schedule(_wsd, lambda config, num_steps: num_steps - _decay_steps(config, num_steps)),
}
