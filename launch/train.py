r"""Trains a model; the same command resumes it.

  python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m launch.train --config=configs/quickstart.py --workdir=runs/wide \
      --config.model.d_model=384 --config.schedule.peak_learning_rate=2e-3
  python -m launch.train --config=configs/quickstart.py --workdir=runs/mine \
      --config.data.source=files --config.data.path='books/*.txt'

Every field of lm_jax/config/experiment.py can be set as --config.PART.FIELD=VALUE.
The work directory receives config.json, metrics.jsonl, tensorboard/, checkpoints/, samples.txt,
evaluation.json and report.html. SIGTERM or Ctrl-C saves the state and exits with status 75. The
same command resumes, and so does --workdir=RUN alone. The last line of the output is JSON with the
results.

--from_workdir=RUN continues another run in a new work directory (docs/fine_tuning.md):

  python -m launch.train --from_workdir=runs/quickstart --workdir=runs/longer \
      --config.training.num_steps=900

The fork takes over parameters, optimizer state, position in the data and step, and RUN's
configuration but for the fields that are given. With --skip_batches=N it leaves out the next N
batches, after a loss that jumped on them. With --fine_tune the new run has RUN's
architecture, parameters and tokenizer, but its own data, objective, optimizer and steps:

  python -m launch.train --from_workdir=runs/bert --fine_tune --workdir=runs/bert_reviews \
      --config=configs/bert_classifier.py:reviews --config.data.path=reviews.tsv

--profile_steps=10-15 traces the dispatches (of training.steps_per_call steps) with these steps into
profile/, for ui.perfetto.dev (the file *.trace.json.gz), TensorBoard or XProf. Choose steps after
the first dispatches, which compile. Tracing does not change the numbers.

With --wait_for_space a full disk does not end the run: it says so in one line, keeps its finished
checkpoints, and goes on from the newest one when there is space.

Under srun or mpirun, in a JobSet and on a TPU pod, the same command on every host is one run
(docs/clusters.md). Elsewhere, run this on each host I of N:

  python -m launch.train --coordinator=HOST:PORT --num_processes=N --process_id=I --config=...
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import cluster, experiment_flags, program
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.config.experiment import Experiment

WORKDIR = flags.DEFINE_string(
    "workdir", None, "The directory of the run, to start or resume.", required=True
)
FROM_WORKDIR = flags.DEFINE_string(
    "from_workdir", None, "The run to continue in the new work directory."
)
FROM_STEP = flags.DEFINE_integer(
    "from_step", None, "The checkpoint to continue from; its newest, if not given.", lower_bound=1
)
SKIP_BATCHES = flags.DEFINE_integer(
    "skip_batches", None, "Batches after that checkpoint that the fork leaves out.", lower_bound=1
)
FINE_TUNE = flags.DEFINE_bool(
    "fine_tune", False, "Begin at step 0 with the other run's architecture and parameters."
)
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "FIRST-LAST, such as 10-15: trace the dispatches with these steps."
)
WAIT_FOR_SPACE = flags.DEFINE_bool(
    "wait_for_space", False, "On a full disk, wait until there is space, and go on."
)
flags.adopt_module_key_flags(cluster)  # --help shows them


def _experiment_of_run(given: "Experiment | None") -> "Experiment":
    """Returns the experiment whose fields flags set: that of --config, or of the run to continue.

    A run that was begun resumes with its own. With --fine_tune the architecture is that of the run.
    """
    is_new = FROM_WORKDIR.value is None
    if is_new and given is not None and not FINE_TUNE.value:
        return given
    from lm_jax.runs.initial_state import fine_tuned
    from lm_jax.runs.workdir import read_experiment

    # Not WORKDIR.value, which raises without a --workdir, and --help_config needs none.
    own = flags.FLAGS["workdir"].value or ""
    has_begun = bool(own) and (Path(own) / "config.json").exists()
    if given is None and has_begun and not (is_new and FINE_TUNE.value):
        return read_experiment(own)
    if FROM_WORKDIR.value is None:
        raise UserError(
            "give an experiment, --config=FILE (configs/*.py), or a run to continue, "
            "--from_workdir=RUN; without them --workdir resumes a run that was begun"
        )
    source = Path(FROM_WORKDIR.value)
    if FINE_TUNE.value:
        return fine_tuned(given, source)
    return given or read_experiment(source)


CONFIG = experiment_flags.define(base=_experiment_of_run)


def main() -> dict[str, Any]:
    """Trains until the end; SIGTERM or Ctrl-C saves after the current dispatch and stops."""
    from lm_jax.parallel import processes
    from lm_jax.runs.continuation import refuse_missing_texts
    from lm_jax.runs.space import train_with_space
    from lm_jax.runs.train import train, train_fork
    from lm_jax.runs.workdir import results_of
    from lm_jax.training.profiler import parse_steps

    if FROM_STEP.value is not None and (FROM_WORKDIR.value is None or FINE_TUNE.value):
        raise UserError(
            "--from_step is the checkpoint that a fork continues; give it with --from_workdir and "
            "without --fine_tune"
        )
    if SKIP_BATCHES.value is not None and (FROM_WORKDIR.value is None or FINE_TUNE.value):
        raise UserError(
            "--skip_batches leaves out data of a fork; give it with --from_workdir and without "
            "--fine_tune"
        )
    cluster.join()
    stop_requested = processes.stop_requests()
    directory = Path(WORKDIR.value)
    begun: Path | None = directory
    if FROM_WORKDIR.value is not None and not (directory / "config.json").exists():
        begun = None if FINE_TUNE.value else Path(FROM_WORKDIR.value)
    experiment = experiment_flags.experiment(begun)
    if begun is None and CONFIG.value is None:
        refuse_missing_texts(experiment, Path(FROM_WORKDIR.value or ""))
    was_finished = results_of(experiment, directory) is not None
    profiled = parse_steps(PROFILE_STEPS.value) if PROFILE_STEPS.value is not None else None

    def run() -> dict[str, Any]:
        if FROM_WORKDIR.value is None or FINE_TUNE.value:
            return train(experiment, directory, stop_requested, profiled)
        source = Path(FROM_WORKDIR.value)
        return train_fork(
            experiment,
            directory,
            source,
            FROM_STEP.value,
            stop_requested,
            profiled,
            skip_batches=SKIP_BATCHES.value,
        )

    if WAIT_FOR_SPACE.value:
        if processes.several():
            raise UserError("--wait_for_space is for a single process; leave it out")
        results = train_with_space(run, directory, lambda: stop_requested(0), program.log)
    else:
        results = run()
    if was_finished:
        program.log(
            f"{directory} is finished: nothing is trained again, and these are its results; for "
            "another run choose another --workdir"
        )
    if results.get("stopped"):
        program.log(f"stopped and saved at step {results['step']}; the same command resumes")
    else:
        _print_summary(results)
    return results


def _print_summary(results: dict[str, Any]) -> None:
    from lm_jax.reports.measures import label_of, measure, predicted_in

    validation = results["validation"]
    if "ended_early" in results:
        program.log(f"step {results['step']}: {results['ended_early']}")
    if before := results.get("validation_before"):
        program.log(
            f"validation cross-entropy before the first step: {before['cross_entropy']:.4f}, "
            f"at the end: {validation['cross_entropy']:.4f}"
        )
    if validation.get("bits_per_character") is None:
        for name in ("cross_entropy", "perplexity", "accuracy"):
            value = validation[name]  # None in the JSON of a finished run stands for infinity
            error = validation.get(f"{name}_standard_error")
            shown = "infinite" if value is None else measure(name, value, error)
            program.log(f"validation {label_of(name, predicted_in(validation))}: {shown}")
        for name, value in results["baselines"].items():
            program.log(f"{label_of(name, '')}: {measure(name, value)}")
    else:
        costs = results["baselines"] | {"this model": validation["bits_per_character"]}
        program.log("bits per character of the validation text, lower is better:")
        for name, bits in sorted(costs.items(), key=lambda item: item[1]):
            program.log(f"  {name:20} {bits:.3f}")
    if (samples := Path(WORKDIR.value) / "samples.txt").exists():
        program.log(f"samples: {samples}")
    page = (Path(WORKDIR.value) / "report.html").absolute()
    program.log(f"curves and samples, to open in a browser: {page}")


if __name__ == "__main__":
    program.run(main, resumes=True)
