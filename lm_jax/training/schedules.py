"""Learning rates as functions of the step."""

import jax.numpy as jnp
import optax

from lm_jax.config.experiment import ScheduleConfig


def learning_rate_schedule(config: ScheduleConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of each step: a linear warm-up from 0, then the named shape.

    The warm-up reaches the peak after `warmup_steps`. `linear` and `cosine` fall to
    `final_fraction` of the peak at `num_steps`; `rsqrt` falls as 1/sqrt(step) from the warm-up's
    end (Vaswani et al. 2017, eq. 3); `wsd` stays at the peak until the last `decay_fraction` of
    the steps, then falls linearly (Hagele et al. 2024).
    """
    peak, warmup = config.peak_learning_rate, config.warmup_steps
    rest, final = num_steps - warmup, config.final_fraction * config.peak_learning_rate
    if config.name == "constant":
        shape = optax.constant_schedule(peak)
    elif config.name == "linear":
        shape = optax.linear_schedule(peak, final, rest)
    elif config.name == "cosine":
        shape = optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction)
    elif config.name == "rsqrt":
        offset = max(warmup, 1)
        shape = lambda step: peak * jnp.sqrt(offset / (offset + jnp.maximum(step, 0)))  # noqa: E731
    else:
        decay = _decay_steps(config, num_steps)
        stable = optax.constant_schedule(peak)
        fall = optax.linear_schedule(peak, final, decay)
        shape = optax.join_schedules([stable, fall], [rest - decay])
    if not warmup:
        return shape
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), shape], [warmup])


def steps_before_decay(config: ScheduleConfig, num_steps: int) -> int:
    """How many steps a run of `num_steps` takes at the learning rates that any longer one has.

    All of `constant` and `rsqrt`, of `wsd` those before its fall. Of `linear` and `cosine`, which
    share no more than a warm-up, none.
    """
    if config.name in ("linear", "cosine"):
        return 0
    return num_steps - (_decay_steps(config, num_steps) if config.name == "wsd" else 0)


def _decay_steps(config: ScheduleConfig, num_steps: int) -> int:
    """How many steps the fall of `wsd` takes."""
    return min(round(config.decay_fraction * num_steps), num_steps - config.warmup_steps)
