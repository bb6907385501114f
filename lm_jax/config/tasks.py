"""How the questions of a task are asked."""

import dataclasses

from lm_jax.fields import described


@dataclasses.dataclass
class TaskConfig:
    """Questions of a file, and how they are asked."""

    path: str = described("", "JSONL: context, choices, answer; or question, answer.")
    shots: int = described(0, "Solved examples before each question.", minimum=0)
    shots_path: str = described(
        "", "JSONL whose first lines are the examples; empty: other questions, drawn at random."
    )
    template: str = described(
        "",
        "jinja2 template of a question; empty: {{ context }}, or Question: {{ question }}, "
        "a new line, Answer:",
    )
    answer_template: str = described(
        "{{ answer }}", "jinja2 template of the answer of a solved example."
    )
    answer_pattern: str = described(
        "",
        "Exact match: regular expression whose last match in a text is its answer, or the first "
        "group of it; empty: the whole text.",
    )
    max_new_tokens: int = described(64, "Exact match: tokens to generate.", minimum=1)
    stop: str = described("\n\n", "Exact match: a text ends before this string.")
    max_questions: int = described(0, "Questions to ask, the first ones; 0: all.", minimum=0)
    seed: int = described(0, "Seed of the examples that are drawn.", minimum=0)
