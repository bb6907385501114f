"""Measures a trained model: cross-entropy, perplexity, bits per character, byte and word.

  python -m launch.evaluate --workdir=runs/quickstart
  python -m launch.evaluate --workdir=runs/quickstart --stride=64
  python -m launch.evaluate --workdir=runs/quickstart --split=train --checkpoint=best
  python -m launch.evaluate --workdir=runs/quickstart --by_position

Without --stride the text is cut into disjoint windows of the model's context; with it, windows
start every so many tokens and each token is predicted once, with at least context - stride tokens
before it. The last line of the output is JSON with the figures.

--by_position says how much later tokens gain from what stands before them: the mean loss at each
place of a window, left as by_position_SPLIT.json in the work directory.
"""

from pathlib import Path
from typing import Any

from absl import flags

from launch import cluster, program
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.evaluation.by_position import position_bins
from lm_jax.parallel import processes
from lm_jax.runs.trained_run import Run, evaluate, evaluate_by_position, load
from lm_jax.runs.workdir import write_by_position

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
SPLIT = flags.DEFINE_enum("split", "validation", ["validation", "train"], "Which text.")
STRIDE = flags.DEFINE_integer("stride", 0, "Tokens between windows; 0: disjoint.", lower_bound=0)
CONTEXT_LENGTH = flags.DEFINE_integer(
    "context_length", 0, "Tokens in a window; 0: the model's own.", lower_bound=0
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Windows at a time.", lower_bound=1)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
BY_POSITION = flags.DEFINE_bool("by_position", False, "The loss at each place of a window.")
flags.adopt_module_key_flags(cluster)  # --help shows them


def main() -> dict[str, Any]:
    """Measures the split of the run's own data."""
    cluster.join()
    run = load(Path(WORKDIR.value), CHECKPOINT.value, log=program.log)
    eval_config = EvaluationConfig(
        batch_size=BATCH_SIZE.value, stride=STRIDE.value, context_length=CONTEXT_LENGTH.value
    )
    if BY_POSITION.value:
        return _by_position(run, eval_config)
    figures = evaluate(run, split=SPLIT.value, eval_config=eval_config)
    for name, value in figures.items():
        program.log(f"{name:36} {value}")
    return {"workdir": WORKDIR.value, "step": run.step, SPLIT.value: figures}


def _by_position(run: Run, eval_config: EvaluationConfig) -> dict[str, Any]:
    sums = evaluate_by_position(run, split=SPLIT.value, eval_config=eval_config)
    program.log(f"{'position':>16} {'nats':>10} {'tokens':>12}")
    for each in position_bins(sums, per_octave=1):
        span = f"{each.first} to {each.last}" if each.first < each.last else str(each.first)
        program.log(f"{span:>16} {each.nats:>10.4f} {each.tokens:>12,}")
    outcome: dict[str, Any] = {"workdir": WORKDIR.value, "step": run.step}
    tokens = sums.tokens.sum()
    outcome[SPLIT.value] = {
        "cross_entropy": float(sums.nats.sum() / tokens),
        "tokens": int(tokens),
    }
    if processes.is_first():
        path = write_by_position(run.workdir, SPLIT.value, sums, run.step, eval_config)
        outcome["by_position"] = str(path)
    return outcome


if __name__ == "__main__":
    program.run(main)
