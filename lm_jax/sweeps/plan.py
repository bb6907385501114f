"""The plan of a sweep: what each run costs, and how long all of them may take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from lm_jax.config.experiment import Experiment
from lm_jax.config.validation import validate
from lm_jax.costs.run_cost import Cost, cost_of, shape_of
from lm_jax.errors import UserError
from lm_jax.sweeps.search_space import Trial, address

Seconds = Callable[[Cost], float]  # of a run on its own


class Planned(NamedTuple):
    """A run of a sweep, and what it will cost."""

    name: str
    address: str
    experiment: Experiment
    labels: Mapping[str, Any]
    cost: Cost

    @property
    def directory(self) -> str:
        """The name of its work directory: another experiment of the same name has another one."""
        return f"{self.name}-{self.address}"


def make_plan(
    trials: Mapping[str, Trial], sizes_of: Callable[[Experiment], Mapping[str, int]]
) -> list[Planned]:
    """The runs of a sweep with their costs; each distinct shape is traced once.

    Args:
      trials: of `sweeps.trials_of`.
      sizes_of: what the data of an experiment decides of its model; asked once for equal data.

    Raises:
      UserError: a run cannot be built; the message names it.
    """
    plan: list[Planned] = []
    sizes: dict[str, Mapping[str, int]] = {}
    for name, (experiment, labels) in trials.items():
        of_data = repr(experiment.data)
        try:
            validate(experiment)
            if of_data not in sizes:
                sizes[of_data] = sizes_of(experiment)
            cost = cost_of(experiment, sizes[of_data])
        except ValueError as error:
            raise UserError(f"run {name}: {error}") from error
        plan.append(Planned(name, address(experiment), experiment, labels, cost))
    return plan


def refuse_what_cannot_fit(plan: Sequence[Planned], memory_bytes: float | None) -> None:
    """Raises UserError if a state alone is more than a run has; None: what it has is not known."""
    for run in plan:
        if memory_bytes is not None and run.cost.state_bytes > memory_bytes:
            raise UserError(
                f"run {run.name}: parameters, gradients and optimizer state take "
                f"{run.cost.state_bytes / 1e9:.3g} GB, and a run has {memory_bytes / 1e9:.3g} GB "
                "here; ask for fewer --processes, or leave it out"
            )


def num_shapes(plan: Sequence[Planned]) -> int:
    """How many programs the runs compile to, where their data decide the same of the models."""
    return len({shape_of(run.experiment) for run in plan})


def total_flops(plan: Sequence[Planned]) -> int:
    """Training FLOPs of all runs."""
    return sum(run.cost.training_flops for run in plan)


def at_rate(flops_per_second: float) -> Seconds:
    """The seconds of a run that computes so fast all the time."""
    return lambda cost: cost.training_flops / flops_per_second


def as_measured(flops: Sequence[float], seconds: Sequence[float]) -> Seconds | None:
    """The seconds of a run, from those of finished ones: so many to start, and so many a FLOP.

    Both are fitted by least squares and not negative. None where nothing is finished yet.
    """
    if not len(flops):
        return None
    scale = max(max(flops), 1)
    columns = np.stack([np.ones(len(flops)), np.asarray(flops) / scale], axis=1)
    if len(set(flops)) == 1:  # nothing tells the two apart
        columns[:, 0] = 0
    (start, rest), _ = nnls(columns, np.asarray(seconds, float))
    return lambda cost: float(start + rest * cost.training_flops / scale)


def table_of(
    plan: Sequence[Planned], seconds: Seconds | None, statuses: Sequence[str]
) -> list[str]:
    """The plan as lines of text, its head first and the sums last."""
    head = ["run", "address", "parameters", "non-embedding", "tokens", "FLOPs", "seconds", "status"]
    rows = [head]
    for run, status in zip(plan, statuses, strict=True):
        cost = run.cost
        counts = [cost.parameters, cost.non_embedding_parameters, cost.training_tokens]
        shown = [*(f"{count:,}" for count in counts), f"{cost.training_flops:.3e}"]
        took = "-" if seconds is None else f"{seconds(cost):,.0f}"
        rows.append([run.name, run.address, *shown, took, status])
    tokens = sum(run.cost.training_tokens for run in plan)
    sums = [f"{len(plan)} runs", "", "", "", f"{tokens:,}", f"{total_flops(plan):.3e}"]
    took = "-" if seconds is None else f"{sum(seconds(run.cost) for run in plan):,.0f}"
    rows.append([*sums, took, ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<<>>>>><"
    return [
        "  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
