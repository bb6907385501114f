"""A trained run as a model of lm-evaluation-harness, and its tasks on it.

Needs the package `lm_eval`: pip install -e '.[harness]'.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import yaml
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.token_scores import score_encoded
from lm_jax.generation.prompts import longest_context
from lm_jax.progress import Show, progress
from lm_jax.runs.evaluate import scorer_of
from lm_jax.runs.generate import complete
from lm_jax.runs.loaded_model import LoadedModel

_ROWS = 32  # texts that are generated together
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class HarnessModel(TemplateLM):
    """A run as lm-evaluation-harness asks it; what opens a text is its prefix token."""

    def __init__(self, run: LoadedModel, *, begins: bool = True, show: Show | None = None):
        """Wraps a run.

        Args:
          begins: whether a document begins before each context and prompt of multiple choice.
          show: called with the progress.

        Raises:
          UserError: the run does not predict the next token of plain text.
        """
        super().__init__()
        self._run, self._scorer, self._begins, self._show = run, scorer_of(run), begins, show
        self._text_tokenizer = self._scorer.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self._text_tokenizer.end_of_document

    @property
    def prefix_token_id(self) -> int:
        """The token that opens a text."""
        return self._text_tokenizer.beginning

    @property
    def max_length(self) -> int:
        """Tokens of a window."""
        return longest_context(self._run.built) or self._run.config.model.context_length

    @property
    def tokenizer_name(self) -> str:
        """A name for the cache of requests."""
        return str(self._run.workdir).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Returns the tokens of a text, after the token that opens it where one begins."""
        is_open = self._begins if add_special_tokens is None else add_special_tokens
        opening = [self.prefix_token_id] if is_open else []
        return opening + self._text_tokenizer.encode(string).tolist()

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [
            (np.array(context, np.int32), np.array(continuation, np.int32))
            for _, context, continuation in requests
        ]
        found = score_encoded(self._scorer, pairs, self._show)
        return list(zip((-found.nats).tolist(), found.is_greedy.tolist(), strict=True))

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns the log-likelihood of whole texts, in the harness's windows."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            (text,) = request.args
            found = utils.get_rolling_token_windows(
                self.tok_encode(text, add_special_tokens=False),
                self.prefix_token_id,
                self.max_length,
                context_len=1,
            )
            for window in map(utils.make_disjoint_window, found):
                windows.append((None, *window))
                owners.append(number)
        scores = [nats for nats, _ in self._loglikelihood_tokens(windows)]
        return (
            np.bincount(owners, scores, len(requests)).tolist() if owners else [0.0] * len(requests)
        )

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns what follows each prompt, up to a string that ends it."""
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        done = 0
        for numbers in groups.values():
            settings, stop = _samples(requests[numbers[0]].args[1])
            prompts = {n: self._shortened(requests[n].args[0], settings) for n in numbers}
            order = sorted(numbers, key=lambda n: len(prompts[n]))
            for first in range(0, len(order), _ROWS):
                part = order[first : first + _ROWS]
                found = complete(self._run, [prompts[n] for n in part], settings, stop=stop)
                for number, completion in zip(part, found, strict=True):
                    texts[number] = completion.text[completion.prompt_characters :]
                done += len(part)
                if self._show:
                    self._show("generated", done, len(requests))
        return texts

    def _shortened(self, prompt: str, settings: SamplesConfig) -> str:
        """Returns the end of a prompt that leaves room for the new tokens."""
        tokens = self._text_tokenizer.encode(prompt)
        room = self.max_length - 1 - settings.max_new_tokens
        if len(tokens) <= room or longest_context(self._run.built) is None:
            return prompt
        if room < 1:
            raise UserError(
                f"a task asks for {settings.max_new_tokens} new tokens, and the model reads "
                f"{self.max_length}; set a smaller max_gen_toks in its generation_kwargs"
            )
        return self._text_tokenizer.decode(tokens[-room:])


def _samples(given: Mapping[str, Any]) -> tuple[SamplesConfig, list[str]]:
    """Returns the settings of the generation_kwargs of a task, and the strings that end a text."""
    kwargs = normalize_gen_kwargs(dict(given))
    stop = [text for text in kwargs.pop("until", []) if text]
    samples = SamplesConfig(num_samples=1, max_new_tokens=kwargs.pop("max_gen_toks"))
    samples.temperature, samples.top_p = 0.0, 1.0
    if kwargs.pop("do_sample", False):
        for name in _SAMPLING:
            if name in kwargs:
                setattr(samples, name, kwargs.pop(name))
    return samples, stop


def run_tasks(
    run: LoadedModel, tasks: Sequence[str], *, begins: bool, shots: int | None, limit: int | None
) -> dict[str, Any]:
    """Returns the harness's results of tasks, by their names.

    Args:
      tasks: names of the harness's own tasks, or YAML files of others.
      begins: as for `HarnessModel`.
      shots: solved examples before each question; None: the task's own number.
      limit: questions of a task to ask; None: all.

    Raises:
      UserError: there is no such task, or its data cannot be read.
    """
    names, folders = _names_of(tasks)
    with _quiet(), progress() as show:
        manager = TaskManager(include_path=folders or None)
        for name in names:
            if not manager.match_tasks([name]):
                raise UserError(
                    f"--harness_tasks={name}: lm-evaluation-harness {lm_eval.__version__} has no "
                    "task of this name; give one of `lm-eval ls tasks`, or the YAML file of a task"
                )
        model = HarnessModel(run, begins=begins, show=show)
        try:
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=names,
                task_manager=manager,
                num_fewshot=shots,
                limit=limit,
                log_samples=False,
            )
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(
                f"--harness_tasks={','.join(tasks)}: lm-evaluation-harness cannot run them: {what}"
            ) from error
    assert found is not None
    return {name: dict(figures) for name, figures in found["results"].items()}


def _names_of(tasks: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the names of tasks, and the folders of those that are files."""
    names, folders = [], []
    for given in tasks:
        path = Path(given)
        if path.suffix not in (".yaml", ".yml"):
            names.append(given)
            continue
        if not path.is_file():
            raise UserError(f"--harness_tasks={given}: there is no such file")
        try:
            config = yaml.load(path.read_text(encoding="utf-8"), Loader=_NameLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            message = " ".join(str(error).split())
            raise UserError(f"--harness_tasks={given} is no YAML: {message}") from None
        name = config.get("task") if isinstance(config, dict) else None
        if not isinstance(name, str):
            raise UserError(f"--harness_tasks={given} has no `task: NAME`; it is no task file")
        names.append(name)
        folders.append(str(path.parent))
    return names, list(dict.fromkeys(folders))


class _NameLoader(yaml.SafeLoader):
    """Reads what stands beside the harness's own tags, such as !function, which it leaves out."""


_NameLoader.add_multi_constructor("", lambda loader, tag, node: None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the harness's remarks off the terminal, but for its errors."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
