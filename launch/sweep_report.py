"""Writes the page of a sweep: its plots, its runs, their errors, and the versions behind them.

  python -m launch.sweep_report --sweepdir=sweeps/rates
  python -m launch.sweep_report --sweepdir=sweeps/rates --by_position=all

The sweep directory receives report.html, and each plot as SVG and PNG in `figures`: learning-rate
curves if a learning rate varies, IsoFLOP profiles if runs have FLOP budgets, the loss by compute,
training curves, and the loss by position in the context. All but the last two need only
results.csv. The last line of the output is JSON.

The loss by position is plotted for runs in which it was measured: by --by_position here, which
takes the name of a run or `all`, or by launch.evaluate --by_position on a run's work directory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch import dataclass_flags, program
from lm_jax.config.parts import EvaluationConfig
from lm_jax.errors import UserError

_LISTED = 5  # runs that a message names

SWEEPDIR = flags.DEFINE_string("sweepdir", None, "The directory of the sweep.", required=True)
BY_POSITION = flags.DEFINE_multi_string(  # names have commas
    "by_position",
    [],
    "The name of a finished run whose loss at each position to measure, or all. Repeat the flag "
    "for several runs.",
)
EVALUATION = dataclass_flags.define(EvaluationConfig(), ("batch_size",))


def main() -> dict[str, Any]:
    """Measures the loss by position if asked, and writes the page."""
    import jax

    from lm_jax.sweeps.report import write_sweep_page

    directory = Path(SWEEPDIR.value)
    if BY_POSITION.value:
        _measure(directory, BY_POSITION.value)
    else:  # plots need no accelerator
        jax.config.update("jax_platforms", "cpu")
    path, pictures = write_sweep_page(directory)
    program.log(f"pictures: {', '.join(pictures) or 'none fits the fields that vary'}")
    return {"report": str(path), "figures": str(directory / "figures"), "pictures": pictures}


def _measure(directory: Path, names: Sequence[str]) -> None:
    """Evaluates the loss by position of finished runs and writes it to their work directories."""
    from lm_jax.runs.evaluate import evaluate_by_position
    from lm_jax.runs.trained_run import load
    from lm_jax.runs.workdir import write_by_position
    from lm_jax.sweeps.results import read_results, workdir_of_row

    rows = read_results(directory / "results.csv")
    done = {row["name"]: row for row in rows if row["status"] == "finished"}
    eval_config = EVALUATION()
    for name in done if "all" in names else names:
        if name not in done:
            raise UserError(
                f"--by_position={name}: {directory} has no finished run of that name; finished "
                f"are {', '.join(list(done)[:_LISTED]) or 'none'}"
                + (", ..." if len(done) > _LISTED else "")
            )
        run = load(workdir_of_row(directory, done[name]), log=program.log)
        sums = evaluate_by_position(run, split="validation", eval_config=eval_config)
        write_by_position(run.workdir, "validation", sums, run.step, eval_config)
        program.log(f"{name}: validation loss {sums.nats.sum() / sums.tokens.sum():.4f}")


if __name__ == "__main__":
    program.run(main)
