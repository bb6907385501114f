"""Resumes the run of an earlier version in `stopped`, and a copy of it in `renewed`.

The first with the rates of that version, which were those of one step earlier, and to its end; the
copy for three steps.
"""

import shutil
from pathlib import Path
from unittest import mock

from lm_jax import build
from lm_jax.runs.train import train
from lm_jax.runs.workdir import read_experiment


def rates_of_then(config, num_steps, now=build.learning_rate_schedule):
    """Returns the schedule of a configuration, one step late."""
    schedule = now(config, num_steps)
    return lambda step: schedule(step - 1)


def main() -> None:
    """Trains both."""
    experiment = read_experiment(Path("stopped"))
    shutil.copytree("stopped", "renewed")
    with mock.patch.object(build, "learning_rate_schedule", rates_of_then):
        train(experiment, Path("stopped"))
    train(experiment, Path("renewed"), stop_requested=lambda step: step >= 9)


if __name__ == "__main__":
    main()
