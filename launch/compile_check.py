r"""Compiles a train step for any number of devices, or a step of decoding; none needs to exist.

  python -m launch.compile_check --config=configs/published.py:gpt2_small --devices=1 \
      --config.training.batch_size=16 --config.model.attention=auto
  python -m launch.compile_check --model=llama2_7b --devices=64
  python -m launch.compile_check --model=llama3_70b --devices=512 --mesh=fsdp:64,tensor:8
  python -m launch.compile_check --config=configs/quickstart.py --devices=8 --accelerator=v5e
  python -m launch.compile_check --model=llama2_7b --work=decode --batch_size=8 --weights=int8

Prints the sharding of each parameter, and the memory and collectives of a device. Where the
accelerator's own compiler is installed (the extra `compile-gpu` or `compile-tpu`), they are what it
plans, and a table shows the kernels of a step and how long they should take. Otherwise they are
what XLA plans for CPUs. The check allocates nothing, touches no device, and reads data only if the
configuration's sizes depend on it.

--work=decode needs the accelerator's compiler. It shows what the next token of each of --batch_size
texts costs where the cache holds the whole context, as a loop over tokens computes it.

The last line of the output is JSON with the figures.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import decode_check, experiment_flags, program, training_check, weights_flag
from lm_jax.config.presets import PRESETS, preset
from lm_jax.costs import accelerators
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.config.experiment import Experiment
    from lm_jax.costs.topologies import Described

CONFIG = experiment_flags.define()
MODEL = flags.DEFINE_string("model", None, f"A published model: {', '.join(PRESETS)}.")
WORK = flags.DEFINE_enum(
    "work", "train", ["train", "decode"], "What to compile: a train step, or one of decoding."
)
DEVICES = flags.DEFINE_integer("devices", 8, "Number of devices to compile for.", lower_bound=1)
MESH = flags.DEFINE_string(
    "mesh",
    None,
    "Devices along each axis, such as fsdp:64,tensor:8. Default: the config's, or all fsdp.",
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Sequences per step. Default: the config's, or one per data x fsdp x expert; decoding: 1.",
    lower_bound=1,
)
ACCELERATOR = flags.DEFINE_string(
    "accelerator", "h100", f"The accelerator to fit: {', '.join(accelerators.ACCELERATORS)}."
)
DUMP = flags.DEFINE_string("dump", None, "A file for the optimized program, as HLO text.")
flags.adopt_module_key_flags(weights_flag)  # --help shows it


def main() -> dict[str, Any]:
    """Prints the tables and returns their figures."""
    dump = program.output_file(DUMP.value, "dump")
    accelerator = accelerators.accelerator(ACCELERATOR.value)
    if (MODEL.value is None) == (CONFIG.value is None):
        raise UserError("give either --model=NAME or --config=FILE")
    decodes = WORK.value == "decode"
    _refuse_flags(decodes)
    import jax

    # This program is not run again, and a program from the cache has no memory analysis.
    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_platforms", "cpu")
    described = _described(1 if decodes else DEVICES.value)
    experiment, sizes = _published(MODEL.value) if MODEL.value else _configured()
    if decodes:
        found = _decoding(experiment, sizes, described, accelerator, dump)
    else:
        if described is None:
            program.log(f"compiled for CPUs, not for {ACCELERATOR.value}: {_advice()}")
            jax.config.update("jax_num_cpu_devices", DEVICES.value)
        found = training_check.check(experiment, sizes, described, ACCELERATOR.value, dump)
    return {"accelerator": ACCELERATOR.value} | found


def _refuse_flags(decodes: bool) -> None:
    """Raises UserError for a flag that the chosen work does not read."""
    if not decodes:
        if flags.FLAGS["weights"].present:
            raise UserError("--weights is for --work=decode: training has float32")
        return
    for name in ("devices", "mesh"):
        if flags.FLAGS[name].present:
            raise UserError(f"--{name}: decoding is compiled for one device; leave it out")


def _decoding(
    experiment: "Experiment",
    sizes: dict[str, int],
    described: "Described | None",
    accelerator: accelerators.Accelerator,
    dump: Path | None,
) -> dict[str, Any]:
    if described is None:
        raise UserError(f"--work=decode needs the compiler of {ACCELERATOR.value}: {_advice()}")
    return decode_check.check(
        experiment,
        sizes,
        described,
        accelerator,
        batch_size=BATCH_SIZE.value or 1,
        weights=weights_flag.WEIGHTS.value,
        dump=dump,
    )


def _described(count: int) -> "Described | None":
    """Returns devices for the accelerator's own compiler; None if that is not installed."""
    from lm_jax.costs import topologies

    name = ACCELERATOR.value
    return None if topologies.missing_wheels(name) else topologies.describe(name, count)


def _advice() -> str:
    """Returns what is missing of the accelerator's own compiler, and how to install it."""
    from lm_jax.costs import topologies

    name = ACCELERATOR.value
    return (
        f"{', '.join(topologies.missing_wheels(name))} not installed; "
        f"pip install -e '.[{topologies.extra_of(name)}]' adds a compiler that needs no device"
    )


def _published(name: str) -> tuple["Experiment", dict[str, int]]:
    """Returns a preset with settings for large models: layers in a loop, and recomputed."""
    from lm_jax.models import family_of
    from lm_jax.objectives.default_experiment import default_experiment
    from lm_jax.parallel.mesh import AUTO, axis_sizes
    from lm_jax.parallel.sharding import DATA_AXES

    model = preset(name)
    experiment = default_experiment(family_of(model).for_low_memory(model))
    experiment.compute_dtype, experiment.mesh = "bfloat16", MESH.value or "fsdp:-1"
    mesh = "data:-1" if experiment.mesh == AUTO else experiment.mesh  # both split by the batch
    sizes = axis_sizes(mesh, DEVICES.value)
    parts = math.prod(sizes[axis] for axis in DATA_AXES)
    experiment.training.batch_size = BATCH_SIZE.value or parts
    experiment.evaluation.batch_size = parts
    return experiment, {"vocab_size": 1}  # a preset has its own vocabulary size, which is larger


def _configured() -> tuple["Experiment", dict[str, int]]:
    from lm_jax.build import expected_sizes

    experiment = experiment_flags.experiment()
    experiment.mesh = MESH.value or experiment.mesh
    if experiment.compute_dtype == "auto":
        experiment.compute_dtype = "bfloat16"  # as on an accelerator
    if BATCH_SIZE.value:
        experiment.training.batch_size, experiment.training.batch_size_tokens = BATCH_SIZE.value, 0
    return experiment, expected_sizes(experiment)


if __name__ == "__main__":
    program.run(main)
