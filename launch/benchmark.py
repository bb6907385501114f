r"""Measures how fast this machine trains, decodes, evaluates, reads data and starts.

  python -m launch.benchmark --suite=train --output=machine.json
  python -m launch.benchmark --suite=train --model=gpt2_medium --batch_size=32 --steps=4
  python -m launch.benchmark --suite=decode --batch_size=1 --batch_size=8 --new_tokens=128
  python -m launch.benchmark --suite=data --config=configs/quickstart.py

Suites: train and lstm time optimizer steps on random batches, eval exact evaluation, decode greedy
decoding, data the input pipeline beside the steps that it feeds, startup the way from the command
to the first step, by processes of the suite first_step with and without a compilation cache. Where
PyTorch is installed (decode: and transformers) it does the same work in the same run, in turns, so
that a machine whose speed drifts does so for both. MFU is the share of what matrix products, timed
in turns as well, reach on one device. What bounds each figure: docs/performance.md. The last line
of the output is JSON with the figures.
"""

import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from launch import program
from lm_jax import build as programs
from lm_jax import data
from lm_jax.benchmarking import decode, evaluate, startup
from lm_jax.benchmarking import default_experiments as cases
from lm_jax.benchmarking import input_pipeline as feed
from lm_jax.benchmarking import pytorch_baseline as peers
from lm_jax.benchmarking import train_step as train
from lm_jax.benchmarking.tables import table_of
from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.models.presets import PRESETS
from lm_jax.telemetry.environment import environment, version
from lm_jax.telemetry.json_files import finite

SUITES = ("train", "decode", "eval", "data", "lstm", "startup", "first_step")
_STARTED = time.monotonic()

SUITE = flags.DEFINE_enum("suite", None, SUITES, "What to measure.", required=True)
CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.")
MODEL = flags.DEFINE_string("model", None, f"A published model: {', '.join(PRESETS)}.")
BATCH_SIZE = flags.DEFINE_multi_integer(
    "batch_size", None, "Sequences a step; several times: a case for each.", lower_bound=1
)
STEPS = flags.DEFINE_integer("steps", None, "Of a turn; a dispatch in training.", lower_bound=1)
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 128, "Suite decode: a text's.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 6, "Turns of each.", lower_bound=1)
TORCH = flags.DEFINE_enum(
    "torch", "auto", peers.HOW, "PyTorch beside us; auto: torch.compile on GPUs, eager on CPUs."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "The JSON file of this machine, where the figures go by suite."
)


def main() -> dict[str, Any]:
    """Prints a table, then returns its figures."""
    if MODEL.value and CONFIG.value:
        raise UserError("give either --model=NAME or --config=FILE, or neither")
    output = Path(OUTPUT.value) if OUTPUT.value else None
    suites = _other_suites(output) if output else {}
    # Else JAX would take the memory that PyTorch needs beside it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if SUITE.value == "startup":
        found = {_name(): _startup()}
    elif SUITE.value == "first_step":
        return _first_step()
    else:
        # What is measured includes compiling, and what a cache returns has no memory analysis.
        jax.config.update("jax_enable_compilation_cache", False)
        found = {name: _measure(experiment) for name, experiment in _cases().items()}
    for line in table_of(found):
        program.log(line)
    results = finite({"suite": SUITE.value, "environment": _environment(), "cases": found})
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(suites | {SUITE.value: results}, indent=2)
        output.write_text(text + "\n", encoding="utf-8")
    return results


def _other_suites(path: Path) -> dict[str, Any]:
    """What the file of a machine holds already."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError):
        raise UserError(f"{path} holds no results by suite; give another --output") from None


def _name() -> str:
    if CONFIG.value:
        path = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
        return path.name.replace(".py", "")
    return MODEL.value or "default"


def _cases() -> dict[str, Experiment]:
    """What to measure by name, with the batch sizes and steps of the command line."""
    if CONFIG.value:
        named = {_name(): program.experiment_of(CONFIG)}
    elif MODEL.value:
        named = {MODEL.value: cases.published(MODEL.value)}
    else:
        named = cases.default_cases(SUITE.value, jax.default_backend() != "cpu")
    sizes = BATCH_SIZE.value or ([1, 8] if SUITE.value == "decode" else [])
    if sizes:
        named = {f"{n}, batch {b}": _with_batch(e, b) for n, e in named.items() for b in sizes}
    for experiment in named.values():
        if STEPS.value:
            experiment.training.steps_per_call = STEPS.value
    return named


def _with_batch(experiment: Experiment, sequences: int) -> Experiment:
    experiment = copy.deepcopy(experiment)
    experiment.training.batch_size, experiment.training.batch_size_tokens = sequences, 0
    experiment.evaluation.batch_size = sequences
    return experiment


def _sizes_of(experiment: Experiment) -> dict[str, int]:
    # Without a configuration models have a vocabulary of their own, which is larger.
    return program.sizes_of(experiment) if CONFIG.value else {"vocab_size": 1}


def _measure(experiment: Experiment) -> dict[str, Any]:
    suite, rounds = SUITE.value, ROUNDS.value
    sizes = _sizes_of(experiment)
    if suite == "decode":  # on one device, as texts are generated
        batch = experiment.training.batch_size
        experiment = _with_batch(experiment, 1)
        experiment.training.gradient_accumulation_steps = 1
        experiment.mesh = "data:1"
        one = programs.build_experiment(experiment, sizes, jax.devices()[:1])
        return decode.measure(one, batch, NEW_TOKENS.value, rounds, TORCH.value)
    measured = programs.build_experiment(experiment, sizes)
    if measured.model.fit is not None:
        raise UserError("a model that counts takes no steps; measure another")
    if suite == "data":
        corpus = data.prepare(experiment.data) if CONFIG.value else None
        return feed.measure(measured, corpus, rounds)
    beside = peers.find(measured, TORCH.value)
    if suite == "eval":
        steps = STEPS.value or 8
        result = evaluate.measure(measured, steps, rounds, beside.evaluation)
    else:
        result = train.measure(measured, rounds, beside.training)
    return result | {"peer": beside.note}


def _startup() -> dict[str, Any]:
    command = [sys.executable, "-m", "launch.benchmark", *sys.argv[1:], "--suite=first_step"]
    return startup.measure(command, ROUNDS.value)


def _first_step() -> dict[str, Any]:
    """The first step of the last case, which is the largest."""
    name, experiment = list(_cases().items())[-1]
    measured = programs.build_experiment(experiment, _sizes_of(experiment))
    stages = startup.first_step(measured, _STARTED)
    program.log(f"{startup.FIRST_STEP} {stages['first_step']:.1f} s of this program: {name}")
    return {"suite": SUITE.value, "case": name, "seconds": stages}


def _environment() -> dict[str, Any]:
    took_part = [name for name in ("torch", "transformers") if sys.modules.get(name)]
    return environment() | {name: version(name) for name in took_part}


if __name__ == "__main__":
    program.run(main)
