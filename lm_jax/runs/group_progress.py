"""The records of runs that are trained together: what is logged, measured, saved and concluded."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError
from lm_jax.runs.recorder import Record, write_results
from lm_jax.runs.vmapped_runs import RunGroup
from lm_jax.training.loop import NonFiniteLoss
from lm_jax.training.state import TrainState

Results = dict[str, Any]


class AllDiverged(Exception):
    """No run of the group is left."""


class GroupProgress(NamedTuple):
    """The records of the runs of a group, and why runs failed."""

    group: RunGroup
    records: list[Record]
    failures: dict[int, str]  # by the index of the run

    def _left(self) -> list[tuple[int, Record]]:
        return [(i, record) for i, record in enumerate(self.records) if i not in self.failures]

    @contextlib.contextmanager
    def _noting_failure(self, index: int, *errors: type[Exception]) -> Iterator[None]:
        """Notes why one run of several failed; a single run raises."""
        try:
            yield
        except errors as error:
            self.records[index].log.failed(error)
            if self.group.is_single:
                raise
            self.failures[index] = str(error)

    def log(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Checks and logs the metrics of one dispatch."""
        for index, record in self._left():
            of_run = self.group.member_metrics(metrics, index)
            with self._noting_failure(index, NonFiniteLoss):
                record.skipped.check(step, of_run)
                record.meter.log(step, of_run)
        if not self._left():
            raise AllDiverged

    def evaluate(self, step: int, state: TrainState) -> bool:
        """Measures the validation split with each run's parameters; returns whether to go on."""
        for index, record in self._left():
            with self._noting_failure(index, NonFiniteLoss):
                record.evaluate(step, self.group.member_state(state, index))
        if self.ended_early:
            self.records[0].log.message(self.ended_early)
        return not self.ended_early

    @property
    def ended_early(self) -> str:
        """Why the run, which is the only one, ends before its last step; "" if it does not."""
        return self.records[0].ended_early if self.group.is_single else ""

    def save(self, step: int, state: TrainState) -> None:
        """Writes a checkpoint of each run."""
        for index, record in self._left():
            record.save(step, self.group.member_state(state, index))

    def conclude(self, state: TrainState, started: float, traced: Results) -> list[Results]:
        """Returns the results of each run; `validation` is among them if it is finished.

        Args:
          traced: results that all runs share.
        """
        if not self._left():  # the last step consumed the state
            return [{} for _ in self.records]
        step, baselines = int(state.step), None
        found: list[Results] = []
        for index, record in enumerate(self.records):
            results: Results = {"workdir": str(record.directory), "step": step}
            is_over = step >= record.built.num_steps or record.ended_early
            if index not in self.failures and not is_over:
                profile = {k: v for k, v in traced.items() if k != "goodput"}
                results |= profile | {"stopped": True}
            elif index not in self.failures:
                own = self.group.member_state(state, index)
                results |= traced | record.conclude(own, started, baselines)
                baselines = results["baselines"]
                if not self.group.is_single:
                    results["vmapped_runs"] = len(self.records)
            found.append(results)
        return found

    def write(
        self, state: TrainState, results: Sequence[Results], started: float
    ) -> dict[Path, Results]:
        """Writes the results, samples and page of each finished run; returns what each came to."""
        seconds = time.monotonic() - started
        for index, (record, found) in enumerate(zip(self.records, results, strict=True)):
            if "validation" in found:
                found["timings"]["total_seconds"] = seconds
                with self._noting_failure(index, UserError, OSError):
                    write_results(record, self.group.member_state(state, index), found)
        return {
            record.directory: {"error": self.failures[index]} if index in self.failures else found
            for index, (record, found) in enumerate(zip(self.records, results, strict=True))
        }
