r"""Measures how fast this machine trains, decodes, evaluates, reads data and starts.

  python -m launch.benchmark --suite=train --output=machine.json
  python -m launch.benchmark --suite=train --model=gpt2_medium --batch_size=32 --steps=4
  python -m launch.benchmark --suite=decode --batch_size=1 --batch_size=8 --new_tokens=128
  python -m launch.benchmark --suite=decode --prompt_tokens=256 --new_tokens=1
  python -m launch.benchmark --suite=data --config=configs/quickstart.py

Suites: train and lstm time optimizer steps on random batches; eval, exact evaluation; decode,
greedy decoding (with one new token, reading a prompt); data, the input pipeline and the steps that
it feeds; startup, the time from the command to the first step, in processes of the suite first_step
with and without a compilation cache. If PyTorch is there (for decode also transformers), it does
the same work in the same process, interleaved, so that a drift in clock speed affects both. MFU is
the share of the FLOP/s that matrix products, interleaved as well, reach on one device.
docs/performance.md says what bounds each figure. The last line of the output is JSON with the
figures.
"""

import copy
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import experiment_flags, program
from lm_jax.config.presets import PRESETS
from lm_jax.errors import UserError
from lm_jax.json_values import read_object
from lm_jax.telemetry.json_files import finite, write_json

if TYPE_CHECKING:
    from lm_jax.config.experiment import Experiment

SUITES = ("train", "decode", "eval", "data", "lstm", "startup", "first_step")
_STARTED = time.monotonic()

SUITE = flags.DEFINE_enum("suite", None, SUITES, "What to measure.", required=True)
CONFIG = experiment_flags.define()
MODEL = flags.DEFINE_string("model", None, f"A published model: {', '.join(PRESETS)}.")
BATCH_SIZE = flags.DEFINE_multi_integer(
    "batch_size",
    None,
    "Sequences per step; repeat the flag for several.",
    lower_bound=1,
)
STEPS = flags.DEFINE_integer(
    "steps", None, "Steps per call; a dispatch in training.", lower_bound=1
)
NEW_TOKENS = flags.DEFINE_integer(
    "new_tokens", 128, "Suite decode: tokens per text.", lower_bound=1
)
PROMPT_TOKENS = flags.DEFINE_integer(
    "prompt_tokens", 1, "Suite decode: tokens of the prompt of each text.", lower_bound=1
)
ROUNDS = flags.DEFINE_integer("rounds", 6, "Rounds of the interleaved timing.", lower_bound=1)
TORCH = flags.DEFINE_enum(
    "torch",
    "auto",
    ("auto", "eager", "compile", "none"),
    "PyTorch as a baseline; auto: torch.compile on GPUs, eager on CPUs.",
)
OUTPUT = flags.DEFINE_string(
    "output", None, "The JSON file of this machine, with results by suite."
)


def main() -> dict[str, Any]:
    """Prints a table and returns its figures."""
    if MODEL.value and CONFIG.value:
        raise UserError("give either --model=NAME or --config=FILE, or neither")
    output = program.output_file(OUTPUT.value)
    suites = _other_suites(output) if output else {}
    from lm_jax.benchmarking.tables import table_of

    # By default JAX would take the memory that PyTorch needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if SUITE.value == "startup":
        found = {_name(): _startup()}
    elif SUITE.value == "first_step":
        return _first_step()
    else:
        import jax

        # Compiling is measured too, and a program from the cache has no memory analysis.
        jax.config.update("jax_enable_compilation_cache", False)
        found = {name: _measure(experiment) for name, experiment in _experiments().items()}
    for line in table_of(found):
        program.log(line)
    results = finite({"suite": SUITE.value, "environment": _environment(), "experiments": found})
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, suites | {SUITE.value: results})
    return results


def _other_suites(path: Path) -> dict[str, Any]:
    """Returns the results of earlier suites in the file of a machine."""
    try:
        return read_object(path) if path.exists() else {}
    except UserError:
        raise UserError(f"{path} holds no results by suite; give another --output") from None


def _name() -> str:
    if CONFIG.value:
        return Path(CONFIG.value).name.replace(".py", "")
    return MODEL.value or "default"


def _experiments() -> dict[str, "Experiment"]:
    """Returns the experiments to measure by name, with the batch sizes and steps of the flags."""
    import jax

    from lm_jax.benchmarking.default_experiments import default_experiments, published

    if CONFIG.value:
        named = {_name(): experiment_flags.experiment()}
    elif MODEL.value:
        named = {MODEL.value: published(MODEL.value)}
    else:
        named = default_experiments(SUITE.value, jax.default_backend() != "cpu")
    sizes = BATCH_SIZE.value or ([1, 8] if SUITE.value == "decode" else [])
    if sizes:
        named = {f"{n}, batch {b}": _with_batch(e, b) for n, e in named.items() for b in sizes}
    for experiment in named.values():
        if STEPS.value:
            experiment.training.steps_per_call = STEPS.value
    return named


def _with_batch(experiment: "Experiment", sequences: int) -> "Experiment":
    experiment = copy.deepcopy(experiment)
    experiment.training.batch_size, experiment.training.batch_size_tokens = sequences, 0
    experiment.evaluation.batch_size = sequences
    return experiment


def _sizes_of(experiment: "Experiment") -> dict[str, int]:
    from lm_jax.build import expected_sizes

    # Without a configuration a model has its own vocabulary size, which is larger than 1.
    return expected_sizes(experiment) if CONFIG.value else {"vocab_size": 1}


def _measure(experiment: "Experiment") -> dict[str, Any]:
    import jax

    from lm_jax import data
    from lm_jax.benchmarking import decode, evaluate, input_pipeline, train_step
    from lm_jax.benchmarking.pytorch_baseline import find_baselines
    from lm_jax.build import build_experiment

    suite, rounds = SUITE.value, ROUNDS.value
    sizes = _sizes_of(experiment)
    if suite == "decode":  # text is generated on one device
        batch = experiment.training.batch_size
        experiment = _with_batch(experiment, 1)
        experiment.training.gradient_accumulation_steps = 1
        experiment.mesh = "data:1"
        built = build_experiment(experiment, sizes, jax.devices()[:1])
        new_tokens, prompt = NEW_TOKENS.value, PROMPT_TOKENS.value
        return decode.measure(built, batch, new_tokens, rounds, TORCH.value, prompt)
    built = build_experiment(experiment, sizes)
    if built.model.is_count_based:
        raise UserError("a count-based model takes no optimizer steps; measure another model")
    if suite == "data":
        corpus = data.prepare(experiment.data) if CONFIG.value else None
        return input_pipeline.measure(built, corpus, rounds)
    baselines = find_baselines(built, TORCH.value)
    if suite == "eval":
        steps = STEPS.value or 8
        result = evaluate.measure(built, steps, rounds, baselines.evaluation)
    else:
        result = train_step.measure(built, rounds, baselines.training)
    return result | {"baseline": baselines.note}


def _startup() -> dict[str, Any]:
    from lm_jax.benchmarking import startup

    command = [sys.executable, "-m", "launch.benchmark", *sys.argv[1:], "--suite=first_step"]
    return startup.measure(command, ROUNDS.value)


def _first_step() -> dict[str, Any]:
    """Takes the first step of the last experiment, which is the largest."""
    from lm_jax.benchmarking import startup
    from lm_jax.build import build_experiment

    name, experiment = list(_experiments().items())[-1]
    built = build_experiment(experiment, _sizes_of(experiment))
    stages = startup.first_step(built, _STARTED)
    program.log(f"{startup.FIRST_STEP} {stages['first_step']:.1f} s in this process: {name}")
    return {"suite": SUITE.value, "experiment": name, "seconds": stages}


def _environment() -> dict[str, Any]:
    from lm_jax.telemetry.environment import environment, version

    used = [name for name in ("torch", "transformers") if sys.modules.get(name)]
    return environment() | {name: version(name) for name in used}


if __name__ == "__main__":
    program.run(main)
