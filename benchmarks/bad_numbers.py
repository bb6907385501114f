"""What becomes of a run whose gradients, batches, rate or number format are bad.

  python -m benchmarks.bad_numbers --text=tinyshakespeare.txt \
      --output=benchmarks/results/bad_numbers.json

Each case trains the configuration of `configs/shakespeare_char_cpu.py` for 500 steps from three
seeds; what is not named is as there. Losses are nats of the last 10% of the text, the mean and the
standard error over the seeds.
"""

import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from configs import shakespeare_char_cpu
from lm_jax.config.experiment import Experiment
from lm_jax.runs.train import train
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import read_metrics, write_json
from lm_jax.training.loop import NonFiniteLoss

TEXT = flags.DEFINE_string("text", None, "The text, such as tinyshakespeare.txt.", required=True)
STEPS = flags.DEFINE_integer("steps", 500, "Steps of a run.")
CASES = flags.DEFINE_multi_string("case", [], "The name of a case; none: all. May be repeated.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

_SEEDS = (0, 1, 2)
_RATE = 1e-3  # of the configuration
Change = Callable[[Experiment], None]


def _set(**fields: Any) -> Change:
    """Returns what sets fields, `part__field=value`, of an experiment."""

    def change(experiment: Experiment) -> None:
        for path, value in fields.items():
            part, _, name = path.rpartition("__")
            setattr(getattr(experiment, part) if part else experiment, name, value)

    return change


_FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"compute_dtype": "bfloat16"},
    "float16": {"compute_dtype": "float16"},
    "float16, no scaling": {"compute_dtype": "float16", "optimizer__loss_scaling": False},
}
CASES_BY_NAME: dict[str, Change] = {
    "NaN gradient": _set(objective="benchmarks.faulty_objectives:NAN_GRADIENT"),
    "noise": _set(objective="benchmarks.faulty_objectives:NOISE"),
    "noise, skip_above=2": _set(
        objective="benchmarks.faulty_objectives:NOISE", optimizer__skip_above=2.0
    ),
    "rate x 100": _set(schedule__peak_learning_rate=100 * _RATE),
    "rate x 100, SGD, no clipping": _set(
        schedule__peak_learning_rate=100.0,
        optimizer__name="sgd",
        optimizer__clip_norm=0.0,
    ),
    "rate x 100, clip_update=0.1": _set(
        schedule__peak_learning_rate=100 * _RATE, optimizer__clip_update=0.1
    ),
    **{
        f"{rate}{name}": _set(schedule__peak_learning_rate=peak, **fields)
        for rate, peak in (("", _RATE), ("rate x 30, ", 30 * _RATE))
        for name, fields in _FORMATS.items()
    },
}


def _experiment(change: Change, seed: int) -> Experiment:
    experiment = shakespeare_char_cpu.get_config()
    experiment.seed, experiment.data.path = seed, TEXT.value
    experiment.training.num_steps, experiment.training.log_every_steps = STEPS.value, 1
    experiment.evaluation = dataclasses.replace(
        experiment.evaluation, every_steps=0, baselines=False
    )
    experiment.checkpoint.every_steps = 0
    experiment.samples.num_samples = 0
    change(experiment)
    return experiment


def _row(change: Change, seed: int) -> dict[str, Any]:
    """Returns what a run came to."""
    began, error, loss = time.monotonic(), "", math.nan
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory) / "run"
        try:
            loss = train(_experiment(change, seed), workdir)["validation"]["cross_entropy"]
        except NonFiniteLoss as stopped:
            error = str(stopped).partition(":")[0]
        trained = [row for row in read_metrics(workdir) if row["kind"] == "train"]
    losses = [row["loss"] for row in trained if row["loss"] is not None]
    jumps = [after - before for before, after in zip(losses[100:], losses[101:], strict=False)]
    return {
        "seed": seed,
        "cross_entropy": loss,
        "steps": trained[-1]["step"] if trained else 0,
        "skipped": trained[-1]["skipped_updates"] if trained else 0,
        "largest_jump_of_the_loss": max(jumps, default=math.nan),  # after the warm-up
        "last_loss_scale": trained[-1].get("loss_scale") if trained else None,
        "stopped": error,
        "seconds": time.monotonic() - began,
    }


def main(_: list[str]) -> None:
    """Prints a row for each case, and writes the JSON file, if one is given."""
    cases: dict[str, dict[str, Any]] = {}
    for name in CASES.value or CASES_BY_NAME:
        rows = [_row(CASES_BY_NAME[name], seed) for seed in _SEEDS]
        ended = [row["cross_entropy"] for row in rows if not row["stopped"]]
        found: dict[str, Any] = {"runs_that_ended": len(ended), "by_seed": rows}
        if len(ended) == len(rows):
            found["cross_entropy"] = statistics.mean(ended)
            found["standard_error"] = statistics.stdev(ended) / math.sqrt(len(ended))
        cases[name] = found
        print(name, json.dumps(found), flush=True)
    if OUTPUT.value:
        found = {"environment": environment(), "steps": STEPS.value, "cases": cases}
        write_json(Path(OUTPUT.value), found)


if __name__ == "__main__":
    app.run(main)
