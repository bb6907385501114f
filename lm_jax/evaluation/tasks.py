"""Tasks of questions in a JSONL file: multiple choice, or an answer that must match exactly.

A line of multiple choice has `context`, `choices` and `answer`, which is the number of a choice
from 0 or its text. A line of the other kind has `question` and `answer`. Templates may read any
further fields. Prompts and accuracies follow lm-evaluation-harness: a space precedes each choice
and each solved answer, and a blank line follows each solved example.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.config.tasks import TaskConfig
from lm_jax.data.records import Record, records_of, text_field
from lm_jax.errors import UserError
from lm_jax.evaluation.calibration import Calibration, calibration, share_with_interval
from lm_jax.fields import validate_fields
from lm_jax.plurals import counted
from lm_jax.user_templates import UserTemplate

_BEFORE_ANSWER = " "
_AFTER_EXAMPLE = "\n\n"


class Question(NamedTuple):
    """A line of a task."""

    fields: dict[str, Any]  # of the line, without the answer
    answer: str
    choices: tuple[str, ...]  # (): the answer is generated
    right: int  # index of the answer in `choices`
    origin: str  # file:line


class TaskKind(NamedTuple):
    """How the questions of a kind are read and asked."""

    fields: tuple[str, ...]
    question: Callable[[Record], Question]
    template: str


class Task(NamedTuple):
    """The questions of a task with their prompts."""

    name: str
    config: TaskConfig
    kind: str
    questions: list[Question]
    prompts: list[str]


class Answered(NamedTuple):
    """A question and what the model answered."""

    question: Question
    prompt: str
    given: str
    is_right: bool
    nats: tuple[float, ...] = ()  # of each choice
    confidence: float | None = None  # probability of the given choice among the choices
    text: str = ""  # what the model generated


class TaskResult(NamedTuple):
    """The answers of a task, and what they add up to."""

    task: Task
    answers: list[Answered]
    measures: dict[str, Any]
    calibration: Calibration | None


def _multiple_choice(record: Record) -> Question:
    text_field(record, "context")
    choices, answer = record.values["choices"], record.values["answer"]
    texts = isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)
    if not texts or len(choices) < 2 or len(set(choices)) < len(choices):
        raise UserError(
            f"{record.origin}: choices is {str(choices)[:60]}; expected a list of at least two "
            "different texts"
        )
    if isinstance(answer, str) and answer in choices:
        right = choices.index(answer)
    elif type(answer) is int and 0 <= answer < len(choices):
        right = answer
    else:
        raise UserError(
            f"{record.origin}: answer is {answer!r}, which is not among the choices; expected "
            f"one of {', '.join(map(repr, choices))[:100]}, or its number, 0 to {len(choices) - 1}"
        )
    return Question(_others(record), choices[right], tuple(choices), right, record.origin)


def _exact_match(record: Record) -> Question:
    text_field(record, "question")
    answer = record.values["answer"]
    if type(answer) not in (str, int, float) or not str(answer).strip():
        raise UserError(f"{record.origin}: answer is {answer!r}; expected a text or a number")
    return Question(_others(record), str(answer).strip(), (), 0, record.origin)


def _others(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.values.items() if name != "answer"}


KINDS = {
    "multiple_choice": TaskKind(
        ("context", "choices", "answer"), _multiple_choice, "{{ context }}"
    ),
    "exact_match": TaskKind(
        ("question", "answer"), _exact_match, "Question: {{ question }}\nAnswer:"
    ),
}


def read_task(name: str, config: TaskConfig) -> Task:
    """Returns the questions and prompts of a task.

    Raises:
      UserError: a file cannot be read, a line lacks a field or has an answer outside its choices,
        there are too few examples, or a template raises an error.
    """
    validate_fields(config, f"{name}: ")
    _compile_pattern(config)
    kind, questions = _read(config.path, None)
    asked = questions[: config.max_questions or None]
    examples = None
    if config.shots_path:
        _, examples = _read(config.shots_path, kind)
    available = len(questions) - 1 if examples is None else len(examples)
    if config.shots > available:
        raise UserError(
            f"{name}: shots is {config.shots}, but {config.shots_path or config.path} has "
            f"{counted(available, 'example')} to give; ask for fewer"
        )
    question = UserTemplate(config.template or KINDS[kind].template, "the template")
    answer = UserTemplate(config.answer_template, "the answer template")

    def solved(example: Question) -> str:
        values = example.fields | {"answer": example.answer}
        asked = question.fill(example.fields, example.origin)
        return asked + _BEFORE_ANSWER + answer.fill(values, example.origin) + _AFTER_EXAMPLE

    prompts = []
    for number, each in enumerate(asked):
        if examples is not None:
            shown = examples[: config.shots]
        else:
            others = np.random.default_rng((config.seed, number)).permutation(len(questions) - 1)
            drawn = others[: config.shots]
            shown = [questions[other + (other >= number)] for other in drawn]
        prompts.append("".join(map(solved, shown)) + question.fill(each.fields, each.origin))
    return Task(name, config, kind, asked, prompts)


def _read(path: str, kind: str | None) -> tuple[str, list[Question]]:
    """Returns the kind of a file, which its first line shows, and its questions."""
    if not Path(path).is_file():
        raise UserError(f"{path or 'a task without a path'}: there is no such file of questions")
    records = records_of(Path(path), ("answer",), given_by="--task")
    if records is None:
        raise UserError(f"{path} holds plain text; expected JSONL, one question a line")
    questions = []
    for record in records:
        if kind is None:
            found = (name for name, each in KINDS.items() if each.fields[0] in record.values)
            kind = next(found, "multiple_choice")
        missing = [field for field in KINDS[kind].fields if field not in record.values]
        if missing:
            forms = " or ".join(", ".join(each.fields) for each in KINDS.values())
            raise UserError(
                f"{record.origin}: it has {', '.join(record.values)} and no {', '.join(missing)}; "
                f"expected {forms}"
            )
        if "choices" in record.values and "choices" not in KINDS[kind].fields:
            raise UserError(
                f"{record.origin}: it has choices, and a text that is continued by choices is its "
                "context; name the field context, or leave out the choices"
            )
        questions.append(KINDS[kind].question(record))
    if kind is None:
        raise UserError(f"{path} holds no questions")
    return kind, questions


def continuations(task: Task) -> tuple[list[str], list[str]]:
    """Returns the prompt and the text of each choice of each question of multiple choice."""
    pairs = [
        (prompt, _BEFORE_ANSWER + choice)
        for prompt, question in zip(task.prompts, task.questions, strict=True)
        for choice in question.choices
    ]
    return [prompt for prompt, _ in pairs], [choice for _, choice in pairs]


def choose_answers(task: Task, nats: np.ndarray) -> TaskResult:
    """Returns what the nats of `continuations` choose, with accuracies and calibration.

    `accuracy` is of the most probable choice; `accuracy_normalised` of the one with the most
    log-probability per character, `accuracy_bytes` per UTF-8 byte. The calibration is of the
    probabilities that the choices share.
    """
    answers, right_by = [], {"accuracy_normalised": 0, "accuracy_bytes": 0}
    at = 0
    for question, prompt in zip(task.questions, task.prompts, strict=True):
        own = nats[at : at + len(question.choices)]
        at += len(own)
        best = int(own.argmin())
        shares = np.exp(own.min() - own)
        for name, sizes in (
            ("accuracy_normalised", [len(choice) for choice in question.choices]),
            ("accuracy_bytes", [len(choice.encode()) for choice in question.choices]),
        ):
            right_by[name] += int((own / sizes).argmin()) == question.right
        answers.append(
            Answered(
                question,
                prompt,
                question.choices[best],
                best == question.right,
                tuple(own.tolist()),
                float(1 / shares.sum()),
            )
        )
    found = calibration(
        np.array([answer.confidence for answer in answers]),
        np.array([answer.is_right for answer in answers]),
    )
    measures = _measures(answers)
    for name, count in right_by.items():
        measures |= share_with_interval(name, count, len(answers))
    measures["chance"] = float(np.mean([1 / len(q.choices) for q in task.questions]))
    measures["expected_calibration_error"] = found.error
    return TaskResult(task, answers, measures, found)


def match_answers(task: Task, texts: Sequence[str]) -> TaskResult:
    """Returns how many generated texts hold the expected answers, spaces around them aside."""
    answers = []
    for question, prompt, text in zip(task.questions, task.prompts, texts, strict=True):
        given = answer_of(text, task.config)
        is_right = given == question.answer
        answers.append(Answered(question, prompt, given, is_right, text=text))
    return TaskResult(task, answers, _measures(answers), None)


def answer_of(text: str, config: TaskConfig) -> str:
    """Returns the answer that a generated text gives; "" if the pattern matches nowhere."""
    if not config.answer_pattern:
        return text.strip()
    matches = list(re.finditer(config.answer_pattern, text))
    if not matches:
        return ""
    last = matches[-1]
    return ((last[1] if last.re.groups else last[0]) or "").strip()


def _measures(answers: Sequence[Answered]) -> dict[str, Any]:
    count = sum(answer.is_right for answer in answers)
    return {"questions": len(answers)} | share_with_interval("accuracy", count, len(answers))


def _compile_pattern(config: TaskConfig) -> None:
    try:
        re.compile(config.answer_pattern)
    except re.error as error:
        raise UserError(
            f"answer_pattern is {config.answer_pattern!r}, which is no regular expression: {error}"
        ) from None
