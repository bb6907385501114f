"""Steps of decoding compiled for accelerators that are not here: their bytes and their time.

  python -m benchmarks.decoding_bytes --accelerator=h100
  python -m benchmarks.decoding_bytes --accelerator=v5e

Needs the extra compile-gpu, or compile-tpu. Each case is a run of `launch.compile_check`; the file
keeps those of other accelerators. Prints the table of docs/results/compiled.md.
"""

import json
import os
from pathlib import Path

import jax
from absl import app, flags

from benchmarks.compiled_cases import check, decoding_table
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

_MODELS = {"h100": ("gpt2_small", "gpt2_xl", "llama2_7b"), "v5e": ("gpt2_small", "gpt2_xl")}
_BATCH_SIZES = (1, 8)
_WEIGHTS = ("float32", "int8")

_ACCELERATOR = flags.DEFINE_enum("accelerator", "h100", list(_MODELS), "What to compile for.")
_OUTPUT = flags.DEFINE_string(
    "output", "benchmarks/results/decoding_bytes.json", "The file of all cases."
)


def main(_: list[str]) -> None:
    """Compiles all cases for an accelerator, and prints those that the file has then."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the plugin for GPUs then looks for no driver
    jax.config.update("jax_platforms", "cpu")
    path, accelerator = Path(_OUTPUT.value), _ACCELERATOR.value
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for model in _MODELS[accelerator]:
        for batch_size in _BATCH_SIZES:
            for weights in _WEIGHTS:
                arguments = [f"--model={model}", "--work=decode", f"--batch_size={batch_size}"]
                arguments += [f"--accelerator={accelerator}", f"--weights={weights}"]
                found = check(arguments)
                about = environment() | {"devices": "1 described"}
                case = " ".join((model, str(batch_size), accelerator, weights))
                kept[case] = {"environment": about, "arguments": arguments} | found
                write_json(path, kept)
    print("\n".join(decoding_table(kept)))


if __name__ == "__main__":
    app.run(main)
