"""A train step for an accelerator: what `launch.compile_check` prints of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import kernel_tables, program
from lm_jax.costs import accelerators
from lm_jax.plurals import counted

if TYPE_CHECKING:
    from lm_jax.config.experiment import Experiment
    from lm_jax.costs.collectives import Traffic
    from lm_jax.costs.compiled_step import Compiled, DeviceMemory, PlacedParameter
    from lm_jax.costs.topologies import Described


def check(
    experiment: "Experiment",
    sizes: dict[str, int],
    described: "Described | None",
    accelerator_name: str,
    dump: Path | None,
) -> dict[str, Any]:
    """Prints the memory, the exchange and the kernels of a step, and returns their figures.

    Args:
      described: devices for the accelerator's own compiler; None: those of this machine, a CPU's.
      dump: a file for the optimized program.

    Raises:
      UserError: the experiment cannot run on these devices, or the accelerator is unknown.
    """
    from lm_jax.build import build_experiment
    from lm_jax.costs.collectives import by_kind, planned_by_kind, seconds
    from lm_jax.costs.compiled_step import compile_step, fits
    from lm_jax.parallel.mesh import show
    from lm_jax.telemetry.json_files import write_text

    accelerator = accelerators.accelerator(accelerator_name)
    devices = described.devices if described else None
    checked = build_experiment(experiment, sizes, devices, device_bytes=accelerator.memory_bytes)
    mesh, compiler = checked.mesh, described.compiler if described else "XLA for CPUs"
    program.log(f"{counted(mesh.size, 'device')}: {show(mesh.shape)}; compiling with {compiler}")
    compiled = compile_step(checked, described)
    if dump:
        write_text(dump, compiled.text)
    found, planned = by_kind(compiled.work.collectives), planned_by_kind(compiled.planned, mesh)
    fit = fits(compiled.memory, accelerator, exact=described is not None)
    compute = compiled.model_flops / accelerator.peak_flops
    exchange = seconds(compiled.planned, mesh, accelerator)
    _log_parameters(compiled.placed)
    _log_memory(compiled.memory, compiler)
    if described is None:
        _log_flops(compiled)
    if unknown := compiled.work.unknown_loops:
        program.log(f"counted as run once: {counted(unknown, 'loop')} of unknown length")
    _log_traffic("collectives of the compiled program", found)
    _log_traffic("lower bound from its parameters and blocks", planned)
    _log_verdict(compiled.memory, accelerator_name, fit)
    program.log(
        f"lower bound of a step: {compute:.3g} s of products at peak, {exchange:.3g} s of exchange "
        f"at full bandwidth; compiled in {compiled.compile_seconds:.0f} s"
    )
    predicted = {}
    if described:
        predicted = kernel_tables.log_prediction(checked, compiled.text, accelerator)
    return {
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "batch_size": experiment.training.batch_size,
        "compiler": compiler,
        "memory": compiled.memory._asdict(),
        "flops": _flops(compiled, predicted),
        "collectives": {kind: traffic._asdict() for kind, traffic in found.items()},
        "planned_collectives": {
            kind: {"bytes": traffic.bytes, "sent": traffic.sent}
            for kind, traffic in planned.items()
        },
        "fits": fit,
        "seconds": {"products": compute, "exchange": exchange},
        "compile_seconds": compiled.compile_seconds,
        **predicted,
    }


def _flops(compiled: "Compiled", predicted: dict[str, Any]) -> dict[str, Any]:
    products = compiled.work.product_flops
    if predicted:  # its libraries' products are calls, which only the kernels count
        products = sum(kind["flops"] for kind in predicted["kernels"].values())
    return {
        "model": compiled.model_flops,
        "compiled_products": products,
        "xla_cost_analysis": compiled.xla_flops,
    }


def _log_parameters(placed: list["PlacedParameter"]) -> None:
    table = [("parameter", "shape", "split over", "per device")]
    for row in placed:
        axes = ", ".join("+".join(a) if isinstance(a, tuple) else a or "-" for a in row.axes)
        shape, local = (" x ".join(map(str, s)) for s in (row.shape, row.local_shape))
        table.append((row.path, shape, axes, local))
    program.log_table(table, "<<<>")


def _log_memory(memory: "DeviceMemory", compiler: str) -> None:
    names = {
        "parameters": "parameters",
        "optimizer_state": "optimizer state",
        "gradients": "gradients",
        "batch": "batch",
        "lower_bound": "these together, a lower bound",
        "arguments": "compiled: state and batch",
        "temporaries": "compiled: gradients, activations, gathered parameters",
        "total": f"compiled with {compiler}: all",
    }
    megabytes = [(text, f"{getattr(memory, name) / 1e6:,.1f}") for name, text in names.items()]
    program.log_table([("memory per device", "MB"), *megabytes], "<>")


def _log_flops(compiled: "Compiled") -> None:
    work = compiled.work
    rows = {
        "forward and backward pass of the model": compiled.model_flops,
        "compiled matrix products, including recomputation": work.product_flops,
        "XLA's cost analysis, which counts a loop's body once": compiled.xla_flops or 0,
    }
    gigaflops = [(text, f"{flops / 1e9:,.1f}") for text, flops in rows.items()]
    program.log_table([("per device and step", "GFLOP"), *gigaflops], "<>")


def _log_traffic(title: str, traffic: dict[str, "Traffic"]) -> None:
    if not traffic:
        return
    sent = [(kind, f"{t.bytes / 1e6:,.1f}", f"{t.sent / 1e6:,.1f}") for kind, t in traffic.items()]
    program.log_table([(title, "MB", "MB sent"), *sent], "<>>")


def _log_verdict(memory: "DeviceMemory", accelerator_name: str, fit: bool | None) -> None:
    capacity = accelerators.accelerator(accelerator_name).memory_bytes
    verdict = {
        True: "it fits",
        False: "it does not fit",
        None: "undecided: state and gradients fit, the program compiled for CPUs does not. "
        "Other compilers gather parameters and sum gradients in smaller parts",
    }[fit]
    usable = f"{accelerators.USABLE * capacity / 1e9:.0f} of {capacity / 1e9:.0f} GB usable"
    program.log(f"\n{accelerator_name}, {usable}: {verdict}")
