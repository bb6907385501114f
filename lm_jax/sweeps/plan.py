"""The plan of a sweep: its runs, what each costs, and how long they will take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from lm_jax.config.experiment import Experiment
from lm_jax.costs.run_cost import Cost, cost_of, shape_of
from lm_jax.errors import UserError
from lm_jax.objectives.validation import validate
from lm_jax.plurals import counted
from lm_jax.reports.numbers import timing
from lm_jax.reports.text_table import text_table
from lm_jax.sweeps.search_space import Trial, address

Seconds = Callable[[Cost], float]  # estimated seconds of a run in a process of its own


class PlannedRun(NamedTuple):
    """A run of a sweep and its cost."""

    name: str
    address: str
    experiment: Experiment
    labels: Mapping[str, Any]
    cost: Cost

    @property
    def directory(self) -> str:
        """The name of the work directory; the address tells experiments of one name apart."""
        return f"{self.name}-{self.address}"


def make_plan(
    trials: Mapping[str, Trial], sizes_of: Callable[[Experiment], Mapping[str, int]]
) -> list[PlannedRun]:
    """Returns the runs of a sweep with their costs; each distinct shape is traced once.

    Args:
      trials: from `search_space.trials_of`.
      sizes_of: returns the sizes that the data decides, such as `vocab_size`; called once for
        experiments with equal data.

    Raises:
      UserError: a run cannot be built; the message names it.
    """
    plan: list[PlannedRun] = []
    sizes: dict[str, Mapping[str, int]] = {}
    for name, (experiment, labels) in trials.items():
        data_key = repr(experiment.data)
        try:
            validate(experiment)
            if data_key not in sizes:
                sizes[data_key] = sizes_of(experiment)
            cost = cost_of(experiment, sizes[data_key])
        except UserError as error:
            raise UserError(f"run {name}: {error}") from error
        plan.append(PlannedRun(name, address(experiment), experiment, labels, cost))
    return plan


def refuse_what_cannot_fit(plan: Sequence[PlannedRun], memory_bytes: float | None) -> None:
    """Raises UserError if the state of a run exceeds the memory of a process; None: unknown."""
    for run in plan:
        if memory_bytes is not None and run.cost.state_bytes > memory_bytes:
            raise UserError(
                f"run {run.name}: parameters, gradients and optimizer state take "
                f"{run.cost.state_bytes / 1e9:.3g} GB, and a process has "
                f"{memory_bytes / 1e9:.3g} GB here; ask for fewer --processes, or leave it out"
            )


def num_shapes(plan: Sequence[PlannedRun]) -> int:
    """Returns the number of distinct programs that the runs compile to, if data sizes agree."""
    return len({shape_of(run.experiment) for run in plan})


def total_flops(plan: Sequence[PlannedRun]) -> int:
    """Returns the training FLOPs of all runs."""
    return sum(run.cost.training_flops for run in plan)


def at_rate(flops_per_second: float) -> Seconds:
    """Returns an estimate for runs that compute at this rate throughout."""
    return lambda cost: cost.training_flops / flops_per_second


def as_measured(flops: Sequence[float], seconds: Sequence[float]) -> Seconds | None:
    """Returns an estimate from finished runs: seconds to start plus seconds per FLOP.

    Both are fitted by non-negative least squares. None if no run is finished yet.
    """
    if len(flops) == 0:
        return None
    scale = max(max(flops), 1)
    columns = np.stack([np.ones(len(flops)), np.asarray(flops) / scale], axis=1)
    if len(set(flops)) == 1:  # one number of FLOPs cannot determine both
        columns[:, 0] = 0
    (start, rest), _ = nnls(columns, np.asarray(seconds, float))
    return lambda cost: float(start + rest * cost.training_flops / scale)


def table_of(
    plan: Sequence[PlannedRun], seconds: Seconds | None, statuses: Sequence[str]
) -> list[str]:
    """Returns the plan as lines of text: a header, a line for each run, and the totals."""
    head = ["run", "address", "parameters", "non-embedding", "tokens", "FLOPs", "seconds", "status"]
    rows = [head]
    for run, status in zip(plan, statuses, strict=True):
        cost = run.cost
        counts = [cost.parameters, cost.non_embedding_parameters, cost.training_tokens]
        shown = [*(f"{count:,}" for count in counts), f"{cost.training_flops:.3e}"]
        took = "-" if seconds is None else timing(seconds(cost))
        rows.append([run.name, run.address, *shown, took, status])
    tokens = sum(run.cost.training_tokens for run in plan)
    sums = [f"{counted(len(plan), 'run')}", "", "", "", f"{tokens:,}", f"{total_flops(plan):.3e}"]
    took = "-" if seconds is None else timing(sum(seconds(run.cost) for run in plan))
    rows.append([*sums, took, ""])
    return text_table(rows, "<<>>>>><")


def duration(seconds: float) -> str:
    """Returns seconds as text with a fitting unit: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
