"""Traces chosen training steps and sums the time of their operations."""

import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import jax

from lm_jax.atomic_files import make_directory
from lm_jax.errors import UserError
from lm_jax.models.interface import Batch
from lm_jax.parallel import processes
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import TrainStep
from lm_jax.whole_numbers import whole_number

_CONTAINERS = ("while", "call", "conditional")  # their time counts at the operations inside


def parse_steps(text: str) -> tuple[int, int]:
    """Returns the first and the last step of a text such as `10-15` or `10`.

    Raises:
      UserError: the text has another form, or the steps are not rising from 1.
    """
    begins, dash, ends = text.partition("-")
    first, last = whole_number(begins) or 0, whole_number(ends if dash else begins) or 0
    if not 1 <= first <= last:
        raise UserError(
            f"--profile_steps={text}; expected FIRST-LAST, such as 10-15, of steps counted from 1"
        )
    return first, last


def check(steps: tuple[int, int] | None, num_steps: int) -> None:
    """Raises UserError if the steps exceed the `num_steps` of a run; 0: the run takes no steps."""
    if steps and steps[1] > num_steps:
        raise UserError(
            f"steps {steps[0]} to {steps[1]} cannot be profiled: "
            + (f"this run takes {num_steps}" if num_steps else "this run takes no steps")
        )


class Tracer:
    """Wraps train steps and traces a range of them into a directory.

    It traces whole dispatches, from the one with the first step to the one with the last, including
    the host's work and evaluations between them: dispatches of other lengths could be compiled to
    other roundings. It waits for the device before the trace starts and before it ends. With
    several processes only the first one traces.
    """

    def __init__(self, train_steps: TrainStep, directory: Path, steps: tuple[int, int], done: int):
        """Raises UserError if all `steps` are among the first `done`, which were taken earlier."""
        if done >= steps[1]:
            raise UserError(
                f"steps {steps[0]} to {steps[1]} cannot be profiled: this run goes on after {done}"
            )
        self._train_steps, self._directory = train_steps, directory
        (self._first, self._last), self._done = steps, done
        self._begin: int | None = None  # the first traced step
        self.results: dict[str, Any] = {}  # after the trace: directory, steps, seconds by operation

    def __call__(self, state: TrainState, batches: Batch) -> tuple[TrainState, Any]:
        """Takes the train steps of a dispatch."""
        begin = self._done + 1
        self._done += len(batches["weights"])
        if self.results or self._done < self._first or not processes.is_first():
            return self._train_steps(state, batches)
        if self._begin is None:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(make_directory(self._directory)))
            self._begin = begin
        with jax.profiler.StepTraceAnnotation("train", step_num=begin):
            state, metrics = self._train_steps(state, batches)
        if self._done >= self._last:
            jax.block_until_ready(state)
            self.close()
        return state, metrics

    def close(self) -> None:
        """Ends a trace in which training stopped."""
        if self._begin is None or self.results:
            return
        jax.profiler.stop_trace()
        self.results = {
            "directory": str(self._directory),
            "steps": [self._begin, self._done],
            "seconds": seconds_by_operation(self._directory),
        }


def seconds_by_operation(directory: str | Path) -> dict[str, float]:
    """Returns seconds by kind of XLA operation in the newest trace, summed over threads."""
    directory = Path(directory)
    traces = sorted(directory.glob("plugins/profile/*/*.xplane.pb"))
    if not traces:
        return {}
    seconds: dict[str, float] = {}
    kinds: dict[
        str, str | None
    ] = {}  # cached by name, because reading the stats of an event is slow
    for plane in jax.profiler.ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                name = event.name
                if name not in kinds:
                    kinds[name] = operation(name, {key for key, _ in event.stats})
                if kind := kinds[name]:
                    seconds[kind] = seconds.get(kind, 0.0) + event.duration_ns / 1e9
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def operation(name: str, stats: Container[str]) -> str | None:
    """Returns the kind of XLA operation of an event, such as `dot` for `dot.31`; None if none.

    Loops and calls give None because the operations inside have events of their own; so do the
    events with which CPU threads end an operation.
    """
    kind = re.sub(r"[.\d]+$", "", name)
    if "hlo_op" not in stats or name.startswith("end: ") or kind in _CONTAINERS:
        return None
    return kind
