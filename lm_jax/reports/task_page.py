"""The page of the tasks that a model was asked: accuracies, calibration, questions to read."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lm_jax.atomic_files import open_atomically
from lm_jax.evaluation.calibration import Calibration
from lm_jax.evaluation.tasks import Answered, TaskResult
from lm_jax.reports.html import render
from lm_jax.reports.svg_charts import Series, both_widths, line_chart
from lm_jax.telemetry.json_files import write_json, write_text

_SHOWN = 5  # right and wrong answers of a task
_LABELS = {
    "accuracy": "accuracy",
    "accuracy_normalised": "per character",
    "accuracy_bytes": "per byte",
}


def task_table(results: Sequence[TaskResult]) -> list[list[str]]:
    """Returns the cells of the table of tasks, its head first."""
    shown = [n for n in _LABELS if any(n in result.measures for result in results)]
    is_choice = any(result.calibration for result in results)
    more = ["chance", "calibration error"] if is_choice else []
    rows = [["task", "shots", "questions", *(_LABELS[name] for name in shown), *more]]
    for task, _, measures, _ in results:
        cells = [task.name, str(task.config.shots), f"{measures['questions']:,}"]
        cells += [_share(measures, name) for name in shown]
        for name in ("chance", "expected_calibration_error") if is_choice else ():
            cells.append(f"{measures[name]:.1%}" if name in measures else "")
        rows.append(cells)
    return rows


def _share(measures: Mapping[str, Any], name: str) -> str:
    if name not in measures:
        return ""
    low, high = measures[f"{name}_interval"]
    return f"{measures[name]:.1%} ({low:.1%} to {high:.1%})"


def write_tasks(results: Sequence[TaskResult], model: str, directory: Path) -> Path:
    """Writes tasks.html, tasks.json and answers.csv; returns the path of the first.

    Raises:
      OSError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "tasks.json", {r.task.name: record_of(r) for r in results})
    with open_atomically(directory / "answers.csv", newline="") as file:
        table = csv.writer(file)
        table.writerow(("task", "question", "right", "given", "answer", "confidence", "nats"))
        for result in results:
            for each in result.answers:
                question = each.question
                nats = json.dumps(each.nats) if each.nats else ""
                given = (int(each.is_right), each.given, question.answer, each.confidence, nats)
                table.writerow((result.task.name, question.origin, *given))
    table_rows = task_table(results)
    page = render(
        "tasks.html",
        title=f"Tasks of {model}",
        table_head=table_rows[0],
        table_rows=table_rows[1:],
        tasks=[
            {
                "name": result.task.name,
                "chart": reliability_chart(result.calibration),
                "wrong": _to_read(result.answers, is_right=False),
                "right": _to_read(result.answers, is_right=True),
            }
            for result in results
        ],
    )
    path = directory / "tasks.html"
    write_text(path, page)
    return path


def record_of(result: TaskResult) -> dict[str, Any]:
    """Returns the measures, the calibration and the configuration of a task as a JSON object."""
    found = result.calibration
    bins = {"bins": [each._asdict() for each in found.bins]} if found else {}
    return result.measures | bins | {"task": vars(result.task.config)}


def reliability_chart(found: Calibration | None) -> Markup:
    """Returns accuracy over confidence beside the diagonal; empty without a calibration."""
    if found is None:
        return Markup()
    curves = [
        Series("as accurate as confident", (0, 1), (0, 1), "faint", 7),
        Series(
            "answers of a bin",
            [each.confidence for each in found.bins],
            [each.accuracy for each in found.bins],
            "dots",
            0,
        ),
    ]
    return both_widths(
        lambda width: line_chart(
            curves, "confidence", "share of right answers", width, 360 if width > 500 else 320
        )
    )


def _to_read(answers: Sequence[Answered], is_right: bool) -> list[dict[str, Any]]:
    chosen = [each for each in answers if each.is_right == is_right][:_SHOWN]
    return [
        {
            "prompt": each.prompt,
            "given": each.given,
            "answer": each.question.answer,
            "text": each.text,
            "origin": Path(each.question.origin).name,  # file:line
            "choices": list(
                zip(each.question.choices, map("{:.2f}".format, each.nats), strict=True)
            ),
        }
        for each in chosen
    ]
