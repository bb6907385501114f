"""Throughput: targets per second, logged every few steps."""

import time
from collections.abc import Mapping

import numpy as np

from lm_jax.telemetry.run_log import RunLog


class Meter:
    """Turns the metrics of steps into rows of the log: means since the last row, and rates.

    Means are of the steps whose update was made, where there is one; `skipped_updates` counts the
    others since the run began.
    """

    def __init__(
        self,
        log: RunLog,
        *,
        unit: str,
        units_per_step: int,
        every_steps: int,
        num_steps: int,
        started: float,
        extra_units: int = 0,  # of earlier steps with other batches, beyond those of these steps
        skipped: int = 0,  # updates, in the steps before these
    ):
        self._every, self._last = every_steps, num_steps
        self._unit, self._units_per_step = unit, units_per_step
        self._extra_units, self._skipped = extra_units, skipped
        self._log, self._started = log, started
        self._rows: list[dict[str, float]] = []
        self._since: float | None = (
            None  # None: the time until the next read includes other work than steps
        )
        self._rates: list[float] = []
        self._first_read: float | None = None

    def log(self, last_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Records the metrics [K] of the K steps up to `last_step`, and logs rows that are due."""
        now, count = time.monotonic(), len(metrics["loss"])
        if self._first_read is None:
            self._first_read = now - self._started
        if self._since is not None:
            self._rates.append(count * self._units_per_step / (now - self._since))
        self._since = now
        for index in range(count):
            self._rows.append({name: float(value[index]) for name, value in metrics.items()})
            step = last_step - count + 1 + index
            if step % self._every == 0 or step == self._last:
                self._flush(step, now)

    def _flush(self, step: int, now: float) -> None:
        made = [row for row in self._rows if not row["skipped"]] or self._rows
        row = {name: float(np.mean([r[name] for r in made])) for name in self._rows[0]}
        self._skipped += sum(bool(row["skipped"]) for row in self._rows)
        del row["skipped"]
        row["skipped_updates"] = self._skipped
        row["learning_rate"] = self._rows[-1]["learning_rate"]
        row[self._unit] = step * self._units_per_step + self._extra_units
        if self._rates:
            row[f"{self._unit}_per_second"] = self._rates[-1]
        self._log.training(step, row | {"seconds": now - self._started})
        self._rows = []

    def pause(self) -> None:
        """Excludes the time until the next read from the rates."""
        self._since = None

    def timings(self) -> dict[str, float | None]:
        """Returns the seconds until the first steps were read, and the median training rate."""
        return {
            "seconds_to_first_steps": self._first_read,
            f"{self._unit}_per_second": float(np.median(self._rates)) if self._rates else None,
        }
