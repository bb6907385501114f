"""Train steps compiled for accelerators that are not here, and the time that they should take.

  python -m benchmarks.compiled_steps --output=benchmarks/results
  python -m benchmarks.compiled_steps --output=benchmarks/results --cases=gpt2_small_h100

Needs the extras compile-gpu and compile-tpu. Each case is a run of `launch.compile_check`, whose
last line becomes `compiled_CASE.json`. Prints the table of docs/results/compiled.md, with all files
that are there. A TPU's compiler takes minutes for each dozen layers that are not in a loop.
"""

import json
import os
from pathlib import Path

import jax
from absl import app, flags

from benchmarks.compiled_cases import CASES, check, row
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

_NAMES = flags.DEFINE_list("cases", list(CASES), "Cases to compile; none: print the table.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Directory of the files.")


def main(_: list[str]) -> None:
    """Compiles the cases that are named, and prints all that are there."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the plugin for GPUs then looks for no driver
    jax.config.update("jax_platforms", "cpu")
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    for case in _NAMES.value:
        found = check(CASES[case])
        about = environment() | {"devices": f"{found['devices']} described"}
        kept = {"environment": about, "arguments": CASES[case]} | found
        write_json(output / f"compiled_{case}.json", kept)
        print(row(case, found), flush=True)
    print("\n| case | devices | mesh | rows | GB | ms | exposed ms | tokens/s each | MFU |")
    for case in CASES:
        path = output / f"compiled_{case}.json"
        if path.is_file():
            print(row(case, json.loads(path.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    app.run(main)
