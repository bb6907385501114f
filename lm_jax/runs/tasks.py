"""Asks a trained model the questions of a task."""

import numpy as np

from lm_jax.config.experiment import SamplesConfig
from lm_jax.evaluation import tasks, token_scores
from lm_jax.evaluation.tasks import Task, TaskResult
from lm_jax.progress import Show
from lm_jax.runs.evaluate import scorer_of
from lm_jax.runs.generate import complete
from lm_jax.runs.loaded_model import LoadedModel

_ROWS = 32  # texts that are generated together


def ask(
    run: LoadedModel, task: Task, *, begins: bool = True, show: Show | None = None
) -> TaskResult:
    """Returns what a run answers.

    Args:
      begins: whether a document begins before each prompt of multiple choice.
      show: called with the progress.

    Raises:
      UserError: the run is no language model of plain text, or a prompt does not fit it.
    """
    scorer = scorer_of(run)
    if task.questions[0].choices:
        contexts, choices = tasks.continuations(task)
        found = token_scores.score(scorer, contexts, choices, begins=begins, show=show)
        return tasks.choose_answers(task, found.nats)
    return tasks.match_answers(task, generated(run, task, show))


def generated(run: LoadedModel, task: Task, show: Show | None = None) -> list[str]:
    """Returns the most probable text after each prompt, token by token, without the prompt.

    Raises:
      UserError: a prompt does not fit the model.
    """
    samples = SamplesConfig(
        num_samples=1, temperature=0.0, max_new_tokens=task.config.max_new_tokens
    )
    order = np.argsort([len(prompt) for prompt in task.prompts], kind="stable").tolist()
    texts = [""] * len(order)
    for first in range(0, len(order), _ROWS):
        part = order[first : first + _ROWS]
        prompts = [task.prompts[index] for index in part]
        stop = [task.config.stop] if task.config.stop else []
        found = complete(run, prompts, samples, stop=stop)
        for index, completion in zip(part, found, strict=True):
            texts[index] = completion.text[completion.prompt_characters :]
        if show:
            show("answered", first + len(part), len(order))
    return texts
