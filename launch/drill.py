r"""Attacks a training run or another program and tells whether anything was lost or is wrong.

  python -m launch.drill --config=configs/quickstart.py --workdir=drill \
      --config.training.num_steps=100 --config.checkpoint.every_steps=10 \
      --attacks=kill,files --repeat=20 --output=drill.json

Trains once without an attack. Then attacks runs of the same configuration at random moments and
gives the same command again until it finishes. Parameters, metrics, results and samples have to be
the same bits, and the page whole. A damaged file may also be refused in one line.

  kill, stop, pause   SIGKILL, SIGTERM, or SIGSTOP and SIGCONT, to a run until it ends
  imports             SIGKILL within 2 s of starting a process, which then imports
  second              another process in the same work directory
  disk                a full disk at each stage in turn: every write from a random one on fails
  failing             one write, or all from a random one on, fail (EIO or ENOSPC); making or
                      renaming a file or a directory is a write, too
  slow                every write waits; half of the runs are killed
  clock               the time jumps by up to 10 days, forwards and back; half of them are killed
  data                a changed bit in the files of the data between the start and the end of a run
  evaluate, generate, translate, export, prepare, sweep, together
                      (a sweep whose runs are one program)
                      kill, stop, disk and failing in turn, to these programs; those that go on with
                      what they have begun also meet it damaged, and a preparation another text
  changing            a bit of a checkpoint, the data or its cache that changes while it is read
  arrays, caches      one flipped bit of the newest checkpoint or of the cache of the data
  files               any file of a run emptied, cut, deleted, or with another byte, bit or `null`

--attacks=kill:100,files:50 sets the number of repetitions of each. Exit status 1: something was
lost or wrong; its work directory is left in --workdir. The last line of the output is JSON.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import experiment_flags, program
from lm_jax.errors import UserError
from lm_jax.telemetry.json_files import write_json

if TYPE_CHECKING:
    from lm_jax.config.experiment import Experiment

WORKDIR = flags.DEFINE_string("workdir", None, "A new directory for all runs.", required=True)
ATTACKS = flags.DEFINE_list(
    "attacks", [], "NAME or NAME:REPEAT, comma-separated; all that apply if none."
)
REPEAT = flags.DEFINE_integer("repeat", 10, "Repetitions of each attack.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments, files and bits.")
PROCESSES = flags.DEFINE_integer(
    "processes",
    1,
    "Processes that train together; those beyond the first share this machine.",
    lower_bound=1,
)
LIMIT_SECONDS = flags.DEFINE_float(
    "limit_seconds", 300.0, "Seconds after which a command counts as hanging.", lower_bound=1
)
OUTPUT = flags.DEFINE_string("output", None, "A JSON file of all outcomes.")
CONFIG = experiment_flags.define()


def main() -> dict[str, Any]:
    """Drills, prints a table and what went wrong."""
    output = program.output_file(OUTPUT.value)
    from lm_jax.runs.drills.attacks import Outcome
    from lm_jax.runs.drills.report import ATTACKS as KNOWN
    from lm_jax.runs.drills.report import rows_of, run_drill

    if CONFIG.value is None:
        raise UserError("give an experiment, --config=FILE (configs/*.py)")
    if Path(WORKDIR.value).exists() and any(Path(WORKDIR.value).iterdir()):
        raise UserError(f"--workdir={WORKDIR.value} is not empty; give a new directory")
    experiment = experiment_flags.experiment()
    repeats = _repeats(list(KNOWN), [name for name in KNOWN if _applies(name, experiment)])
    if idle := [name for name in repeats if not _applies(name, experiment)]:
        raise UserError(
            f"--attacks: runs of this configuration have nothing for {', '.join(idle)} to attack; "
            "leave it out"
        )

    outcomes: list[Outcome] = []

    def show(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if output:  # what has been found survives the end of a drill that is stopped
            write_json(output, [each._asdict() for each in outcomes])
        if not outcome.is_good:
            program.log(
                f"{outcome.attack}: {outcome.detail}: {outcome.verdict}\n  {outcome.message}"
            )

    run_drill(
        Path(WORKDIR.value),
        experiment,
        _config_arguments(sys.argv[1:]),
        repeats,
        seed=SEED.value,
        num_processes=PROCESSES.value,
        limit_seconds=LIMIT_SECONDS.value,
        show=show,
    )
    program.log_table(rows_of(outcomes), "<>>>>>")
    num_bad = sum(not outcome.is_good for outcome in outcomes)
    return {"attacks": len(outcomes), "bad": num_bad, "failed": num_bad > 0}


def _applies(name: str, experiment: "Experiment") -> bool:
    """Returns whether an attack has something to attack in runs of an experiment."""
    from lm_jax.interop.architectures import of_family
    from lm_jax.runs.drills.report import applies

    if name == "export":
        try:
            of_family(experiment.model)
        except UserError:
            return False
    return applies(name, experiment)


def _repeats(known: list[str], unless_given: list[str]) -> dict[str, int]:
    found = {}
    for text in ATTACKS.value or unless_given:
        name, _, number = text.partition(":")
        if name not in known or (number and not number.isdecimal()):
            raise UserError(
                f"--attacks: {text!r} is no attack; expected NAME or NAME:REPEAT with one of "
                f"{', '.join(known)}"
            )
        found[name] = int(number or REPEAT.value)
    return found


def _config_arguments(argv: list[str]) -> list[str]:
    """Returns the arguments that `launch.train` shares: --config and its fields."""
    found: list[str] = []
    for name, following in zip(argv, [*argv[1:], ""], strict=True):
        flag = name.lstrip("-")
        if name.startswith("-") and flag.split("=")[0].split(".")[0] in ("config", "noconfig"):
            found += [name] if "=" in name or following.startswith("-") else [name, following]
    return found


if __name__ == "__main__":
    program.run(main)
