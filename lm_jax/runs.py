"""A run and its work directory: train it, resume it, read it back, measure it, sample from it."""

import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax import data, decoding, evaluation, sharding, training
from lm_jax import experiment as experiments
from lm_jax.baselines import baselines
from lm_jax.checkpoints import Checkpoints
from lm_jax.experiment import Experiment, MeshConfig, SamplesConfig
from lm_jax.programs import Program, compile_experiment, measure, training_batches
from lm_jax.report import write_report
from lm_jax.telemetry import RunLog, environment, finite


class Run(NamedTuple):
    """A trained model, read back from its work directory."""

    workdir: Path
    program: Program
    tokenizer: data.Tokenizer
    step: int
    variables: Any


def train(
    experiment: Experiment,
    workdir: Path,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains to the end, or resumes and does, and returns what the run came to.

    The same work directory continues the same experiment from its newest checkpoint. When
    `stop_requested` turns true the state is saved and the result says `"stopped": True`.

    Raises:
      ValueError: before anything is written, when the experiment cannot run or the work directory
        belongs to another; later, when the loss is no longer finite.
      OSError: the work directory or the cache cannot be written.
    """
    started = time.monotonic()
    experiments.validate(experiment)
    _refuse_another_experiment(experiment, workdir)
    corpus = data.prepare(experiment.data)
    _refuse_other_data(corpus, workdir)
    program = compile_experiment(experiment, corpus.tokenizer.vocab_size)
    batches = training_batches(program, corpus)
    _openings(program, corpus.tokenizer, [experiment.samples.prompt])  # refused now, not at the end
    _write_inputs(workdir, experiment, corpus)

    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir / "checkpoints", experiment.checkpoint)
        stack.callback(checkpoints.close)
        state, notes = _first_state(program, checkpoints)
        first_step = int(state.step)
        log = RunLog(
            workdir,
            total_steps=experiment.training.num_steps,
            tensorboard=experiment.tensorboard,
            first_step=first_step,
        )
        stack.callback(log.close)
        for line in [*notes, *_introduction(program, corpus, state)]:
            log.message(line)

        meter = _Meter(program, log, started)
        losses = evaluation.make_loss_function(program.model)
        measured: dict[int, dict[str, Any]] = {}

        def evaluate(step: int, state: training.TrainState) -> None:
            measured[step] = measure(
                program,
                losses,
                training.variables_of(state),
                corpus.validation,
                batch_size=experiment.evaluation.batch_size,
                stride=experiment.evaluation.stride,
            )
            log.evaluation(step, measured[step])
            meter.pause()

        def save(step: int, state: training.TrainState) -> None:
            checkpoints.save(step, state, measured.get(step, {}).get("cross_entropy"))
            meter.pause()

        hooks = training.Hooks(meter.log, evaluate, save, stop_requested)
        train_steps = training.jit_train_steps(program.train_step)
        with sharding.on_mesh(program.mesh):
            state = training.fit(train_steps, state, batches, experiment, program.mesh, hooks)
        step = int(state.step)
        results: dict[str, Any] = {"workdir": str(workdir), "step": step}
        if step < experiment.training.num_steps:
            return results | {"stopped": True}
        if step not in measured:  # resumed at its end
            evaluate(step, state)
        run = Run(workdir, program, corpus.tokenizer, step, training.variables_of(state))
        results |= {
            "parameters": _parameters(state),
            "validation": measured[step],
            "baselines": _baselines(corpus) if experiment.evaluation.baselines else {},
            "timings": meter.timings() | {"total_seconds": time.monotonic() - started},
        }
    _write_results(run, results)
    return results


class _Meter:
    """Turns the metrics of steps into rows of the log: means since the row before, and rates."""

    def __init__(self, program: Program, log: RunLog, started: float):
        training_config = program.experiment.training
        self._every, self._last = training_config.log_every_steps, training_config.num_steps
        self._tokens_per_step = (
            experiments.sequences_per_step(program.experiment)
            * program.experiment.model.context_length
        )
        self._log, self._started = log, started
        self._rows: list[dict[str, float]] = []
        self._since: float | None = None  # None: the time until the next read is not only steps'
        self._rates: list[float] = []
        self._first_read: float | None = None

    def log(self, last_step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Takes the metrics [K] of the K steps up to `last_step`."""
        now, count = time.monotonic(), len(metrics["loss"])
        if self._first_read is None:
            self._first_read = now - self._started
        if self._since is not None:
            self._rates.append(count * self._tokens_per_step / (now - self._since))
        self._since = now
        for index in range(count):
            self._rows.append({name: float(value[index]) for name, value in metrics.items()})
            step = last_step - count + 1 + index
            if step % self._every == 0 or step == self._last:
                self._flush(step, now)

    def _flush(self, step: int, now: float) -> None:
        row = {name: float(np.mean([r[name] for r in self._rows])) for name in self._rows[0]}
        row["learning_rate"] = self._rows[-1]["learning_rate"]
        row["tokens"] = step * self._tokens_per_step
        if self._rates:
            row["tokens_per_second"] = self._rates[-1]
        self._log.training(step, row | {"seconds": now - self._started})
        self._rows = []

    def pause(self) -> None:
        """Leaves the time until the next read out of the rates."""
        self._since = None

    def timings(self) -> dict[str, float | None]:
        """Seconds from the start to the first steps read, and the median rate of training."""
        return {
            "seconds_to_first_steps": self._first_read,
            "tokens_per_second": float(np.median(self._rates)) if self._rates else None,
        }


def _refuse_another_experiment(experiment: Experiment, workdir: Path) -> None:
    path = workdir / "config.json"
    if not path.exists():
        return
    changed = experiments.differences(_read_experiment(workdir), experiment)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(
            f"{workdir} holds another experiment ({changed[0]}{more}); "
            "choose another --workdir, or give the same configuration to resume"
        )


def _refuse_other_data(corpus: data.Corpus, workdir: Path) -> None:
    path = workdir / "data.json"
    if not path.exists():
        return
    before, now = json.loads(path.read_text()), corpus.description
    if before["fingerprint"] != now["fingerprint"]:
        raise ValueError(
            f"the documents changed since {workdir} was begun (SHA-256 {before['sha256'][:12]}, "
            f"now {now['sha256'][:12]}): its tokenizer and checkpoints do not match them; "
            "choose another --workdir"
        )
    if corpus.tokenizer.model != data.load_tokenizer(workdir / "tokenizer").model:
        raise ValueError(
            f"the text of {workdir} was cut by another tokenizer than its own, which another "
            "release of sentencepiece trained; install that one and clear the cache, or choose "
            "another --workdir"
        )


def _read_experiment(workdir: Path) -> Experiment:
    path = workdir / "config.json"
    try:
        return experiments.from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ValueError(f"{workdir} is no work directory: it holds no config.json") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it or start anew") from None


def _write_inputs(workdir: Path, experiment: Experiment, corpus: data.Corpus) -> None:
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        corpus.tokenizer.save(workdir / "tokenizer")
        _write_json(workdir / "data.json", corpus.description)
        _write_json(workdir / "environment.json", environment())
        # Last: a directory with a config.json is a whole work directory.
        _write_json(workdir / "config.json", experiments.to_dict(experiment))


def _write_json(path: Path, values: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(finite(values), indent=2, allow_nan=False) + "\n")
    os.replace(partial, path)


def _first_state(
    program: Program, checkpoints: Checkpoints
) -> tuple[training.TrainState, list[str]]:
    notes: list[str] = []
    abstract = training.abstract_state(
        program.model, program.optimizer, program.example, program.mesh
    )
    if checkpoints.steps():
        step, state = checkpoints.restore(abstract, "last", notes.append)
        return state, [*notes, f"resuming from the checkpoint of step {step}"]
    seed = program.experiment.seed
    return training.init_state(
        program.model, program.optimizer, program.example, program.mesh, seed
    ), notes


def _parameters(state: training.TrainState) -> int:
    return sum(x.size for x in jax.tree.leaves(state.params))


def _introduction(program: Program, corpus: data.Corpus, state: training.TrainState) -> list[str]:
    mesh = ", ".join(f"{axis} {size}" for axis, size in program.mesh.shape.items())
    return [
        f"data: {corpus.description['summary']}",
        f"model: {_parameters(state):,} parameters; mesh: {mesh}",
    ]


def _baselines(corpus: data.Corpus) -> dict[str, float]:
    train, validation = (
        data.texts_of(corpus.tokenizer, split) for split in (corpus.train, corpus.validation)
    )
    return baselines(train, validation)


def _write_results(run: Run, results: dict[str, Any]) -> None:
    config = run.program.experiment.samples
    samples = complete(run, [config.prompt] * config.num_samples, config)
    if jax.process_index() == 0:
        text = "".join(f"--- sample {i + 1} ---\n{text}\n" for i, text in enumerate(samples))
        (run.workdir / "samples.txt").write_text(text, encoding="utf-8")
        _write_json(run.workdir / "evaluation.json", results)
        write_report(run.workdir)


def load(workdir: Path, checkpoint: str = "last", *, say: Callable[[str], None] = print) -> Run:
    """The run of a work directory at its `last` readable checkpoint, its `best`, or a step.

    Its mesh is the run's own where that fits the devices here, else one device.

    Raises:
      ValueError: the directory holds no run, no such checkpoint, or none that can be read.
    """
    experiment = _read_experiment(workdir)
    tokenizer = data.load_tokenizer(workdir / "tokenizer")
    try:
        program = compile_experiment(experiment, tokenizer.vocab_size)
    except ValueError:  # trained on other devices than are here: to read it, one will do
        experiment.mesh = MeshConfig()
        program = compile_experiment(experiment, tokenizer.vocab_size, jax.devices()[:1])
    abstract = training.abstract_state(
        program.model, program.optimizer, program.example, program.mesh
    )
    with contextlib.closing(
        Checkpoints(workdir / "checkpoints", experiment.checkpoint, read_only=True)
    ) as checkpoints:
        step, state = checkpoints.restore(abstract, checkpoint, say)
    return Run(workdir, program, tokenizer, step, training.variables_of(state))


def evaluate(run: Run, *, split: str, batch_size: int, stride: int) -> dict[str, Any]:
    """The measures of the run's own `train` or `validation` documents.

    Raises:
      ValueError: the documents are no longer those that the run was trained on.
    """
    corpus = data.prepare(run.program.experiment.data)
    _refuse_other_data(corpus, run.workdir)
    return measure(
        run.program,
        evaluation.make_loss_function(run.program.model),
        run.variables,
        getattr(corpus, split),
        batch_size=batch_size,
        stride=stride,
    )


def complete(run: Run, prompts: Sequence[str], config: SamplesConfig, seed: int = 0) -> list[str]:
    """Each prompt with its continuation, the end of the document excluded.

    A text that outgrows the model's context goes on from its last half context.

    Raises:
      ValueError: a prompt leaves no room for a new token in the model's context.
    """
    end = run.tokenizer.end_of_document
    texts = _openings(run.program, run.tokenizer, prompts)
    context = run.program.experiment.model.context_length
    longest = max(map(len, texts), default=0)
    sampling = decoding.Sampling(config.temperature, config.top_k, config.top_p)
    generate = jax.jit(
        functools.partial(decoding.generate, run.program.model, sampling=sampling, end_token=end)
    )
    limits = [len(text) + config.max_new_tokens for text in texts]
    width = min(context, max(limits, default=0))
    kept = longest  # tokens of each text that the model reads again
    key = jax.random.key(seed)
    while any(len(text) < limit for text, limit in zip(texts, limits, strict=True)):
        windows = [text[-kept:] for text in texts]
        lengths = np.array([len(window) for window in windows], np.int32)
        room = [limit - len(text) for text, limit in zip(texts, limits, strict=True)]
        tokens = np.zeros((len(texts), width), np.int32)
        for row, window in zip(tokens, windows, strict=True):
            row[: len(window)] = window
        key, subkey = jax.random.split(key)
        stops = np.minimum(lengths + np.array(room, np.int32), width)
        written, ends, ended = map(
            np.asarray, generate(run.variables, tokens, lengths, stops, subkey)
        )
        for index, text in enumerate(texts):
            text += written[index, lengths[index] : ends[index]].tolist()
            if ended[index]:
                limits[index] = len(text)
        kept = max(context // 2, 1)
    return [run.tokenizer.decode(np.array(text[1:])) for text in texts]


def _openings(
    program: Program, tokenizer: data.Tokenizer, prompts: Sequence[str]
) -> list[list[int]]:
    """The tokens that a model reads first: a document's boundary and the prompt.

    Raises:
      ValueError: a prompt leaves no room for a new token in the model's context.
    """
    texts = [[tokenizer.end_of_document, *tokenizer.encode(p).tolist()] for p in prompts]
    context = program.experiment.model.context_length
    longest = max(map(len, texts), default=0)
    if longest >= context:
        raise ValueError(
            f"a prompt is {longest - 1} tokens long; the model's context of {context} leaves room "
            f"for at most {context - 2}"
        )
    return texts
