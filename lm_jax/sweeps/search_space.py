"""Sweeps: named experiments, made from one by grids, random draws, ladders and IsoFLOP budgets."""

import copy
import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.build import expected_sizes
from lm_jax.config.experiment import Experiment
from lm_jax.config.serialization import decisive, flat
from lm_jax.costs.run_cost import cost_of
from lm_jax.errors import UserError
from lm_jax.models.transformer.model import TransformerConfig
from lm_jax.objectives import targets_per_step

_FEWEST_STEPS = 50  # whole steps then meet a budget to 1%


class Trial(NamedTuple):
    """One run of a sweep: what it trains, and what else its row of the results says."""

    experiment: Experiment
    labels: Mapping[str, Any] = {}  # columns by name, such as the budget that it belongs to


Sweep = Mapping[str, Experiment | Trial] | Sequence[tuple[str, Experiment | Trial]]
Distribution = Callable[[np.random.Generator], Any]
Values = Iterable[Any] | Mapping[str, Any]


def grid(base: Experiment, fields: Mapping[str, Values]) -> dict[str, Experiment]:
    """One experiment for each combination of values, the last field varying fastest.

    Names are as `peak_learning_rate=0.001,seed=0`. Values given as a mapping, such as a `ladder`
    for the field `model`, are called by its keys instead.

    Args:
      base: what all have in common; it stays as it is.
      fields: values by dotted path, such as `schedule.peak_learning_rate`.

    Raises:
      UserError: there is no such field, it takes other values, or it is given none.
    """
    choices = []
    for path, values in fields.items():
        short = _short(path, fields)
        if isinstance(values, Mapping):
            named = list(values.items())
        else:
            named = [(f"{short}={_shown(value)}", value) for value in values]
        if not named:
            raise UserError(f"{path} is given no values; give some, or leave it out")
        choices.append([(name, path, value) for name, value in named])
    found = {}
    for combination in itertools.product(*choices):
        name = ",".join(name for name, _, _ in combination)
        if name in found:
            raise UserError(f"two runs of the grid are called {name}; give each value once")
        found[name] = _with(base, {path: value for _, path, value in combination})
    return found


def draw(
    base: Experiment, fields: Mapping[str, Distribution], count: int, seed: int = 0
) -> dict[str, Experiment]:
    """`count` experiments with random values, named `draw=000` and so on.

    The first ones stay the same when `count` grows.

    Args:
      fields: by dotted path, a function of a generator, such as `log_uniform(1e-4, 1e-1)`.

    Raises:
      UserError: there is no such field, or it takes other values.
    """
    rng = np.random.default_rng(seed)
    return {
        f"draw={i:03}": _with(base, {path: choose(rng) for path, choose in fields.items()})
        for i in range(count)
    }


def uniform(low: float, high: float) -> Distribution:
    """Numbers from `low` to `high`, all alike. Raises UserError unless low < high."""
    _check_bounds(low, high)
    return lambda rng: float(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
    """Numbers whose logarithm is uniform. Raises UserError unless 0 < low < high."""
    _check_bounds(low, high, above=0)
    return lambda rng: float(math.exp(rng.uniform(math.log(low), math.log(high))))


def choice(values: Sequence[Any]) -> Distribution:
    """One of several values, all alike. Raises UserError if there are none."""
    if not len(values):
        raise UserError("a choice of no values; give some")
    return lambda rng: values[int(rng.integers(len(values)))]


def ladder(
    base: TransformerConfig, widths: Iterable[int], aspect_ratio: float, head_width: int = 64
) -> dict[str, TransformerConfig]:
    """Transformers of one shape in several sizes, by names such as `d256`.

    Args:
      base: what all have in common; a `d_ff` of 0 grows with the width.
      widths: `d_model` of each.
      aspect_ratio: `d_model / num_layers`, rounded to at least one layer (Kaplan et al. 2020,
        section 3.1, find that its value matters little and that it should be kept).
      head_width: of all of them; wider models have more heads.

    Raises:
      UserError: a width is no multiple of the head width, or the ratio is not positive.
    """
    if not aspect_ratio > 0:
        raise UserError(f"aspect_ratio is {aspect_ratio}; expected d_model / num_layers, above 0")
    found = {}
    for width in widths:
        if width < 1 or width % head_width:
            raise UserError(
                f"a width of {width} has no whole number of heads of {head_width}; choose a "
                "multiple, or another head_width"
            )
        found[f"d{width}"] = dataclasses.replace(
            base,
            d_model=int(width),
            num_layers=max(round(width / aspect_ratio), 1),
            num_heads=width // head_width,
        )
    return found


def isoflop(
    sizes: Mapping[str, Experiment],
    budgets: Iterable[float],
    warmup_fraction: float | None = None,
    data_sizes: Mapping[str, int] | None = None,
) -> dict[str, Trial]:
    """Every size trained with every budget of FLOPs (Hoffmann et al. 2022, approach 2).

    `training.num_steps` is the budget over the FLOPs of the matrix products of one step, which are
    counted (`accounting.training_flops`; no 6 N D), rounded to the nearest whole step. A budget is
    at least 50 steps, so it is met to 1%. Each trial is labelled with its budget, since runs of one
    profile are those of equal budgets, and what they took differs by that rounding.

    Args:
      sizes: what is trained at each size.
      budgets: training FLOPs.
      warmup_fraction: of the steps; None: `schedule.warmup_steps` stays as it is.
      data_sizes: what the data decides of the model; None: the most that its tokenizer may come to.

    Raises:
      UserError: an experiment cannot run, counts instead of descending, or a budget is less than
        50 of its steps, or given twice.
    """
    trials: dict[str, Trial] = {}
    for budget in budgets:
        for name, experiment in sizes.items():
            given = expected_sizes(experiment) if data_sizes is None else data_sizes
            of_step = cost_of(experiment, given).flops_per_step
            if not of_step:
                raise UserError(f"{name} takes no steps, so no budget decides how many")
            steps = round(budget / of_step)
            if steps < _FEWEST_STEPS:
                raise UserError(
                    f"a budget of {budget:.3g} FLOPs is {steps} steps of {name}, and whole steps "
                    f"meet it to 1% only from {_FEWEST_STEPS}; give at least "
                    f"{_FEWEST_STEPS * of_step:.3g}, smaller batches or a smaller model"
                )
            fields: dict[str, Any] = {"training.num_steps": steps}
            if warmup_fraction is not None:
                fields["schedule.warmup_steps"] = round(warmup_fraction * steps)
            called = f"budget={_shown(float(budget))},{name}"
            if called in trials:
                raise UserError(f"two runs are called {called}; give each budget once")
            trials[called] = Trial(_with(experiment, fields), {"budget": float(budget)})
    return trials


def horizons(sizes: Mapping[str, Experiment], tokens: Iterable[float]) -> dict[str, Experiment]:
    """Every size trained for every number of tokens, to the nearest whole step, of at least 50.

    With `schedule.name` `wsd`, `constant` or `rsqrt` those of one size share a trunk: see
    `lm_jax.sweeps.warm_starts`. Names are as `tokens=1e+06,d64`.

    Args:
      sizes: what is trained for each horizon.
      tokens: how many are predicted in training; pairs or examples where these are.

    Raises:
      UserError: a horizon is of less than 50 steps, leaves none after the warm-up, or is given
        twice.
    """
    found: dict[str, Experiment] = {}
    for horizon in tokens:
        for name, experiment in sizes.items():
            steps = round(horizon / (of_step := targets_per_step(experiment)))
            least = max(_FEWEST_STEPS, experiment.schedule.warmup_steps + 1)
            if steps < least:
                raise UserError(
                    f"{horizon:.3g} tokens are {steps} steps of {name}, of which it needs {least}; "
                    f"give at least {least * of_step:.3g}, smaller batches or a shorter warm-up"
                )
            called = f"tokens={_shown(float(horizon))},{name}"
            if called in found:
                raise UserError(f"two runs are called {called}; give each horizon once")
            found[called] = _with(experiment, {"training.num_steps": steps})
    return found


def address(experiment: Experiment) -> str:
    """Ten hex digits that are the same for experiments whose runs are the same.

    Fields at their defaults are left out, so that a field added later changes no address; so is
    what may change between a run and its resumption, but for what data is read.
    """
    fields, plain = _identity(experiment), _identity(_plain(experiment))
    telling = {path: value for path, value in fields.items() if value != plain.get(path)}
    telling |= {path: fields[path] for path in ("model.family", "data.kind")}
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:10]


def trials_of(sweep: Sweep) -> dict[str, Trial]:
    """The trials of what a sweep's file returns, in their order.

    Raises:
      UserError: it is no sweep, it is empty, or two of its runs are the same or called the same.
    """
    if not isinstance(sweep, Mapping | Sequence) or isinstance(sweep, str):
        raise UserError(f"a sweep is a dict of experiments by name, not a {type(sweep).__name__}")
    pairs = list(sweep.items() if isinstance(sweep, Mapping) else sweep)
    if not pairs:
        raise UserError("the sweep is empty; give at least one experiment")
    trials: dict[str, Trial] = {}
    addresses: dict[str, str] = {}
    for name, given in pairs:
        trial = given if isinstance(given, Trial) else Trial(given)
        if not isinstance(trial.experiment, Experiment):
            raise UserError(f"run {name} is a {type(given).__name__}; expected an Experiment")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.,=+@-]{1,200}", name, re.ASCII):
            raise UserError(
                f"run name {name!r}; expected up to 200 letters, digits and signs of . , = + - _ @"
            )
        if name.isdecimal():
            raise UserError(f"run name {name} is a number, which says a place; add a letter")
        if name in trials:
            raise UserError(f"two runs are called {name}; give each its own name")
        where = address(trial.experiment)
        if where in addresses:
            raise UserError(
                f"runs {addresses[where]} and {name} train the same; leave one out, or give them "
                "different seeds"
            )
        trials[name], addresses[where] = trial, name
    return trials


def _identity(experiment: Experiment) -> dict[str, Any]:
    data = {p: v for p, v in flat(experiment).items() if p.startswith("data.")}
    data.pop("data.cache_directory", None)
    return data | decisive(experiment)


def _plain(experiment: Experiment) -> Experiment:
    """An experiment of the same family and kind of data, all else at its defaults."""
    return Experiment(model=type(experiment.model)(), data=type(experiment.data)())


def _with(base: Experiment, fields: Mapping[str, Any]) -> Experiment:
    experiment = copy.deepcopy(base)
    for path, value in fields.items():
        *parents, name = path.split(".")
        part: Any = experiment
        for parent in parents:
            part = _field(part, parent, path)
        setattr(part, name, _checked(path, value, _field(part, name, path)))
    return experiment


def _field(part: Any, name: str, path: str) -> Any:
    if not dataclasses.is_dataclass(part):
        raise UserError(f"unknown field {path!r}: there is nothing below its {name!r}")
    names = [field.name for field in dataclasses.fields(part)]
    if name not in names:
        kind = type(part).__name__
        raise UserError(f"unknown field {path!r}: {kind} has {', '.join(names)}")
    return getattr(part, name)


def _checked(path: str, value: Any, current: Any) -> Any:
    """The value as the field holds it; numpy's numbers become Python's, which JSON can write."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(current) and dataclasses.is_dataclass(value):
        return copy.deepcopy(value)  # another model or other data: `validate` knows which there are
    if type(value) is not type(current):
        raise UserError(
            f"{path} is {value!r}, a {type(value).__name__}; expected a {type(current).__name__}"
        )
    return value


def _short(path: str, paths: Iterable[str]) -> str:
    """The last part of a dotted path where that tells it from the others."""
    last = path.rpartition(".")[2]
    return path if sum(other.rpartition(".")[2] == last for other in paths) > 1 else last


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
    return re.sub(r"[^\w.+@-]+", "_", text, flags=re.ASCII)


def _check_bounds(low: float, high: float, above: float = -math.inf) -> None:
    if not above < low < high < math.inf:
        raise UserError(f"a draw from {low} to {high}; expected {above:g} < low < high < inf")
