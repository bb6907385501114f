"""Measures a trained model: cross-entropy, perplexity, bits per character, byte and word.

  python -m launch.evaluate --workdir=runs/quickstart
  python -m launch.evaluate --workdir=runs/quickstart --stride=64
  python -m launch.evaluate --workdir=runs/quickstart --split=train --checkpoint=best
  python -m launch.evaluate --workdir=runs/mine --split=test
  python -m launch.evaluate --workdir=runs/quickstart --by_position
  python -m launch.evaluate --workdir=runs/quickstart --text=README.md --text='docs/*.md'
  python -m launch.evaluate --workdir=runs/quickstart --text=README.md --against=runs/lstm
  python -m launch.evaluate --workdir=runs/quickstart --weights=int8
  python -m launch.evaluate --workdir=runs/quickstart --task=my_questions.jsonl --shots=3
  python -m launch.evaluate --workdir=runs/quickstart --harness_tasks=my_task.yaml

The work directory holds the splits for validation and test (up to 16 MB each), so that measuring
them needs no other file. --split=train reads the training data where it was, or where --data_path
says that it is now. --split=test is of a run that was trained with data.test_path; its figures join
evaluation.json.

By default the text is cut into disjoint windows of the model's context. With --stride a window
starts every STRIDE tokens; each token is predicted once, from at least context - stride tokens
before it. The last line of the output is JSON with the figures.

--by_position measures the mean loss at each position of a window: how much later tokens gain from
the tokens before them. The work directory receives by_position_SPLIT.json.

--weights=int8 measures the run with the weights of its dense layers in int8, and --against the same
run what that costs. What the work directory keeps is of the weights as they were trained.

--task asks the model the questions of a JSONL file, or of a configuration of tasks: lines of
context, choices and answer, or of question and answer (docs/evaluation.md). With --output the
directory receives tasks.html, tasks.json and answers.csv.

--harness_tasks runs tasks of lm-evaluation-harness (pip install -e '.[harness]'): its own names, or
YAML files of others, separated by commas.

--text measures any texts instead: a file, a directory or a pattern, each a set with a row of its
own. Files are read as data.source=files reads them (docs/data.md); each is a document. --against
measures another run on the same texts, and the difference by documents. With --output the directory
receives documents.csv with a line per document and texts.json; an evaluation that was stopped goes
on where it was. --windows=rolling reports the figures of lm-evaluation-harness, too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import (
    cluster,
    data_flags,
    dataclass_flags,
    program,
    task_flags,
    text_flags,
    weights_flag,
)
from lm_jax.config.parts import EvaluationConfig
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.runs.trained_run import Run

WORKDIR = flags.DEFINE_string("workdir", None, "The work directory of the run.", required=True)
SPLIT = flags.DEFINE_enum(
    "split", "validation", ["validation", "train", "test"], "The split of the data to measure."
)
_MEASURES = ("batch_size", "stride", "context_length", "windows")
EVALUATION = dataclass_flags.define(EvaluationConfig(), _MEASURES)
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
TEXT = flags.DEFINE_multi_string(
    "text", None, "Files to measure instead: a file, a directory or a pattern; may be repeated."
)
BY_POSITION = flags.DEFINE_bool("by_position", False, "Measure the loss at each position.")
BEGINNING_TOKEN = flags.DEFINE_bool(
    "beginning_token", True, "A document begins before each prompt of multiple choice."
)
OUTPUT = flags.DEFINE_string("output", None, "The directory of results of --text and --task.")
flags.adopt_module_key_flags(cluster)  # --help shows them
flags.adopt_module_key_flags(data_flags)
flags.adopt_module_key_flags(task_flags)
flags.adopt_module_key_flags(text_flags)
flags.adopt_module_key_flags(weights_flag)


def main() -> dict[str, Any]:
    """Measures a split of the run's own data, or other texts, or asks questions."""
    output = program.output_directory(OUTPUT.value)
    from lm_jax.runs.evaluate import evaluate

    measures_split = BY_POSITION.value or SPLIT.present or data_flags.DATA_PATH.value
    if TEXT.value and measures_split:
        raise UserError(
            "--text measures other texts than --split, --data_path and --by_position: leave one out"
        )
    if task_flags.TASK.value or task_flags.HARNESS_TASKS.value:
        if measures_split or TEXT.value:
            raise UserError(
                "--task and --harness_tasks ask questions: leave out --text, --split, --data_path "
                "and --by_position"
            )
        text_flags.refuse_unused()
        _refuse(_MEASURES, "is about a split or --text, and tasks ask questions")
        return _ask_tasks(output)
    task_flags.refuse_unused()
    _refuse(("beginning_token",), "is about the questions of --task")
    if not TEXT.value:
        text_flags.refuse_unused()
        _refuse(("output",), "is about --text and --task, and a split fills the work directory")
    if BY_POSITION.value or SPLIT.value == "test":
        _refuse(("weights",), "is for figures that the work directory does not keep")
    cluster.join()
    if TEXT.value:
        return text_flags.measure(WORKDIR.value, CHECKPOINT.value, TEXT.value, EVALUATION(), output)
    run = weights_flag.load(WORKDIR.value, CHECKPOINT.value)
    if BY_POSITION.value:
        return _measure_by_position(run, EVALUATION())
    figures = evaluate(run, split=SPLIT.value, eval_config=EVALUATION(), moved=data_flags.moved())
    if SPLIT.value == "test":
        _keep_test_figures(run, figures, EVALUATION())
    else:
        program.log_table(_rows(figures), "<<")
    _log_parts(figures)
    return {"workdir": WORKDIR.value, "step": run.step, SPLIT.value: figures}


def _refuse(names: Sequence[str], why: str) -> None:
    """Raises UserError for a flag that nothing would read."""
    for name in names:
        if flags.FLAGS[name].present:
            raise UserError(f"--{name} {why}: leave it out")


def _ask_tasks(output: Path | None) -> dict[str, Any]:

    run_harness = task_flags.harness()
    tasks = task_flags.read()
    run = weights_flag.load(WORKDIR.value, CHECKPOINT.value)
    results: dict[str, Any] = {"workdir": WORKDIR.value, "step": run.step}
    if tasks:
        results["tasks"] = task_flags.ask(run, tasks, BEGINNING_TOKEN.value, output)
    if run_harness:
        results["harness"] = run_harness(run, BEGINNING_TOKEN.value, output)
    return results


def _keep_test_figures(run: "Run", figures: dict[str, Any], eval_config: EvaluationConfig) -> None:
    """Writes the figures of the test split, and prints them beside those of the validation."""
    from lm_jax.parallel import processes
    from lm_jax.runs.workdir import add_test_figures

    if not processes.is_first():
        return
    if not (run.workdir / "evaluation.json").exists():
        program.log(f"{run.workdir} has not ended: it has no evaluation.json to add this to")
    validation = add_test_figures(run.workdir, figures, run.step, eval_config)
    shown = {"validation": dict(_rows(validation))} if validation else {}
    shown["test"] = dict(_rows(figures))
    labels = shown["test"]
    rows = [(label, *(found.get(label, "") for found in shown.values())) for label in labels]
    program.log_table([("", *shown), *rows], "<" * len(rows[0]))


def _rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns all figures by label: those of every run, and those of its objective or tasks."""
    from lm_jax.reports.measures import further_measures_of, measures_of

    return [*measures_of(figures), *further_measures_of(figures)]


def _log_parts(figures: Mapping[str, Any]) -> None:
    """Prints a row for each source of a mixture, or for each task."""
    from lm_jax.reports.measures import PARTS, table_of_parts

    for key, part in PARTS.items():
        if figures.get(key):
            labels, rows = table_of_parts(figures[key])
            program.log_table([(part, *labels), *map(tuple, rows)], "<" + ">" * len(labels))


def _measure_by_position(run: "Run", eval_config: EvaluationConfig) -> dict[str, Any]:
    from lm_jax.evaluation.by_position import position_bins
    from lm_jax.parallel import processes
    from lm_jax.runs.evaluate import evaluate_by_position
    from lm_jax.runs.workdir import write_by_position

    sums = evaluate_by_position(
        run, split=SPLIT.value, eval_config=eval_config, moved=data_flags.moved()
    )
    table = [("position", "nats", "tokens")]
    for each in position_bins(sums, per_octave=1):
        span = f"{each.first} to {each.last}" if each.first < each.last else str(each.first)
        table.append((span, f"{each.nats:.4f}", f"{each.tokens:,}"))
    program.log_table(table, ">>>")
    tokens = sums.tokens.sum()
    figures = {"cross_entropy": float(sums.nats.sum() / tokens), "tokens": int(tokens)}
    results = {"workdir": WORKDIR.value, "step": run.step, SPLIT.value: figures}
    if processes.is_first():
        path = write_by_position(run.workdir, SPLIT.value, sums, run.step, eval_config)
        results["by_position"] = str(path)
    return results


if __name__ == "__main__":
    program.run(main)
