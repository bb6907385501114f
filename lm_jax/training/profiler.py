"""Traces of chosen training steps, and what the operations in them took."""

import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import jax

from lm_jax.errors import UserError
from lm_jax.models.interface import Batch
from lm_jax.parallel import processes
from lm_jax.training.state import TrainState
from lm_jax.training.train_step import TrainStep

_CONTAINERS = ("while", "call", "conditional")  # their time is that of what they run


def parse_steps(text: str) -> tuple[int, int]:
    """The first and the last step of `10-15`, or of `10`.

    Raises:
      UserError: it is neither, or they are no steps.
    """
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise UserError(
            f"--profile_steps={text}; expected FIRST-LAST, such as 10-15, of steps counted from 1"
        )
    return first, last


def check(steps: tuple[int, int] | None, num_steps: int) -> None:
    """Raises UserError for steps that are not among the `num_steps` of a run; 0: it takes none."""
    if steps and steps[1] > num_steps:
        raise UserError(
            f"steps {steps[0]} to {steps[1]} cannot be profiled: "
            + (f"this run takes {num_steps}" if num_steps else "this run takes no step")
        )


class Tracer:
    """Train steps of which some, from a first to a last, are traced into a directory.

    Steps run in dispatches, which a trace must not cut: XLA may compile others to other roundings.
    So whole dispatches are traced, from the one with the first step to the one with the last, with
    the host's work and the evaluations between them. The device finishes what it was given before
    the trace begins and before it ends. Of several processes only the first one traces.
    """

    def __init__(self, train_steps: TrainStep, directory: Path, steps: tuple[int, int], done: int):
        """Raises UserError if the last of `steps` is among those `done` before."""
        if done >= steps[1]:
            raise UserError(
                f"steps {steps[0]} to {steps[1]} cannot be profiled: this run goes on after {done}"
            )
        self._train_steps, self._directory = train_steps, directory
        (self._first, self._last), self._done = steps, done
        self._begin: int | None = None  # the first step of the trace under way
        self.results: dict[str, Any] = {}  # once traced: directory, steps and seconds by operation

    def __call__(self, state: TrainState, batches: Batch) -> tuple[TrainState, Any]:
        """As the train steps."""
        begin = self._done + 1
        self._done += len(batches["weights"])
        if self.results or self._done < self._first or not processes.is_first():
            return self._train_steps(state, batches)
        if self._begin is None:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._directory))
            self._begin = begin
        with jax.profiler.StepTraceAnnotation("train", step_num=begin):
            state, metrics = self._train_steps(state, batches)
        if self._done >= self._last:
            jax.block_until_ready(state)
            self.close()
        return state, metrics

    def close(self) -> None:
        """Ends a trace that is under way: training stopped within it."""
        if self._begin is None or self.results:
            return
        jax.profiler.stop_trace()
        self.results = {
            "directory": str(self._directory),
            "steps": [self._begin, self._done],
            "seconds": seconds_by_operation(self._directory),
        }


def seconds_by_operation(directory: Path) -> dict[str, float]:
    """Seconds of each kind of XLA's operations in the newest trace, over all threads or streams."""
    traces = sorted(directory.glob("plugins/profile/*/*.xplane.pb"))
    if not traces:
        return {}
    seconds: dict[str, float] = {}
    kinds: dict[str, str | None] = {}  # by name: reading an event's stats is slow
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
    """The kind of XLA's operation of an event, such as `dot` of `dot.31`; None: it is none.

    Loops and calls are none: what they run has events of its own, and so have the threads that end
    an operation on a CPU.
    """
    kind = re.sub(r"[.\d]+$", "", name)
    if "hlo_op" not in stats or name.startswith("end: ") or kind in _CONTAINERS:
        return None
    return kind
