"""A step of decoding for an accelerator: what `launch.compile_check --work=decode` prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import kernel_tables, program
from lm_jax.plurals import counted

if TYPE_CHECKING:
    from lm_jax.config.experiment import Experiment
    from lm_jax.costs.accelerators import Accelerator
    from lm_jax.costs.topologies import Described


def check(
    experiment: "Experiment",
    sizes: dict[str, int],
    described: "Described",
    accelerator: "Accelerator",
    *,
    batch_size: int,
    weights: str,
    dump: Path | None,
) -> dict[str, Any]:
    """Prints the memory, the kernels and the predicted time of a step, and returns their figures.

    Args:
      described: one device.
      batch_size: number of texts.
      weights: as `trained_run.load` takes them.
      dump: a file for the optimized program.

    Raises:
      UserError: the model does not continue a text, or has no such weights.
    """
    import jax

    from lm_jax.build import build_experiment
    from lm_jax.costs.compiled_decoding import compile_decoding
    from lm_jax.costs.kernels import read_schedule
    from lm_jax.costs.timeline import predict
    from lm_jax.parallel.sharding import unboxed
    from lm_jax.runs.weights import weights_named
    from lm_jax.telemetry.json_files import write_text

    change = weights_named(weights)
    experiment.mesh, experiment.training.batch_size = "data:1", 1
    experiment.evaluation.batch_size = 1
    built, convert = change(build_experiment(experiment, sizes, described.devices))
    shapes = unboxed(jax.eval_shape(built.model.init, jax.random.key(0), built.example))
    variables = jax.eval_shape(convert, shapes)
    program.log(f"one device, {counted(batch_size, 'text')}; compiling with {described.compiler}")
    compiled = compile_decoding(built, variables, batch_size, described)
    if dump:
        write_text(dump, compiled.text)
    sizes_of = {
        "parameters": compiled.parameters,
        "cache": compiled.cache,
        "temporaries": compiled.temporaries,
    }
    megabytes = [(name, f"{size / 1e6:,.1f}") for name, size in sizes_of.items()]
    program.log_table([("memory of decoding", "MB"), *megabytes], "<>")
    schedule = read_schedule(compiled.text)
    kinds = kernel_tables.log_kinds(schedule, accelerator)
    seconds = predict(schedule, accelerator).seconds
    moved = sum(total["bytes"] for total in kinds.values())
    least = moved / accelerator.memory_bandwidth
    program.log(
        f"\npredicted step: {1e3 * seconds:,.3f} ms, {batch_size / seconds:,.0f} tokens/s; "
        f"{moved / 1e6:,.1f} MB moved, {1e3 * least:,.3f} ms at the full bandwidth of memory; "
        f"compiled in {compiled.compile_seconds:.0f} s"
    )
    return {
        "work": "decode",
        "weights": weights,
        "batch_size": batch_size,
        "context_length": built.experiment.model.context_length,
        "compiler": described.compiler,
        "memory": sizes_of,
        "bytes_moved": moved,
        "kernels": kinds,
        "predicted": {"step_seconds": seconds, "tokens_per_second": batch_size / seconds},
        "dearest": kernel_tables.log_dearest(schedule, accelerator),
        "compile_seconds": compiled.compile_seconds,
    }
