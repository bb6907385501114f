"""Counts a model's parameters, FLOPs and bytes without allocating any of it.

  python -m launch.count --model=gpt2_small
  python -m launch.count --config=configs/quickstart.py --config.model.d_model=384
  python -m launch.count --config=configs/quickstart.py --compile

FLOPs are those of matrix products and convolutions per predicted token (or pair, or example); a
multiply-add is 2 FLOPs. Bytes are for training on one device, a published model with AdamW and one
row; `launch.compile_check` counts them for many devices. With --config it counts the whole run too.
With --compile it compiles the train step for this machine's devices and prints the memory of its
activations. The last line of the output is JSON with the figures.
"""

from typing import TYPE_CHECKING, Any

from absl import flags

from launch import experiment_flags, program
from lm_jax.config.presets import PRESETS, preset
from lm_jax.errors import UserError
from lm_jax.plurals import counted

if TYPE_CHECKING:
    from lm_jax.build import BuiltExperiment
    from lm_jax.config.experiment import Experiment

CONFIG = experiment_flags.define()
MODEL = flags.DEFINE_string("model", None, f"A published model: {', '.join(PRESETS)}.")
COMPILE = flags.DEFINE_bool(
    "compile", False, "Compile the train step, for the memory that activations take."
)


def main() -> dict[str, Any]:
    """Prints tables and returns their figures."""
    if (MODEL.value is None) == (CONFIG.value is None):
        raise UserError("give either --model=NAME or --config=FILE")
    import jax

    from lm_jax.build import build_experiment

    experiment, sizes = _published(MODEL.value) if MODEL.value else _configured()
    experiment.mesh = "data:1"
    built = build_experiment(experiment, sizes, jax.devices()[:1])
    results = _parameters(built) | _flops(built)
    if built.model.is_count_based:
        program.log(
            "\na count-based model takes no gradient steps and grows with the text that it reads"
        )
        return results
    results |= _memory(built)
    return results if MODEL.value else results | _run(built)


def _published(name: str) -> tuple["Experiment", dict[str, int]]:
    from lm_jax.objectives.default_experiment import default_experiment

    experiment = default_experiment(preset(name))
    experiment.training.batch_size = 1
    return experiment, {"vocab_size": 1}  # a preset has its own vocabulary size, which is larger


def _configured() -> tuple["Experiment", dict[str, int]]:
    from lm_jax.build import expected_sizes

    experiment = experiment_flags.experiment()
    sizes = expected_sizes(experiment)
    if experiment.data.expected_sizes:
        program.log(f"with a vocabulary of at most {sizes['vocab_size']:,}")
    return experiment, sizes


def _parameters(built: "BuiltExperiment") -> dict[str, Any]:
    from lm_jax.costs import model_flops

    counts = model_flops.count_parameters(built.experiment.model)
    split = model_flops.embedding_split(counts)
    active = model_flops.active_parameters(built.experiment.model, counts)
    rows = counts | {"embedding tables": split.embedding, "non-embedding": split.non_embedding}
    if active != split.total:
        rows["active: a token passes them"] = active
    table = [(name, f"{n:,}", f"{n / split.total:.2%}") for name, n in rows.items()]
    program.log_table(table, "<>>")
    shares = {name: count / split.total for name, count in counts.items() if name != "total"}
    return {
        "parameters": counts,
        "shares": shares,
        "embedding": split.embedding,
        "non_embedding": split.non_embedding,
        "active": active,
    }


def _flops(built: "BuiltExperiment") -> dict[str, Any]:
    from lm_jax.costs import model_flops
    from lm_jax.costs.compiled_step import batch_shapes, step_flops
    from lm_jax.objectives import targets_per_step

    model, config = built.model, built.experiment.model
    unit, targets = built.objective.unit, targets_per_step(built.experiment)
    shapes = batch_shapes(built)
    figures: dict[str, float | None] = {
        "training": step_flops(built) / targets,
        "forward": model_flops.forward_flops(model, shapes) / targets,
        "decoding": model_flops.decoding_flops(model, shapes),
    }
    by_formula = model_flops.formula(config)
    formulas: dict[str, int] = {}
    if by_formula:
        formulas = {"training": by_formula.training, "forward": by_formula.forward}
        if figures["decoding"] is not None:
            formulas["decoding"] = by_formula.forward
    attends = bool(by_formula and by_formula.attention)
    title = ("6N + 12 L d T" if attends else "6N") if by_formula else ""
    names = {
        "training": "training",
        "forward": "inference, all tokens at once",
        "decoding": "inference, the last token",
    }
    table = [(f"FLOPs per {unit.removesuffix('s')}", "traced", title)]
    for name, text in names.items():
        if (flops := figures[name]) is not None:
            formula = f"{formulas[name]:,}" if name in formulas else ""
            table.append((text, f"{flops:,.0f}", formula))
    program.log_table(table, "<>>")
    return {"unit": unit, "flops": figures, "formula_flops": formulas}


def _memory(built: "BuiltExperiment") -> dict[str, Any]:
    import jax

    from lm_jax.config.experiment import sequences_per_step
    from lm_jax.costs.compiled_step import compile_step, resident_bytes

    memory: dict[str, int] = resident_bytes(built)._asdict()
    memory["lower_bound"] = sum(memory.values())
    if COMPILE.value:
        # A program from the cache has no memory analysis.
        jax.config.update("jax_enable_compilation_cache", False)
        compiled = compile_step(built).memory
        memory |= {"temporaries": compiled.temporaries, "total": compiled.total}
    backend = jax.default_backend().upper()
    names = {
        "parameters": "parameters",
        "gradients": "gradients",
        "optimizer_state": f"optimizer state, {built.experiment.optimizer.name}",
        "batch": f"batch of {sequences_per_step(built.experiment):,}",
        "lower_bound": "these together, a lower bound",
        "temporaries": f"compiled for {backend}: activations, gradients",
        "total": f"compiled for {backend}: all",
    }
    megabytes = [(t, f"{memory[n] / 1e6:,.1f}") for n, t in names.items() if n in memory]
    program.log_table([("memory for training on one device", "MB"), *megabytes], "<>")
    return {"memory": memory}


def _run(built: "BuiltExperiment") -> dict[str, Any]:
    from lm_jax.costs.compiled_step import step_flops
    from lm_jax.objectives import targets_per_step

    steps = built.experiment.training.num_steps
    targets, flops = steps * targets_per_step(built.experiment), steps * step_flops(built)
    unit = built.objective.unit
    program.log(f"\nthe run: {counted(steps, 'step')}, {targets:,} {unit}, {flops:.3g} FLOPs")
    return {"run": {"steps": steps, unit: targets, "flops": flops}}


if __name__ == "__main__":
    program.run(main)
