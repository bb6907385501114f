"""A trained run, read back from its work directory: the interface of Python (docs/python.md)."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lm_jax import data
from lm_jax.analysis.attention_maps import AttentionReader, TextAttention
from lm_jax.analysis.text_scores import TextScores, mean_nats, score_texts
from lm_jax.analysis.text_states import StateReader, TextStates, embed_texts
from lm_jax.analysis.text_windows import check_texts, context_of
from lm_jax.build import build_experiment
from lm_jax.config.experiment import SamplesConfig
from lm_jax.errors import MeshError, UserError
from lm_jax.evaluation.token_scores import Scores
from lm_jax.generation.generate import Completion
from lm_jax.models import family_name, family_of
from lm_jax.models.interface import Variables
from lm_jax.parallel import processes
from lm_jax.parallel.mesh import AUTO
from lm_jax.plurals import counted
from lm_jax.reports.run_card import run_card
from lm_jax.runs import workdir
from lm_jax.runs.evaluate import score, scorer_of
from lm_jax.runs.generate import complete
from lm_jax.runs.loaded_model import LoadedModel
from lm_jax.runs.restore import merged_variables, restore_variables
from lm_jax.runs.weights import FLOAT32, weights_named
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.loggers import OnMetrics
from lm_jax.telemetry.run_digests import read_results
from lm_jax.training.checkpoints import Checkpoints

_UNCHANGED: Mapping[str, str] = {}
_SAMPLING = ("num_samples", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(LoadedModel):
    """A trained model, to score texts, to generate, to look inside and to train further."""

    @functools.cached_property
    def _state_reader(self) -> StateReader:
        tokenizer = self._needs_text("hidden states are")
        return StateReader(self.built, self._whole_variables, tokenizer)

    @functools.cached_property
    def _attention_reader(self) -> AttentionReader:
        return AttentionReader(self.built, self._whole_variables, self._needs_text("attention is"))

    @functools.cached_property
    def _whole_variables(self) -> Variables:
        """The variables with kernels as families read them: of the same values, in float32."""
        if self.weights == FLOAT32 or self.model.merge is None:
            return self.variables
        return jax.jit(self.model.merge)(self.variables)

    def _needs_text(self, what: str) -> data.Tokenizer:
        if self.tokenizer is None:
            raise UserError(f"{self.workdir} reads no text, and {what} of texts")
        return self.tokenizer

    def log_probabilities(
        self, texts: Sequence[str], *, stride: int = 0, context_length: int = 0
    ) -> list[TextScores]:
        """Returns the log-probability of each token of each text, in nats, and where it stands.

        Each text is a document of its own; an empty one has only its end. A text longer than the
        context is cut into windows, as in `launch.evaluate`.

        Args:
          stride: tokens between the starts of two windows; each token is scored once, from at
            least context - stride tokens before it. 0: disjoint windows.
          context_length: tokens of a window; 0: the context of the model.

        Raises:
          UserError: the run does not predict the next token, `texts` is no list of str, a text
            cannot be encoded, the stride is longer than the context, or the context longer than the
            model reads.
        """
        return score_texts(
            scorer_of(self),
            check_texts(texts),
            context_length=context_of(self.built, context_length),
            stride=stride,
        )

    def perplexity(
        self, texts: Sequence[str], *, stride: int = 0, context_length: int = 0
    ) -> float:
        """Returns exp of the mean nats per token of all texts together, as `launch.evaluate`.

        Each text is a document, whose end counts as a token; texts of white space are left out.

        Args:
          stride: as for `log_probabilities`.
          context_length: as there.

        Raises:
          UserError: as there; or no text holds anything.
        """
        kept = [text for text in check_texts(texts) if text.strip()]
        if not kept:
            raise UserError("no text holds anything but white space; give at least one that does")
        length = context_of(self.built, context_length)
        nats = mean_nats(scorer_of(self), kept, context_length=length, stride=stride)
        return math.exp(nats)

    def score(
        self, contexts: Sequence[str], continuations: Sequence[str], *, begins: bool = True
    ) -> Scores:
        """Returns what each continuation costs after its context, as benchmarks of choices ask.

        Args:
          begins: whether a document begins before the context.

        Raises:
          UserError: the run does not predict the next token, the lists are not of one length, or a
            continuation is empty or too long.
        """
        texts = check_texts(contexts, "contexts"), check_texts(continuations, "continuations")
        if len(texts[0]) != len(texts[1]):
            raise UserError(
                f"{counted(len(texts[0]), 'context')} and {counted(len(texts[1]), 'continuation')} "
                "are given; give one context for each continuation"
            )
        return score(self, *texts, begins=begins)

    def hidden_states(
        self,
        texts: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        stride: int = 0,
        context_length: int = 0,
    ) -> list[TextStates]:
        """Returns the states of each token of each text, float32 [L + 1, T, D].

        Layer 0 is what the first layer reads, l the output of layer l; the last is after the final
        norm. The tokens are those that the model reads in training: running text begins with the
        token that opens it. In an encoder-decoder the encoder reads the texts.

        Args:
          layers: the ones to return, in their order; -1 is the last. None: all.
          stride: as for `log_probabilities`.
          context_length: as there.

        Raises:
          UserError: the model shows no states, there is no such layer, `texts` is no list of str,
            or as there.
        """
        chosen = None if layers is None else tuple(layers)
        return self._state_reader.read(check_texts(texts), chosen, stride, context_length)

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: str = "mean",
        layer: int = -1,
        stride: int = 0,
        context_length: int = 0,
    ) -> np.ndarray:
        """Returns one vector for each text, float32 [N, D], of the states of a layer.

        A text without tokens, such as an empty one, has the state of the token that opens it, or
        ends it where none opens texts.

        Args:
          pooling: `mean` of the text's own tokens, or the `first` or the `last` that is read.
          layer: as for `hidden_states`.
          stride: as there.
          context_length: as there.

        Raises:
          UserError: as there, or there is no such pooling, or no text.
        """
        return embed_texts(
            self._state_reader, check_texts(texts), pooling, layer, stride, context_length
        )

    def attention(self, text: str, source: str | None = None) -> TextAttention:
        """Returns the attention weights of one text, by layer and head, with labels of its tokens.

        In a notebook it is a picture to choose from.

        Args:
          source: what the encoder of an encoder-decoder reads; `text` is then what it answers.

        Raises:
          UserError: the model has no attention, the text is longer than it reads at once, or a
            source is missing or one too many.
        """
        check_texts([text] if source is None else [text, source], "text")
        return self._attention_reader.read(text, source)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 256,
        num_samples: int = 1,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 0.95,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        num_beams: int = 1,
        num_best: int = 1,
        length_penalty: float = 1.0,
        length_penalty_kind: str = "power",
        early_stopping: str = "false",
        seed: int = 0,
        stop: Sequence[str] = (),
        truncate: bool = False,
        begins: bool = True,
    ) -> list[Completion]:
        """Returns texts that continue the prompts, in their order, each with its log-probability.

        There are `num_samples` of each prompt or, with `num_beams` above 1, at most the `num_best`
        best. The options are those of `launch.generate` (docs/generation.md).

        Args:
          prompts: beginnings of texts, "" for a new one; sources, for a model that translates.
          max_new_tokens: most tokens after each prompt.
          seed: of the samples, which do not depend on the other prompts.
          stop: strings that end a sampled text and are left out.
          truncate: cut prompts that are too long, instead of refusing them.
          begins: whether a document begins before each prompt, as in training here.

        Raises:
          UserError: the model does not generate, an option is out of its bounds, or a prompt does
            not fit the context.
        """
        config = SamplesConfig(
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            num_beams=num_beams,
            num_best=num_best,
            length_penalty=length_penalty,
            length_penalty_kind=length_penalty_kind,
            early_stopping=early_stopping,
        )
        given = check_texts(prompts, "prompts")
        _refuse_sampling_of_beams(config)
        return complete(self, given, config, seed=seed, stop=stop, truncate=truncate, begins=begins)

    def train(
        self,
        workdir: str | Path,
        texts: Sequence[str] | None = None,
        *,
        num_steps: int | None = None,
        validation_texts: Sequence[str] | None = None,
        changes: Mapping[str, Any] = _UNCHANGED,
        on_metrics: OnMetrics = lambda step, metrics: None,
    ) -> "Run":
        """Trains this run further in a new work directory, and returns the new run.

        With `texts` the parameters are fine-tuned on them, from step 0 with a fresh optimizer, and
        the directory keeps the texts. Without, the run goes on as if it had not ended: with its
        data, its place in them and its optimizer's state. The same call resumes what was stopped.

        Args:
          workdir: the new work directory.
          num_steps: of the whole new run, the steps before a continuation included; None: as this
            run has.
          validation_texts: what the new run is validated on; None: the last tenth of each text.
          changes: other values of the experiment by dotted path, such as
            `{"schedule.peak_learning_rate": 1e-4, "training.batch_size": 8}`.
          on_metrics: called with each step that is logged and its numbers.

        Raises:
          UserError: before anything is written, if the new run cannot begin; later, if its loss is
            no longer finite.
          OSError: the work directory cannot be written.
        """
        from lm_jax.runs import train_from_python  # reading a run does not need the training

        steps = {} if num_steps is None else {"training.num_steps": num_steps}
        changes = {**steps, **changes}
        if texts is not None:
            train_from_python.fine_tune(self, workdir, texts, validation_texts, changes, on_metrics)
        elif validation_texts is not None:
            raise UserError("validation_texts are given without texts to train on; give both")
        else:
            train_from_python.train_further(self, workdir, changes, on_metrics)
        return load(workdir)

    @property
    def results(self) -> dict[str, Any]:
        """What the run reached, from its evaluation.json; {} before it has ended."""
        return dict(read_results(self.workdir))

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of its metrics.jsonl, by step: numbers of training and of evaluations."""
        return read_metrics(self.workdir)

    @property
    def num_parameters(self) -> int:
        """The number of its parameters."""
        whole = jax.eval_shape(self.model.merge or (lambda x: x), self.variables)
        return sum(leaf.size for leaf in jax.tree.leaves(whole["params"]))

    def _repr_html_(self) -> str:
        """Returns its card, which notebooks show."""
        config, report = self.config, self.workdir / "report.html"
        description = workdir.read_description(self.workdir)
        facts = {
            "model": family_name(config.model),
            "objective": config.objective,
            "parameters": f"{self.num_parameters:,}",
            "step": f"{self.step:,}",
            "data": description.get("summary", ""),
            "imported from": description.get("imported_from", ""),
        }
        card = run_card(
            str(self.workdir),
            [(name, value) for name, value in facts.items() if value],
            self.results.get("validation") or {},
            str(report) if report.exists() else None,
        )
        return str(card)

    def __repr__(self) -> str:
        family = family_name(self.config.model)
        return (
            f"<Run {self.workdir}: {family} for {self.config.objective}, "
            f"{self.num_parameters:,} parameters, step {self.step}>"
        )


def load(
    directory: str | Path,
    checkpoint: str = "last",
    *,
    weights: str = FLOAT32,
    trust_code: bool = False,
    log: Callable[[str], None] = print,
) -> Run:
    """Returns the run of a work directory at its `last` readable checkpoint, its `best`, or a step.

    Its mesh is the run's own if it fits the devices here. Otherwise it is one device or, on several
    hosts, all devices as data parallel.

    Args:
      weights: one of `WEIGHTS`; with `int8` those of dense layers are rounded.
      trust_code: whether to run the code that the directory names, now and from now on.

    Raises:
      UserError: the directory holds no run, no such checkpoint, or none that can be read; it names
        code that the user does not trust; or there are no such weights.
    """
    change = weights_named(weights)
    directory = Path(directory)
    if trust_code:
        workdir.trust_code(directory)
    experiment = workdir.read_experiment(directory)
    tokenizer = None
    if experiment.data.has_text:
        tokenizer = data.load_tokenizer(directory / "tokenizer")
    sizes = workdir.read_sizes(directory)
    # A model that is read need not run the kernels that it was trained with.
    model = family_of(experiment.model).for_any_device(experiment.model)
    experiment = dataclasses.replace(experiment, model=model)
    try:
        built = build_experiment(experiment, sizes)
    except MeshError:  # trained on other devices than are here; one is enough to read it
        experiment = dataclasses.replace(experiment, mesh=AUTO)
        devices = None if processes.several() else jax.devices()[:1]
        built = build_experiment(experiment, sizes, devices)
    changed, convert = change(built)
    with contextlib.closing(
        Checkpoints(directory / "checkpoints", experiment.checkpoint, read_only=True)
    ) as checkpoints:
        step, variables = restore_variables(built, checkpoints, checkpoint, log)
    variables = convert(merged_variables(built, variables))
    return Run(directory, changed, tokenizer, step, variables, weights)


def _refuse_sampling_of_beams(config: SamplesConfig) -> None:
    """Raises UserError if beams are asked for with an option of samples other than its default."""
    defaults = SamplesConfig(num_samples=1)
    given = [name for name in _SAMPLING if getattr(config, name) != getattr(defaults, name)]
    if config.num_beams > 1 and given:
        raise UserError(
            f"{' and '.join(given)} apply to samples, and num_beams={config.num_beams} searches "
            "for the most probable texts: leave them out, or leave out num_beams"
        )
