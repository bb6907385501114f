"""Makes the named experiments of a sweep: grids, random draws, size ladders, IsoFLOP budgets."""

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
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.objectives import targets_per_step
from lm_jax.plurals import counted

_FEWEST_STEPS = 50  # rounding to whole steps then misses a budget by at most 1%


class Trial(NamedTuple):
    """One run of a sweep: its experiment, and further columns for its row of the results."""

    experiment: Experiment
    labels: Mapping[str, Any] = {}  # value by column name, such as the FLOP budget


Sweep = Mapping[str, Experiment | Trial] | Sequence[tuple[str, Experiment | Trial]]
Distribution = Callable[[np.random.Generator], Any]
Values = Iterable[Any] | Mapping[str, Any]


def grid(base: Experiment, fields: Mapping[str, Values]) -> dict[str, Experiment]:
    """Returns one experiment for each combination of values; the last field varies fastest.

    A name looks like `peak_learning_rate=0.001,seed=0`. Values given as a mapping, such as a
    `ladder` for the field `model`, are named by its keys instead.

    Args:
      base: supplies all other fields; it is not changed.
      fields: values by dotted path, such as `schedule.peak_learning_rate`.

    Raises:
      UserError: a field does not exist, its type differs from the value's, or it has no values.
    """
    choices = []
    for path, values in fields.items():
        short = _short(path, fields)
        if isinstance(values, Mapping):
            named = list(values.items())
        else:
            named = [(f"{short}={_format(value)}", value) for value in values]
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
    """Returns `count` experiments with random values, named `draw=000`, `draw=001`, ...

    A larger `count` appends experiments and keeps the earlier ones.

    Args:
      fields: distributions by dotted path, such as `log_uniform(1e-4, 1e-1)`; each is a function
        of a random generator.

    Raises:
      UserError: a field does not exist, or its type differs from the value's.
    """
    rng = np.random.default_rng(seed)
    return {
        f"draw={i:03}": _with(base, {path: choose(rng) for path, choose in fields.items()})
        for i in range(count)
    }


def uniform(low: float, high: float) -> Distribution:
    """Returns the uniform distribution on [low, high]. Raises UserError unless low < high."""
    _check_bounds(low, high)
    return lambda rng: float(rng.uniform(low, high))


def log_uniform(low: float, high: float) -> Distribution:
    """Returns the log-uniform distribution. Raises UserError unless 0 < low < high."""
    _check_bounds(low, high, above=0)
    return lambda rng: float(math.exp(rng.uniform(math.log(low), math.log(high))))


def choice(values: Sequence[Any]) -> Distribution:
    """Returns the uniform distribution on some values. Raises UserError if there are none."""
    if not len(values):
        raise UserError("choice() was given no values; give at least one")
    return lambda rng: values[int(rng.integers(len(values)))]


def ladder(
    base: TransformerConfig, widths: Iterable[int], aspect_ratio: float, head_width: int = 64
) -> dict[str, TransformerConfig]:
    """Returns Transformers of several widths and one aspect ratio, by names such as `d256`.

    Args:
      base: supplies all other fields; a `d_ff` of 0 grows with the width.
      widths: `d_model` of each model.
      aspect_ratio: `d_model / num_layers`; the number of layers is rounded, to at least one.
        Kaplan et al. 2020, section 3.1: the loss depends little on it if it stays the same.
      head_width: width of each attention head, in place of the base's `head_dim`; wider models
        have more heads.

    Raises:
      UserError: a width is not a multiple of the head width, or the ratio is not positive.
    """
    if not aspect_ratio > 0:
        raise UserError(f"aspect_ratio is {aspect_ratio}; expected d_model / num_layers, above 0")
    found = {}
    for width in widths:
        if width < 1 or width % head_width:
            raise UserError(
                f"width {width} is not a positive multiple of head_width {head_width}; choose "
                "another width, or another head_width"
            )
        found[f"d{width}"] = dataclasses.replace(
            base,
            d_model=int(width),
            num_layers=max(round(width / aspect_ratio), 1),
            num_heads=width // head_width,
            head_dim=0,
        )
    return found


def isoflop(
    sizes: Mapping[str, Experiment],
    budgets: Iterable[float],
    warmup_fraction: float | None = None,
    data_sizes: Mapping[str, int] | None = None,
) -> dict[str, Trial]:
    """Returns a trial of every size at every FLOP budget (Hoffmann et al. 2022, approach 2).

    `training.num_steps` is the budget divided by the counted matrix-product FLOPs of one step
    (`cost_of`; not 6 N D), rounded to a whole step. A budget is at least 50 steps, so rounding
    misses it by at most 1%. Each trial carries its budget as a label: the runs of one IsoFLOP
    profile have equal budgets, while their exact FLOPs differ by that rounding.

    Args:
      sizes: an experiment for each model size, by name.
      budgets: training FLOPs.
      warmup_fraction: warm-up steps as a fraction of all; None: `schedule.warmup_steps` stays.
      data_sizes: sizes that the data decides, such as `vocab_size`; None: for text, the
        tokenizer's maximum vocabulary size.

    Raises:
      UserError: an experiment cannot run or takes no optimizer steps, or a budget is less than 50
        of its steps or given twice.
    """
    trials: dict[str, Trial] = {}
    for budget in budgets:
        for name, experiment in sizes.items():
            given = expected_sizes(experiment) if data_sizes is None else data_sizes
            flops_per_step = cost_of(experiment, given).flops_per_step
            if not flops_per_step:
                raise UserError(
                    f"{name} takes no optimizer steps, so a FLOP budget cannot set them"
                )
            steps = round(budget / flops_per_step)
            if steps < _FEWEST_STEPS:
                raise UserError(
                    f"a budget of {budget:.3g} FLOPs is {counted(steps, 'step')} of {name}; "
                    f"expected at least {_FEWEST_STEPS}, so that whole steps meet it to 1%; give "
                    f"at least {_FEWEST_STEPS * flops_per_step:.3g} FLOPs, smaller batches or a "
                    "smaller model"
                )
            fields: dict[str, Any] = {"training.num_steps": steps}
            if warmup_fraction is not None:
                fields["schedule.warmup_steps"] = round(warmup_fraction * steps)
            called = f"budget={_format(float(budget))},{name}"
            if called in trials:
                raise UserError(f"two runs are called {called}; give each budget once")
            trials[called] = Trial(_with(experiment, fields), {"budget": float(budget)})
    return trials


def horizons(sizes: Mapping[str, Experiment], tokens: Iterable[float]) -> dict[str, Experiment]:
    """Returns every size trained for every number of tokens, rounded to whole steps.

    With `schedule.name` `wsd`, `constant` or `rsqrt` the runs of one size share a prefix, which is
    trained once: see `lm_jax.sweeps.warm_starts`. A name looks like `tokens=1e+06,d64`.

    Args:
      sizes: an experiment for each model size, by name.
      tokens: training targets of each horizon: tokens, pairs or examples.

    Raises:
      UserError: a horizon is shorter than 50 steps, no longer than the warm-up, or given twice.
    """
    found: dict[str, Experiment] = {}
    for horizon in tokens:
        for name, experiment in sizes.items():
            targets = targets_per_step(experiment)
            steps = round(horizon / targets)
            fewest = max(_FEWEST_STEPS, experiment.schedule.warmup_steps + 1)
            if steps < fewest:
                raise UserError(
                    f"{horizon:.3g} tokens are {counted(steps, 'step')} of {name}; expected at "
                    f"least {fewest}; give at least {fewest * targets:.3g} tokens, smaller batches "
                    "or a shorter warm-up"
                )
            called = f"tokens={_format(float(horizon))},{name}"
            if called in found:
                raise UserError(f"two runs are called {called}; give each horizon once")
            found[called] = _with(experiment, {"training.num_steps": steps})
    return found


def address(experiment: Experiment) -> str:
    """Returns a hash of ten hex digits, equal for experiments that train the same run.

    It leaves out fields at their defaults, so that a field added later changes no address, and
    fields that may change when a run resumes, except those that say which data is read.
    """
    fields, defaults = _identity(experiment), _identity(_default(experiment))
    hashed = {path: value for path, value in fields.items() if value != defaults.get(path)}
    hashed |= {path: fields[path] for path in ("model.family", "data.kind")}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:10]


def trials_of(sweep: Sweep) -> dict[str, Trial]:
    """Returns the trials by name, in the order in which a sweep's file gives them.

    Raises:
      UserError: this is not a sweep, it is empty, or two of its runs have one name or train the
        same.
    """
    if not isinstance(sweep, Mapping | Sequence) or isinstance(sweep, str):
        raise UserError(f"a sweep is a dict of experiments by name, not a {type(sweep).__name__}")
    pairs = list(sweep.items() if isinstance(sweep, Mapping) else sweep)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise UserError("a sweep is a dict of experiments by name, not a list without names")
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
            raise UserError(
                f"run name {name} is a number, which stands for a position; add a letter"
            )
        if name in trials:
            raise UserError(f"two runs are called {name}; give each its own name")
        digest = address(trial.experiment)
        if digest in addresses:
            raise UserError(
                f"runs {addresses[digest]} and {name} train the same; leave one out, or give them "
                "different seeds"
            )
        trials[name], addresses[digest] = trial, name
    return trials


def _identity(experiment: Experiment) -> dict[str, Any]:
    """Returns the fields that decide a run's numbers, and all fields of its data."""
    data = {p: v for p, v in flat(experiment).items() if p.startswith("data.")}
    data.pop("data.cache_directory", None)
    return data | decisive(experiment)


def _default(experiment: Experiment) -> Experiment:
    """Returns an experiment of the same family and kind of data with all defaults."""
    return Experiment(model=type(experiment.model)(), data=type(experiment.data)())


def _with(base: Experiment, fields: Mapping[str, Any]) -> Experiment:
    """Returns a copy with other values, by dotted path."""
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
        kind = type(part).__name__
        raise UserError(f"unknown field {path!r}: no field {name!r} in a value of type {kind}")
    names = [field.name for field in dataclasses.fields(part)]
    if name not in names:
        kind = type(part).__name__
        raise UserError(f"unknown field {path!r}: {kind} has {', '.join(names)}")
    return getattr(part, name)


def _checked(path: str, value: Any, current: Any) -> Any:
    """Returns the value in the field's type; NumPy scalars become Python numbers, for JSON."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if dataclasses.is_dataclass(current) and dataclasses.is_dataclass(value):
        return copy.deepcopy(value)  # another model or other data: `validate` checks it
    if type(value) is not type(current):
        raise UserError(
            f"{path} is {value!r}, a {type(value).__name__}; expected a {type(current).__name__}"
        )
    return value


def _short(path: str, paths: Iterable[str]) -> str:
    """Returns the last part of a dotted path if it is unique among the paths, else all of it."""
    last = path.rpartition(".")[2]
    return path if sum(other.rpartition(".")[2] == last for other in paths) > 1 else last


def _format(value: Any) -> str:
    """Returns a value as it stands in a run's name: letters, digits and . + - _ @ only."""
    text = f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
    return re.sub(r"[^\w.+@-]+", "_", text, flags=re.ASCII)


def _check_bounds(low: float, high: float, above: float = -math.inf) -> None:
    if not above < low < high < math.inf:
        raise UserError(f"bounds {low} and {high}; expected {above:g} < low < high < inf")
