"""Bytes that a device exchanges per step as devices are added, one sequence per device.

  python -m benchmarks.weak_scaling --output=benchmarks/results/weak_scaling.json

The programs are compiled for simulated devices and never run. Data parallelism sums the gradients
of all parameters and FSDP gathers and scatters all of them, whatever the number of devices.
"""

from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from lm_jax.build import build_experiment
from lm_jax.config.experiment import EvaluationConfig, Experiment, TrainingConfig
from lm_jax.costs.collectives import by_kind, planned_by_kind
from lm_jax.costs.compiled_step import compile_step
from lm_jax.models.transformer.config import TransformerConfig
from lm_jax.telemetry.environment import environment
from lm_jax.telemetry.json_files import write_json

LARGEST = flags.DEFINE_integer("largest", 512, "Largest number of devices.", lower_bound=8)
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

# The width is a multiple of every number of devices.
MODEL = TransformerConfig(
    1024,
    context_length=64,
    num_layers=2,
    d_model=512,
    num_heads=4,
    positions="rotary",
    scan_layers=True,
)


def measure(axis: str, devices: int) -> dict[str, Any]:
    """Returns bytes of the collectives per device and step, with all devices on one axis."""
    experiment = Experiment(
        model=MODEL,
        mesh=f"{axis}:{devices}",
        training=TrainingConfig(batch_size=devices),
        evaluation=EvaluationConfig(batch_size=devices),
        compute_dtype="bfloat16",
    )
    built = build_experiment(experiment, {}, jax.devices()[:devices])
    compiled = compile_step(built)
    counted = by_kind(compiled.work.collectives)
    planned = planned_by_kind(compiled.planned, built.mesh)
    return {
        "bytes": {kind: traffic.bytes for kind, traffic in counted.items()},
        "sent": sum(traffic.sent for traffic in counted.values()),
        "planned_bytes": {kind: traffic.bytes for kind, traffic in planned.items()},
        "memory": compiled.memory.total,
        "products": compiled.work.product_flops,
    }


def main(_: list[str]) -> None:
    """Prints a table and writes the JSON file, if one is given."""
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", LARGEST.value)
    results: dict[str, Any] = {}
    print(f"{'mesh':>12}{'MB':>10}{'MB sent':>10}{'memory, MB':>12}   MB by kind")
    for axis in ("data", "fsdp"):
        results[axis] = {}
        devices = 8
        while devices <= LARGEST.value:
            result = results[axis][devices] = measure(axis, devices)
            kinds = ", ".join(f"{kind} {size / 1e6:.2f}" for kind, size in result["bytes"].items())
            total = sum(result["bytes"].values())
            print(
                f"{f'{axis}:{devices}':>12}{total / 1e6:10.2f}{result['sent'] / 1e6:10.2f}"
                f"{result['memory'] / 1e6:12.2f}   {kinds}",
                flush=True,
            )
            devices *= 2
    if OUTPUT.value:
        about = environment() | {"devices": f"{LARGEST.value} simulated"}
        write_json(Path(OUTPUT.value), {"environment": about} | results)


if __name__ == "__main__":
    app.run(main)
