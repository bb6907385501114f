"""The flags of launch.evaluate that ask a model the questions of tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from launch import dataclass_flags, program
from lm_jax.config.config_file import call_config_file
from lm_jax.config.tasks import TaskConfig
from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.evaluation.tasks import Task
    from lm_jax.runs.trained_run import Run

_FIELDS = (
    "shots",
    "shots_path",
    "template",
    "answer_template",
    "answer_pattern",
    "max_new_tokens",
    "stop",
    "max_questions",
    "seed",
)

TASK = flags.DEFINE_multi_string(
    "task",
    [],
    "Questions: FILE.jsonl, or FILE.py:CHOICE whose get_task(CHOICE) returns a TaskConfig; may be "
    "repeated.",
)
HARNESS_TASKS = flags.DEFINE_list(
    "harness_tasks", [], "Tasks of lm-evaluation-harness: names, or YAML files of tasks."
)
TASK_CONFIG = dataclass_flags.define(TaskConfig(), _FIELDS)


def refuse_unused() -> None:
    """Raises UserError for a flag of tasks without a task."""
    given = [name for name in _FIELDS if flags.FLAGS[name].present]
    if given:
        raise UserError(f"--{given[0]} is about the questions of a task: name one with --task=FILE")


def read() -> list["Task"]:
    """Returns the tasks of all --task, with the other flags in place of their fields."""
    from lm_jax.evaluation.tasks import read_task

    names = [_name(given) for given in TASK.value]
    if len(set(names)) < len(names):
        names = TASK.value
    pairs = zip(names, TASK.value, strict=True)
    return [read_task(name, TASK_CONFIG(_config(given))) for name, given in pairs]


def _name(given: str) -> str:
    path, _, choice = given.partition(":")
    return choice or Path(path).stem


def _config(given: str) -> TaskConfig:
    if not given.partition(":")[0].endswith(".py"):
        return TaskConfig(given)
    found = call_config_file(given, "get_task", "configs/tasks/*.py")
    if not isinstance(found, TaskConfig):
        raise UserError(
            f"get_task() of --task={given} returned {type(found).__name__}; expected a TaskConfig, "
            "as in configs/tasks/course.py"
        )
    return found


def harness() -> Callable[["Run", bool, Path | None], dict[str, Any]] | None:
    """Returns a function that runs --harness_tasks; None without them.

    Raises:
      UserError: lm-evaluation-harness is not installed.
    """
    if not HARNESS_TASKS.value:
        return None
    for name in _FIELDS:
        if flags.FLAGS[name].present and name not in ("shots", "max_questions") and not TASK.value:
            raise UserError(
                f"--{name} is about --task; tasks of the harness have their own: leave it out"
            )
    try:
        from lm_jax.interop.harness import run_tasks
    except ModuleNotFoundError as error:
        raise UserError(
            f"--harness_tasks needs {error.name}, which is not installed: pip install -e "
            "'.[harness]'"
        ) from None

    def run_them(run: "Run", begins: bool, output: Path | None) -> dict[str, Any]:
        from lm_jax.telemetry.json_files import write_json

        shots = flags.FLAGS["shots"].value if flags.FLAGS["shots"].present else None
        limit = TASK_CONFIG().max_questions or None
        found = run_tasks(run, HARNESS_TASKS.value, begins=begins, shots=shots, limit=limit)
        program.log_table(_harness_rows(found), "<<>")
        if output:
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "harness.json", found)
        return found

    return run_them


def _harness_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    from lm_jax.reports.numbers import with_error

    rows = [("task", "measure", "value")]
    for task, figures in found.items():
        for name, value in figures.items():
            if isinstance(value, float) and "_stderr" not in name:
                measure, _, kind = name.partition(",")
                error = figures.get(f"{measure}_stderr,{kind}")
                shown = with_error(value, error if isinstance(error, float) else None)
                rows.append((task, name.removesuffix(",none"), shown))
    return rows


def ask(run: "Run", tasks: list["Task"], begins: bool, output: Path | None) -> dict[str, Any]:
    """Prints the figures of each task and writes the page; returns the figures by task."""
    from lm_jax.progress import progress
    from lm_jax.reports.task_page import record_of, task_table, write_tasks
    from lm_jax.runs import tasks as runs_tasks

    with progress() as show:
        results = [runs_tasks.ask(run, task, begins=begins, show=show) for task in tasks]
    rows = task_table(results)
    program.log_table(rows, "<" + ">" * (len(rows[0]) - 1))
    if output:
        program.log(f"page: {write_tasks(results, run.workdir.name, output)}")
    return {result.task.name: record_of(result) for result in results}
