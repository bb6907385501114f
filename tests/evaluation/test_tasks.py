import json

import numpy as np
import pytest

from configs.tasks.course import TASKS, get_task
from lm_jax.config.tasks import TaskConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.tasks import (
    answer_of,
    choose_answers,
    continuations,
    match_answers,
    read_task,
)

CHOICE = {"context": "Sky is", "choices": ["blue", "a green thing"], "answer": "blue"}
EXACT = {"question": "1 + 1?", "answer": 2}


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TaskConfig(str(path))


def test_a_choice_may_be_named_by_its_text_or_its_number(tmp_path):
    lines = [CHOICE, CHOICE | {"answer": 1}, CHOICE | {"choices": ["1", "0"], "answer": "0"}]
    task = read_task("t", write(tmp_path / "t.jsonl", *lines))
    assert task.kind == "multiple_choice"
    assert [question.right for question in task.questions] == [0, 1, 1]
    contexts, choices = continuations(task)
    assert contexts == ["Sky is"] * 6
    assert choices == [" blue", " a green thing"] * 2 + [" 1", " 0"]


def test_accuracies_are_those_of_sums_characters_and_bytes(tmp_path):
    lines = [CHOICE | {"choices": ["ab", "abcd", "éé"], "answer": n} for n in (0, 1, 2)]
    task = read_task("t", write(tmp_path / "t.jsonl", *lines))
    own = [2.0, 3.0, 2.2]  # per character 1, 0.75, 1.1; per byte 1, 0.75, 0.55
    result = choose_answers(task, np.array(own * 3))
    assert [answer.given for answer in result.answers] == ["ab"] * 3
    assert [answer.is_right for answer in result.answers] == [True, False, False]
    shares = np.exp(-np.array(own)) / np.exp(-np.array(own)).sum()
    assert result.answers[0].confidence == pytest.approx(shares[0])
    measures = result.measures
    for name in ("accuracy", "accuracy_normalised", "accuracy_bytes", "chance"):
        assert measures[name] == pytest.approx(1 / 3)
    assert measures["expected_calibration_error"] == pytest.approx(abs(1 / 3 - shares[0]))
    only = {"accuracy": 0, "accuracy_normalised": 1, "accuracy_bytes": 2}
    for name, right in only.items():  # each accuracy has a choice of its own
        task = read_task("t", write(tmp_path / "t.jsonl", lines[right]))
        assert [choose_answers(task, np.array(own)).measures[n] for n in only] == [
            float(n == name) for n in only
        ]


def test_shots_are_solved_examples_with_blank_lines_between(tmp_path):
    lines = [{"question": str(n), "answer": n * n, "why": f"{n}x{n}"} for n in range(5)]
    config = write(tmp_path / "t.jsonl", *lines)
    config.shots_path, config.shots = config.path, 2
    config.template, config.answer_template = "Q {{ question }} =", "{{ why }}: {{ answer }}"
    task = read_task("t", config)
    assert task.prompts[3] == "Q 0 = 0x0: 0\n\nQ 1 = 1x1: 1\n\nQ 3 ="
    config.shots_path, config.max_questions = "", 4
    drawn = read_task("t", config)
    assert drawn.prompts == read_task("t", config).prompts and len(drawn.prompts) == 4
    for number, prompt in enumerate(drawn.prompts):  # a question never shows its own answer
        assert prompt.count("\n\n") == 2 and f"{number}x{number}" not in prompt
    config.seed = 1
    assert read_task("t", config).prompts != drawn.prompts
    config.shots = 5
    with pytest.raises(UserError, match="t: shots is 5, but .* has 4 examples to give"):
        read_task("t", config)


def test_an_answer_is_the_last_match_of_its_pattern(tmp_path):
    config = write(tmp_path / "t.jsonl", EXACT, EXACT, EXACT)
    config.answer_pattern = r"is (\d+)"
    assert answer_of("3 is 3, so it is 2.", config) == "2" and answer_of("two", config) == ""
    result = match_answers(read_task("t", config), ["it is 2", "it is 4", ""])
    assert [a.is_right for a in result.answers] == [True, False, False]
    assert result.measures["accuracy"] == pytest.approx(1 / 3) and result.calibration is None
    config.answer_pattern = ""
    assert match_answers(read_task("t", config), [" 2\n", "2.", "2"]).measures["accuracy"] == 2 / 3
    assert answer_of("b3", TaskConfig(answer_pattern=r"\d|x")) == "3"


BAD = {
    "choices of a question": ([EXACT | {"choices": ["2", "3"]}], "t.jsonl:1: .* field context"),
    "a missing field": ([EXACT, {"question": "x"}], r"t.jsonl:2: .* and no answer"),
    "no choices": ([CHOICE, {"context": "x", "answer": 0}], r"t.jsonl:2: .* and no choices; exp"),
    "neither kind": ([{"answer": 1}], r"t.jsonl:1: .* no context, choices; expected c"),
    "another kind": ([EXACT, CHOICE], r"t.jsonl:2: .* and no question"),
    "a choice too many": (
        [CHOICE | {"answer": 2}],
        r"t.jsonl:1: answer is 2, .* 0 to 1",
    ),
    "an answer outside": ([CHOICE | {"answer": "red"}], r"answer is 'red', .* one of 'blue', 'a g"),
    "a truth value": ([CHOICE | {"answer": True}], r"answer is True"),
    "one choice": ([CHOICE | {"choices": ["blue"]}], r"expected a list of at least two different"),
    "equal choices": ([CHOICE | {"choices": ["a", "a"], "answer": 0}], r"two different texts"),
    "a choice of spaces": ([CHOICE | {"choices": ["a", " "], "answer": 0}], r"two different texts"),
    "choices as text": ([CHOICE | {"choices": "ab", "answer": 0}], r"t.jsonl:1: choices is ab"),
    "an empty answer": ([EXACT | {"answer": " "}], r"t.jsonl:1: answer is ' '; expected a text"),
    "a number as context": ([CHOICE | {"context": 3}], r"t.jsonl:1: context is 3; expected a text"),
    "no object": (["x"], r"t.jsonl:1: .* no JSON object"),
    "nothing": ([], r"t.jsonl holds no questions"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named(case, tmp_path):
    lines, message = BAD[case]
    with pytest.raises(UserError, match=message):
        read_task("t", write(tmp_path / "t.jsonl", *lines))


def test_faults_of_a_configuration_are_named(tmp_path):
    config = write(tmp_path / "t.jsonl", EXACT, EXACT)
    faults = {
        "answer_pattern": ("(", r"answer_pattern is '\(', which is no regular expression"),
        "template": ("{{ answer }}", r"t.jsonl:[12]: the template raises UndefinedError: 'answer'"),
        "answer_template": ("{{ reason }}", r"t.jsonl:[12]: the answer template raises Undefined"),
        "path": (str(tmp_path / "no"), "no: there is no such file of questions"),
        "shots": (-1, "t: shots is -1; expected at least 0"),
    }
    for field, (value, message) in faults.items():
        with pytest.raises(UserError, match=message):
            read_task("t", TaskConfig(**(vars(config) | {"shots": 1, field: value})))


@pytest.mark.parametrize("name", TASKS)
def test_the_courses_solutions_are_right_by_their_own_rules(name):
    task = read_task(name, get_task(name))
    if not task.questions[0].choices:
        fields = [q.fields | {"answer": q.answer} for q in task.questions]
        texts = [f"{each['reasoning']} The answer is {each['answer']}." for each in fields]
        assert match_answers(task, texts).measures["accuracy"] == 1
        last = [each["reasoning"].rstrip(".").split()[-1] for each in fields]
        assert last == [each["answer"] for each in fields]
