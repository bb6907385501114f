"""A trained run, read back from its work directory, to evaluate it and to generate with it."""

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
from lm_jax.analysis.inspect import embedding_table
from lm_jax.analysis.text_scores import TextScores, mean_nats, score_texts
from lm_jax.analysis.text_states import StateReader, TextStates, embed_texts
from lm_jax.analysis.text_windows import check_texts, context_of
from lm_jax.build import BuiltExperiment, build_experiment, measure
from lm_jax.config.experiment import EvaluationConfig, Experiment, SamplesConfig
from lm_jax.data.config import PLACES
from lm_jax.data.documents import SOURCES
from lm_jax.data.text.config import DataConfig
from lm_jax.errors import MeshError, UserError
from lm_jax.evaluation import token_scores
from lm_jax.evaluation.loss_sums import (
    MeasuredFunction,
    PositionSums,
    make_loss_function,
    sum_by_position,
)
from lm_jax.evaluation.token_scores import Scorer, Scores
from lm_jax.evaluation.word_vectors import WordVectors, word_vectors
from lm_jax.generation import generate
from lm_jax.generation.beam_tree import tree_lines
from lm_jax.generation.generate import Completion, TextGenerator
from lm_jax.generation.prompts import longest_context
from lm_jax.generation.token_labels import namer
from lm_jax.host_memory import host_memory
from lm_jax.models import family_name, family_of
from lm_jax.models.interface import Model, Variables
from lm_jax.models.parameters import path_of
from lm_jax.objectives import OBJECTIVES
from lm_jax.objectives.validation import validate
from lm_jax.parallel import processes, sharding
from lm_jax.parallel.mesh import AUTO
from lm_jax.reports.run_card import run_card
from lm_jax.runs import workdir
from lm_jax.runs.text_evaluation import (
    TextModel,
    losses_behind_opening,
    measures_of_texts,
    sum_texts,
)
from lm_jax.telemetry.json_files import read_metrics
from lm_jax.telemetry.loggers import OnMetrics
from lm_jax.telemetry.run_files import read_results
from lm_jax.training import state
from lm_jax.training.checkpoints import Checkpoints
from lm_jax.training.state import TrainState, variables_of

Dataset = data.Dataset
_UNMOVED: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A trained model, read back from its work directory (docs/python.md)."""

    workdir: Path
    built: BuiltExperiment
    tokenizer: data.Tokenizer | None  # None: it reads no text
    step: int
    variables: Variables

    @property
    def model(self) -> Model:
        """The pure functions of the model, such as `apply`: see `lm_jax.models.interface`."""
        return self.built.model

    @property
    def config(self) -> Experiment:
        """The experiment, filled in with the sizes that its data decided."""
        return self.built.experiment

    @functools.cached_property
    def losses(self) -> MeasuredFunction:
        """(variables, batch) -> what each target cost, compiled once for each shape."""
        return make_loss_function(self.built.loss)

    @functools.cached_property
    def _state_reader(self) -> StateReader:
        return StateReader(self.built, self.variables, self._needs_text("hidden states are"))

    @functools.cached_property
    def _attention_reader(self) -> AttentionReader:
        return AttentionReader(self.built, self.variables, self._needs_text("attention is"))

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
                f"there are {len(texts[0])} contexts and {len(texts[1])} continuations; give one "
                "context for each continuation"
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
        changes: Mapping[str, Any] = _UNMOVED,
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
        from lm_jax.runs import train_from_python  # which imports this module

        steps = {} if num_steps is None else {"training.num_steps": num_steps}
        if texts is not None:
            return train_from_python.fine_tune(
                self, workdir, texts, validation_texts, {**steps, **changes}, on_metrics
            )
        if validation_texts is not None:
            raise UserError("validation_texts are given without texts to train on; give both")
        return train_from_python.train_further(self, workdir, {**steps, **changes}, on_metrics)

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
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

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
    directory: str | Path, checkpoint: str = "last", *, log: Callable[[str], None] = print
) -> Run:
    """Returns the run of a work directory at its `last` readable checkpoint, its `best`, or a step.

    Its mesh is the run's own if it fits the devices here. Otherwise it is one device or, on several
    hosts, all devices as data parallel.

    Raises:
      UserError: the directory holds no run, no such checkpoint, or none that can be read.
    """
    directory = Path(directory)
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
    with contextlib.closing(
        Checkpoints(directory / "checkpoints", experiment.checkpoint, read_only=True)
    ) as checkpoints:
        step, variables = restore_variables(built, checkpoints, checkpoint, log)
    return Run(directory, built, tokenizer, step, merged_variables(built, variables))


def merged_variables(built: BuiltExperiment, variables: Variables) -> Variables:
    """Returns the variables that a run is read with: low-rank updates are in their kernels."""
    if built.model.merge is None:
        return variables
    shapes = jax.eval_shape(built.model.merge, variables)
    kept = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(variables)}
    shardings = jax.tree_util.tree_map_with_path(
        lambda path, _: kept[path_of(path)].sharding, shapes
    )
    return jax.jit(built.model.merge, out_shardings=shardings)(variables)


def abstract_state(built: BuiltExperiment) -> TrainState | None:
    """Returns the shapes of checkpoints; None for count-based models, whose data decides them."""
    if built.model.is_count_based:
        return None
    return state.abstract_state(built.model, built.optimizer, built.example, built.mesh)


def restore(
    built: BuiltExperiment, checkpoints: Checkpoints, which: str, log: Callable[[str], None]
) -> tuple[int, TrainState]:
    """Returns the step and the state of a checkpoint, on the experiment's mesh.

    Raises:
      UserError: there is no such checkpoint, or none that can be read.
    """
    shapes = abstract_state(built)
    if shapes is not None:
        checkpoints.refuse_other_shapes(which, shapes.params)
    step, state = checkpoints.restore(shapes, which, log)
    if isinstance(state, dict):
        state = sharding.replicated(TrainState(**state), built.mesh)
    return step, state


def restore_variables(
    built: BuiltExperiment, checkpoints: Checkpoints, which: str, log: Callable[[str], None]
) -> tuple[int, Variables]:
    """Returns the step and the variables of a checkpoint; the optimizer's state is not read.

    Raises:
      UserError: as `restore`.
    """
    shapes = abstract_state(built)
    if shapes is None:
        step, state = restore(built, checkpoints, which, log)
        return step, variables_of(state)
    checkpoints.refuse_other_shapes(which, shapes.params)
    step, found = checkpoints.restore(shapes, which, log, parts=("params", "stats"))
    return step, {"params": found["params"], **found["stats"]}


def split_of(run: Run, split: str, moved: Mapping[str, str] = _UNMOVED) -> Any:
    """Returns the `train`, `validation` or `test` split that the run was trained with.

    The work directory holds copies of held-out splits that are not large. All else is prepared
    again from the training data.

    Args:
      moved: where the data is now, by the field of `data` (of `PLACES`) that said where it was.

    Raises:
      UserError: the data cannot be read, or it changed since, or there is no such split.
    """
    config = run.built.experiment.data
    if source := workdir.read_description(run.workdir).get("imported_from"):
        raise UserError(
            f"{run.workdir} was imported and has no {split} split (from {source}); measure texts "
            "with --text=FILES"
        )
    if split == "test" and "test" not in workdir.read_description(run.workdir):
        raise UserError(
            f"{run.workdir} was trained without a test split; name one with data.test_path in a "
            "new run, or measure texts with a run on plain text: --text=FILES"
        )
    if split != "train" and not moved:
        copy = data.load_held_out(config, run.workdir, split)
        if copy is not None:
            return copy
    before = dataclasses.asdict(config)
    for field, place in moved.items():
        if not before.get(field):
            raise UserError(
                f"--data_path={field}={place}: {run.workdir} reads no data.{field} (data.source is "
                f"{config.source}); leave it out"
            )
    # A stranger's configuration may name any directory as its cache: none but our own is written.
    own = {"cache_directory": ""} if "cache_directory" in before else {}
    config = dataclasses.replace(config, **own, **moved)
    if config.has_text and config.tokenizer.path:
        tokenizer = dataclasses.replace(config.tokenizer, path=str(run.workdir))  # its own copy
        config = dataclasses.replace(config, tokenizer=tokenizer)
    read = [name for name in PLACES if before.get(name)]
    places = [f"--data_path={'' if name == 'path' else f'{name}='}PATH" for name in read]
    advice = f"name the data that it was trained on with {' '.join(places)}"
    advice = advice if read else "only the data that it was trained on can be measured"
    try:
        dataset = processes.first_then_others(lambda: data.prepare(config))
    except UserError as error:
        if not read:
            raise
        raise UserError(f"{error}; if the data of {run.workdir} moved, {advice}") from error
    workdir.refuse_other_data(dataset, run.workdir, advice)
    return dataset.splits[split]


def evaluate(
    run: Run, *, split: str, eval_config: EvaluationConfig, moved: Mapping[str, str] = _UNMOVED
) -> dict[str, Any]:
    """Returns the measures of the run's own `train`, `validation` or `test` split.

    `sources` holds those of each source of a mixture, where it is known (not of `test`).

    Args:
      moved: as for `split_of`.

    Raises:
      UserError: the windows do not fit the text, or the data changed since training.
    """
    _check_evaluation(run, eval_config)
    examples = split_of(run, split, moved)
    facts: dict[str, Any] = {**workdir.read_description(run.workdir)}
    sources = facts.get(SOURCES.get(split, ""), {})
    return measure(
        run.built, run.losses, run.variables, examples, run.tokenizer, eval_config, sources
    )


def evaluate_texts(
    run: Run, texts: Mapping[str, Sequence[str]], *, eval_config: EvaluationConfig
) -> dict[str, dict[str, Any]]:
    """Returns the measures of any texts, by the name of each set of documents.

    The run's own tokenizer cuts them. Blank documents are left out, but for rolling windows.

    Raises:
      UserError: the run was not trained on plain text, a set holds no text, or the windows do not
        fit the model.
    """
    model = text_model(run, eval_config)
    found = {}
    for name, documents in texts.items():
        kept = [documents[number] for number in documents_with_text(documents, eval_config)]
        sums = sum_texts(model, name, kept, eval_config)
        found[name] = measures_of_texts(model, sums, eval_config)
    return found


def text_model(run: Run, eval_config: EvaluationConfig) -> TextModel:
    """Returns what measures plain texts with a run.

    Raises:
      UserError: the run was not trained on plain text, or the windows do not fit the model.
    """
    experiment = run.built.experiment
    if experiment.data.kind != DataConfig.kind or run.tokenizer is None:
        raise UserError(
            f"{run.workdir} was trained on {experiment.data.kind} data; plain texts are for "
            "language models (launch.translate and launch.classify read new texts of the others)"
        )
    _check_evaluation(run, eval_config)
    losses = losses_behind_opening(run.losses, run.tokenizer)
    return TextModel(run.workdir.name, run.built, losses, run.variables, run.tokenizer)


def documents_with_text(documents: Sequence[str], eval_config: EvaluationConfig) -> list[int]:
    """Returns the numbers of the documents that are measured.

    Blank ones are not, but for rolling windows: lm-evaluation-harness counts their words.
    """
    all_of_them = eval_config.windows == "rolling"
    return [number for number, text in enumerate(documents) if all_of_them or text.strip()]


def evaluate_by_position(
    run: Run, *, split: str, eval_config: EvaluationConfig, moved: Mapping[str, str] = _UNMOVED
) -> PositionSums:
    """Returns the sums at each position of a window, for a model that predicts the next token.

    Args:
      moved: as for `split_of`.

    Raises:
      UserError: as `evaluate`, or the run predicts something else.
    """
    experiment = run.built.experiment
    if not run.built.objective.in_windows:
        in_windows = ", ".join(name for name, each in OBJECTIVES.items() if each.in_windows)
        raise UserError(
            f"{run.workdir} is trained for {experiment.objective}; the loss by position is of "
            f"models that read running text in windows ({in_windows})"
        )
    _check_evaluation(run, eval_config)
    documents = split_of(run, split, moved)
    length = eval_config.context_length or experiment.model.context_length
    batches, _ = run.built.objective.evaluation_batches(experiment, documents, eval_config)
    with sharding.on_mesh(run.built.mesh):
        return sum_by_position(run.losses, run.variables, batches, length, run.built.mesh)


def score(
    run: Run, contexts: Sequence[str], continuations: Sequence[str], *, begins: bool = True
) -> Scores:
    """Returns the nats and tokens of each continuation of its context, and whether it is greedy.

    Args:
      begins: whether a document begins before the context.

    Raises:
      UserError: the run is no language model of plain text, or a continuation is empty or too long.
    """
    return token_scores.score(scorer_of(run), contexts, continuations, begins=begins)


def scorer_of(run: Run) -> Scorer:
    """Returns what scores the tokens of texts with a run.

    Raises:
      UserError: the run does not predict the next token of plain text.
    """
    built = run.built
    if run.tokenizer is None or not built.objective.in_windows:
        in_windows = ", ".join(name for name, each in OBJECTIVES.items() if each.in_windows)
        raise UserError(
            f"{run.workdir} is trained for {built.experiment.objective}; continuations are scored "
            f"by models that predict the next token of plain text ({in_windows})"
        )
    return Scorer(
        built.model,
        run.variables,
        built.mesh,
        run.tokenizer,
        built.experiment.model.vocab_size,
        longest_context(built),
    )


def _check_evaluation(run: Run, eval_config: EvaluationConfig) -> None:
    validate(dataclasses.replace(run.built.experiment, evaluation=eval_config))
    sharding.check_divides(run.built.mesh, eval_config.batch_size, "an evaluation batch")
    refuse_huge_batch(run.built, eval_config.batch_size, "evaluation.batch_size")


def refuse_huge_batch(built: BuiltExperiment, rows: int, name: str) -> None:
    """Raises UserError if what the model reads of a batch alone exceeds the memory of all hosts."""
    memory = host_memory()
    shapes = built.example.values()
    needed = rows * sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in shapes)
    if memory is not None and needed > memory * jax.process_count():
        raise UserError(
            f"{name} is {rows}: the arrays of a batch take {needed / 1e9:.3g} GB, and there are "
            f"{memory / 1e9:.3g} GB of memory; choose a smaller one"
        )


def complete(
    run: Run,
    prompts: Sequence[str],
    config: SamplesConfig,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
    truncate: bool = False,
    begins: bool = True,
) -> list[Completion]:
    """Returns `num_samples` samples of each prompt or, with several beams, the `num_best` best.

    A sampled text that outgrows the model's context continues from its last half context.

    Args:
      stop: strings that end a sampled text; they are left out, and so is all that follows.
      truncate: cut prompts that are too long, instead of refusing them.
      begins: whether a document begins before each prompt.

    Raises:
      UserError: the model does not generate, or a prompt does not fit its context.
    """
    generator = text_generator(run, config)
    if config.num_beams == 1:
        return generate.complete(
            generator, prompts, config, seed=seed, stop=stop, truncate=truncate, begins=begins
        )
    if stop:
        raise UserError("stop strings end samples; beams end by the model's own end: leave one out")
    found, _ = generate.search(generator, prompts, config, truncate=truncate, begins=begins)
    return [text for texts in found for text in texts]


_SAMPLING = ("num_samples", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def _refuse_sampling_of_beams(config: SamplesConfig) -> None:
    """Raises UserError if beams are asked for with an option of samples other than its default."""
    defaults = SamplesConfig(num_samples=1)
    given = [name for name in _SAMPLING if getattr(config, name) != getattr(defaults, name)]
    if config.num_beams > 1 and given:
        raise UserError(
            f"{' and '.join(given)} apply to samples, and num_beams={config.num_beams} searches "
            "for the most probable texts: leave them out, or leave out num_beams"
        )


def search_tree(run: Run, prompt: str, config: SamplesConfig, *, begins: bool = True) -> list[str]:
    """Returns the beams of one prompt as lines of text.

    Args:
      begins: as for `complete`.

    Raises:
      UserError: as `complete`.
    """
    generator = text_generator(run, config)
    _, (tree,) = generate.search(generator, [prompt], config, begins=begins)
    return list(tree_lines(tree, namer(generator.tokenizer, run.built.experiment)))


def next_tokens(run: Run, prompt: str, *, begins: bool = True) -> list[generate.NextToken]:
    """Returns the most probable next tokens at the start of a text and after each prompt token.

    Args:
      begins: as for `complete`; otherwise there are none at the start.

    Raises:
      UserError: the model does not generate, or the prompt does not fit its context.
    """
    return generate.next_tokens(text_generator(run, SamplesConfig()), prompt, begins=begins)


def text_generator(run: Run, config: SamplesConfig) -> TextGenerator:
    """Returns the model and the tokenizer that generate the samples of a configuration.

    Raises:
      UserError: the configuration is not valid, or the model does not generate text.
    """
    validate(dataclasses.replace(run.built.experiment, samples=config))
    if run.tokenizer is None or run.built.model.step is None:
        raise UserError(
            f"the model of {run.workdir} does not generate text: it has no start and step, or no "
            "tokenizer"
        )
    return TextGenerator(run.built, run.variables, run.tokenizer)


def vectors_of_words(run: Run) -> WordVectors:
    """Returns the embeddings of a run's vocabulary of words.

    Raises:
      UserError: its model has no embeddings, or its vocabulary is not one of words.
    """
    table = embedding_table(run.built, run.variables)
    if table is None or run.tokenizer is None or not run.tokenizer.tokens_are_words:
        raise UserError(
            f"{run.workdir} holds no vectors of words; give a run of a "
            "model with a table of embeddings whose data.tokenizer.kind is word"
        )
    first = run.tokenizer.end_of_document + 1  # the end of a document is no word
    indices = range(first, run.tokenizer.vocab_size)
    words = [run.tokenizer.decode(np.array([index])) for index in indices]
    return word_vectors(words, table[first : run.tokenizer.vocab_size])
