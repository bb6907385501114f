"""Memory of a process that loads a run and generates with it, with weights as trained and in int8.

  python -m benchmarks.int8_memory --workdir=runs/smollm2 --output=int8_memory.json

Each kind of weights is measured in a process of its own: what it holds (VmRSS) once JAX has
started, once the run is loaded, and after 60 tokens; and the most that it held while it loaded
(VmHWM). Linux alone says so.
"""

import gc
import json
import subprocess
import sys
from pathlib import Path

import jax
from absl import app, flags

import lm_jax
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

_WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The file of the figures.")
_WEIGHTS = flags.DEFINE_string("weights", "", "Measure these in this process; none: both.")
_PROMPT, _NEW_TOKENS = "Once upon a time", 60


def main(_: list[str]) -> None:
    """Prints the figures as JSON, and writes them."""
    if _WEIGHTS.value:
        print(json.dumps(_measure(_WEIGHTS.value)))
        return
    found = {weights: _in_process(weights) for weights in ("float32", "int8")}
    kept = {"environment": environment(), "run": Path(_WORKDIR.value).name, "weights": found}
    print(json.dumps(kept))
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), kept)


def _in_process(weights: str) -> dict[str, int]:
    arguments = ["-m", "benchmarks.int8_memory", f"--workdir={_WORKDIR.value}"]
    ran = subprocess.run(
        [sys.executable, *arguments, f"--weights={weights}"],
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(ran.stdout.splitlines()[-1])


def _measure(weights: str) -> dict[str, int]:
    """Returns bytes: of the parameters, and of what this process holds at each point."""
    jax.block_until_ready(jax.numpy.zeros(1))
    started = _held("VmRSS")
    run = lm_jax.load(_WORKDIR.value, weights=weights)
    loaded, most = _held("VmRSS"), _held("VmHWM")
    run.generate([_PROMPT], max_new_tokens=_NEW_TOKENS, temperature=0.0)
    return {
        "parameters": sum(x.nbytes for x in jax.tree.leaves(run.variables)),
        "started": started,
        "most_while_loading": most,
        "loaded": loaded,
        "generated": _held("VmRSS"),
    }


def _held(name: str) -> int:
    """Returns a figure of /proc/self/status in bytes, without what Python has yet to collect."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    app.run(main)
