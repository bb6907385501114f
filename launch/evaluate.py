"""Measures a trained model: cross-entropy, perplexity, bits per character, byte and word.

  python -m launch.evaluate --workdir=runs/quickstart
  python -m launch.evaluate --workdir=runs/quickstart --stride=64
  python -m launch.evaluate --workdir=runs/quickstart --split=train --checkpoint=best
  python -m launch.evaluate --workdir=runs/quickstart --by_position

By default the text is cut into disjoint windows of the model's context. With --stride a window
starts every STRIDE tokens; each token is predicted once, from at least context - stride tokens
before it. The last line of the output is JSON with the figures.

--by_position measures the mean loss at each position of a window: how much later tokens gain from
the tokens before them. The work directory receives by_position_SPLIT.json.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cluster, dataclass_flags, program
from lm_jax.config.parts import EvaluationConfig

if TYPE_CHECKING:
    from lm_jax.runs.trained_run import Run

WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
SPLIT = flags.DEFINE_enum("split", "validation", ["validation", "train"], "The text to measure.")
EVALUATION = dataclass_flags.define(EvaluationConfig(), ("batch_size", "stride", "context_length"))
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
BY_POSITION = flags.DEFINE_bool("by_position", False, "Measure the loss at each position.")
flags.adopt_module_key_flags(cluster)  # --help shows them


def main() -> dict[str, Any]:
    """Measures a split of the run's own data."""
    from lm_jax.runs.trained_run import evaluate, load

    cluster.join()
    run = load(Path(WORKDIR.value), CHECKPOINT.value, log=program.log)
    if BY_POSITION.value:
        return _measure_by_position(run, EVALUATION())
    figures = evaluate(run, split=SPLIT.value, eval_config=EVALUATION())
    for name, value in figures.items():
        program.log(f"{name:36} {value}")
    return {"workdir": WORKDIR.value, "step": run.step, SPLIT.value: figures}


def _measure_by_position(run: "Run", eval_config: EvaluationConfig) -> dict[str, Any]:
    from lm_jax.evaluation.by_position import position_bins
    from lm_jax.parallel import processes
    from lm_jax.runs.trained_run import evaluate_by_position
    from lm_jax.runs.workdir import write_by_position

    sums = evaluate_by_position(run, split=SPLIT.value, eval_config=eval_config)
    program.log(f"{'position':>16} {'nats':>10} {'tokens':>12}")
    for each in position_bins(sums, per_octave=1):
        span = f"{each.first} to {each.last}" if each.first < each.last else str(each.first)
        program.log(f"{span:>16} {each.nats:>10.4f} {each.tokens:>12,}")
    tokens = sums.tokens.sum()
    figures = {"cross_entropy": float(sums.nats.sum() / tokens), "tokens": int(tokens)}
    results = {"workdir": WORKDIR.value, "step": run.step, SPLIT.value: figures}
    if processes.is_first():
        path = write_by_position(run.workdir, SPLIT.value, sums, run.step, eval_config)
        results["by_position"] = str(path)
    return results


if __name__ == "__main__":
    program.run(main)
