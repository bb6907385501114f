"""The course's demonstrations: zero shot, few shot and chain of thought.

  python -m launch.evaluate --workdir=runs/quickstart --task=configs/tasks/course.py:few_shot

`word_problems.jsonl` holds 60 made-up problems of school arithmetic with their solutions;
`sentiment.jsonl` holds 40 sentences of reviews, half of them positive.
"""

from pathlib import Path

from lm_jax.choices import choose
from lm_jax.config.tasks import TaskConfig

_HERE = Path(__file__).parent
_PROBLEMS, _REVIEWS = (str(_HERE / f"{n}.jsonl") for n in ("word_problems", "sentiment"))
_NUMBER = r"-?\d+"
_REVIEW = "Review: {{ context }}\nSentiment:"

TASKS = {
    "zero_shot": TaskConfig(_PROBLEMS, answer_pattern=_NUMBER, max_new_tokens=96),
    "few_shot": TaskConfig(_PROBLEMS, shots=4, answer_pattern=_NUMBER, max_new_tokens=16),
    "chain_of_thought": TaskConfig(
        _PROBLEMS,
        shots=4,
        answer_template="{{ reasoning }} The answer is {{ answer }}.",
        answer_pattern=r"The answer is (-?\d+)",
        max_new_tokens=96,
    ),
    "sentiment_zero_shot": TaskConfig(_REVIEWS, template=_REVIEW),
    "sentiment_few_shot": TaskConfig(_REVIEWS, shots=8, template=_REVIEW),
}


def get_task(name: str) -> TaskConfig:
    """Returns a task by its name."""
    return choose(TASKS, name, "the task of configs/tasks/course.py")
