"""Tables of `launch.compile_check`: the kernels of a compiled step, and their predicted time."""

from typing import TYPE_CHECKING, Any

from launch import program

if TYPE_CHECKING:
    from lm_jax.build import BuiltExperiment
    from lm_jax.costs.accelerators import Accelerator
    from lm_jax.costs.kernels import Schedule
    from lm_jax.costs.timeline import Timeline

_DEAREST = 10


def log_prediction(
    built: "BuiltExperiment", text: str, accelerator: "Accelerator"
) -> dict[str, Any]:
    """Prints kernels by kind, the predicted step and its dearest lines; returns these figures.

    Args:
      text: the optimized program.
    """
    from lm_jax.costs.kernels import read_schedule
    from lm_jax.costs.timeline import predict

    schedule = read_schedule(text)
    timeline = predict(schedule, accelerator)
    kinds = log_kinds(schedule, accelerator)
    rates = _log_rates(built, timeline, accelerator)
    dear = log_dearest(schedule, accelerator)
    logits = _float32_logits(built, schedule)
    if logits:
        program.log(f"\nfloat32 logits of all tokens at once: {logits / 1e6:,.0f} MB")
    return {
        "kernels": kinds,
        "predicted": rates,
        "dearest": dear,
        "float32_logits_bytes": logits,
    }


def log_kinds(schedule: "Schedule", accelerator: "Accelerator") -> dict[str, dict[str, Any]]:
    """Prints the kernels of a program by kind, and returns their totals."""
    from lm_jax.costs.timeline import by_kind

    kinds = by_kind(schedule, accelerator)
    rows = [("kernels per device and step", "launches", "GFLOP", "GB", "ms alone")]
    for kind, total in kinds.items():
        flops, size = f"{total.flops / 1e9:,.1f}", f"{total.bytes / 1e9:,.2f}"
        rows.append((kind, f"{total.launches:,}", flops, size, f"{1e3 * total.seconds:,.2f}"))
    program.log_table(rows, "<>>>>")
    return {kind: total._asdict() for kind, total in kinds.items()}


def _log_rates(
    built: "BuiltExperiment", timeline: "Timeline", accelerator: "Accelerator"
) -> dict[str, Any]:
    from lm_jax.benchmarking.mfu import flops_per_target, utilization
    from lm_jax.objectives import targets_per_step

    targets, devices = targets_per_step(built.experiment), built.mesh.size
    convention, flops = flops_per_target(built, targets)
    rate = targets / timeline.seconds
    mfu = utilization(flops * targets, timeline.seconds, accelerator.peak_flops, devices)
    unit = built.objective.unit
    program.log(
        f"\npredicted step: {1e3 * timeline.seconds:,.2f} ms, of which collectives that nothing "
        f"hides {1e3 * timeline.exposed:,.2f} ms; {rate:,.0f} {unit}/s, "
        f"{rate / devices:,.0f} per device; MFU {mfu:.1%} by {convention} of "
        f"{accelerator.peak_flops / 1e12:,.0f} TFLOP/s"
    )
    return {
        "step_seconds": timeline.seconds,
        "exposed_seconds": timeline.exposed,
        f"{unit}_per_second": rate,
        f"{unit}_per_second_and_device": rate / devices,
        "mfu": mfu,
        "mfu_flops": convention,
    }


def log_dearest(schedule: "Schedule", accelerator: "Accelerator") -> list[dict[str, Any]]:
    """Prints the lines of a program that take the most time, and returns their figures."""
    from lm_jax.costs.timeline import dearest, predict

    step = predict(schedule, accelerator).seconds
    dear = dearest(schedule, accelerator, _DEAREST)
    rows = [("dearest lines", "launches", "ms", "of step", "kind", "writes", "operation")]
    for seconds, launches, kernel in dear:
        share = f"{seconds / step:.1%}"
        operation = kernel.operation[-60:] or kernel.name
        place, took = kernel.source or "the compiler", f"{1e3 * seconds:,.2f}"
        rows.append((place, f"{launches:,}", took, share, kernel.kind, kernel.result, operation))
    program.log_table(rows, "<>>><<<")
    return [
        {
            "seconds": row.seconds,
            "launches": row.launches,
            "kind": row.kernel.kind,
            "bytes": row.launches * row.kernel.bytes,
            "flops": row.launches * row.kernel.flops,
            "result": row.kernel.result,
            "operation": row.kernel.operation,
            "source": row.kernel.source,
            "instruction": row.kernel.name,
        }
        for row in dear
    ]


def _float32_logits(built: "BuiltExperiment", schedule: "Schedule") -> int:
    """Returns the bytes of float32 logits of all tokens of a device in one pass; 0 if none."""
    from lm_jax.costs.timeline import float32_logits
    from lm_jax.objectives import targets_per_step
    from lm_jax.parallel.sharding import data_parts

    vocabulary = getattr(built.experiment.model, "vocab_size", 0)
    if not vocabulary:
        return 0
    mesh, parts = built.mesh, built.experiment.training.gradient_accumulation_steps
    tokens = targets_per_step(built.experiment) // (
        parts * data_parts(mesh) * mesh.shape["sequence"]
    )
    tensor = mesh.shape["tensor"]
    return float32_logits(
        schedule, tokens, vocabulary if vocabulary % tensor else vocabulary // tensor
    )
