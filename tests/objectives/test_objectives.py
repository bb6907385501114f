"""Between data and models: batches, shapes, and figures of a model that knows nothing."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.build import measures_of
from lm_jax.config.experiment import EvaluationConfig
from lm_jax.data import (
    DataConfig,
    ImageConfig,
    ParallelTextConfig,
    TokenizerConfig,
    prepare,
    texts_of,
    tokenize,
)
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import DocumentSums, MeasuredLosses, sum_by_document
from lm_jax.models.dense_classifier import DenseClassifierConfig
from lm_jax.models.interface import Losses
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer.config import EncoderConfig, EncoderDecoderConfig
from lm_jax.objectives import OBJECTIVES, targets_per_step
from lm_jax.objectives.interface import loss_function
from lm_jax.parallel import sharding
from tests.experiments import tiny

WIDTHS = {"context_length": 24, "source_length": 48}


def experiment(objective, vocab_size=300, **fields):
    """An experiment of a family that has just the sizes that batches need."""
    config = tiny(mesh="auto")
    config.data.tokenizer = TokenizerConfig("byte")
    model = EncoderDecoderConfig(vocab_size=vocab_size, **WIDTHS)
    return dataclasses.replace(config, objective=objective, model=model, **fields)


def parallel(directory, name="pairs.tsv", lines=400):
    path = directory / name
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), size=3)) for _ in range(300)]
    rows = [rng.choice(words, size=rng.integers(1, 6)) for _ in range(lines)]
    path.write_text("".join(f"{' '.join(row)}\t{' '.join(row[::-1])}\n" for row in rows))
    return path


def uniform(vocab_size):
    """The losses of a model that gives every token the same probability."""

    def losses(variables, batch):
        nats = jnp.full(batch["targets"].shape, np.log(vocab_size), jnp.float32)
        return MeasuredLosses(nats, (batch["targets"] == ord("a")).astype(jnp.float32), {})

    return jax.jit(losses)


def measured(config, dataset, batch_size=4):
    objective = OBJECTIVES[config.objective]
    how = EvaluationConfig(batch_size=batch_size)
    batches, documents = objective.evaluation_batches(config, dataset.validation, how)
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    with sharding.on_mesh(mesh):
        sums = sum_by_document(uniform(300), {}, batches, documents, mesh)
    return objective.measures(sums, dataset.validation, dataset.tokenizer)


def dataset_of(config, directory):
    if config.objective == "seq2seq":
        config.data = ParallelTextConfig(
            path=str(parallel(directory)),
            tokenizer=TokenizerConfig("byte"),
            drop_near_copies=False,
        )
    return prepare(config.data)


@pytest.mark.parametrize("objective", ["seq2seq", "masked_lm", "span_corruption", "prefix_lm"])
def test_batches_have_the_shapes_of_the_example(objective, tmp_path):
    config = experiment(objective)
    dataset = dataset_of(config, tmp_path)
    example = OBJECTIVES[objective].example(config, 8)
    training = OBJECTIVES[objective].training_batches(config, dataset)[3]
    how = EvaluationConfig(batch_size=8)
    held_out, _ = OBJECTIVES[objective].evaluation_batches(config, dataset.validation, how)
    assert set(held_out[0]) == set(training) | {"documents"}
    for batch in (training, held_out[0]):
        for name, shape in example.items():
            assert batch[name].shape == shape.shape and batch[name].dtype == shape.dtype
        for name in ("targets", "weights"):
            assert batch[name].shape == batch["inputs"].shape
    assert targets_per_step(config) == 8 * 24


@pytest.mark.parametrize("objective", ["seq2seq", "masked_lm", "span_corruption", "prefix_lm"])
def test_knowing_nothing_costs_the_logarithm_of_the_vocabulary(objective, tmp_path):
    config = experiment(objective)
    dataset = dataset_of(config, tmp_path)
    figures = measured(config, dataset)
    assert figures["cross_entropy"] == pytest.approx(np.log(300), abs=1e-5)
    assert figures["perplexity"] == pytest.approx(300, rel=1e-4)
    again = measured(config, dataset, batch_size=7)
    assert again == pytest.approx(figures)


def test_pairs_are_measured_by_their_targets(tmp_path):
    config = experiment("seq2seq")
    dataset = dataset_of(config, tmp_path)
    figures = measured(config, dataset)
    target = dataset.validation.target
    assert figures["documents"] == len(dataset.validation.origins)
    assert figures["tokens"] == len(target.tokens) - 1
    bits = figures["tokens"] * np.log2(300)
    assert figures["bits_per_character"] == pytest.approx(bits / target.characters.sum(), rel=1e-5)
    share = np.mean(np.asarray(target.tokens[1:]) == ord("a"))
    assert figures["accuracy"] == pytest.approx(share) and figures["accuracy_standard_error"] > 0


def test_what_was_cut_has_no_bits_per_character(tmp_path):
    config = experiment("seq2seq")
    dataset = dataset_of(config, tmp_path)
    config.model.context_length = 8
    with pytest.raises(UserError, match="pairs.tsv:.* longer than model.context_length 8"):
        OBJECTIVES["seq2seq"].training_batches(config, dataset)
    config.data.truncate = True
    figures = measured(config, dataset)
    assert figures["bits_per_character"] is None and figures["tokens"] > 0


def test_several_tasks_are_measured_apart(tmp_path):
    config = experiment("seq2seq")
    one, other = parallel(tmp_path), parallel(tmp_path, "others.tsv", 300)
    config.data = ParallelTextConfig(
        tasks=f"reverse: ={one}; turn: ={other}",
        tokenizer=TokenizerConfig("byte"),
        drop_near_copies=False,
    )
    figures = measured(config, prepare(config.data))
    tasks = figures["tasks"]
    assert list(tasks) == ["reverse:", "turn:"]
    assert sum(task["tokens"] for task in tasks.values()) == figures["tokens"]
    assert sum(task["nats"] for task in tasks.values()) == pytest.approx(figures["nats"])


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm"])
def test_the_figures_of_each_source_are_those_of_its_documents_alone(objective, tmp_path):
    rng = np.random.default_rng(0)
    for name, letters in (("a", "abc"), ("b", "xyza")):
        (tmp_path / name).mkdir()
        for number in range(20):
            text = "".join(rng.choice(list(letters), size=rng.integers(30, 90)))
            (tmp_path / name / f"{number}.txt").write_text(text)
    config = experiment(objective)
    sources = f"first={tmp_path}/a; second={tmp_path}/b"
    config.data = DataConfig("files", sources=sources, tokenizer=TokenizerConfig("byte"))
    config.data.validation_fraction = 0.4
    dataset = prepare(config.data)
    counts = dataset.description["validation_sources"]
    nats = np.linspace(1, 2, len(dataset.validation.characters))
    tokens = np.diff(dataset.validation.starts)
    sums = DocumentSums(nats * tokens, tokens // 2, tokens)
    built = SimpleNamespace(objective=OBJECTIVES[objective])
    found = measures_of(built, sums, dataset.validation, dataset.tokenizer, counts)
    assert list(found["sources"]) == ["first", "second"]
    texts, first = texts_of(dataset.tokenizer, dataset.validation), counts["first"]
    for name, held in (("first", slice(0, first)), ("second", slice(first, None))):
        alone = tokenize(dataset.tokenizer, texts[held])
        own = DocumentSums(*(values[held] for values in (nats * tokens, tokens // 2, tokens)))
        expected = OBJECTIVES[objective].measures(own, alone, dataset.tokenizer)
        assert found["sources"][name] == expected
    for total in ("tokens", "nats"):
        parts = [source[total] for source in found["sources"].values()]
        assert sum(parts) == pytest.approx(found[total], rel=1e-14)


def test_special_ids_are_beyond_the_tokenizers(tmp_path):
    for objective, extra in (("masked_lm", 1), ("span_corruption", 3), ("prefix_lm", 0)):
        config = experiment(objective)
        if objective == "masked_lm":
            config.model = EncoderConfig(context_length=WIDTHS["context_length"])
        special = OBJECTIVES[objective].special_ids(config)
        config.model.vocab_size = 257 + special
        dataset = dataset_of(config, tmp_path)
        batches = OBJECTIVES[objective].training_batches(config, dataset)
        seen = np.concatenate(
            [np.append(batches[step]["inputs"], batches[step].get("source")) for step in range(40)]
        )
        highest = max(int(token) for token in seen if token is not None)
        assert special == extra and highest == 256 + extra


@pytest.mark.parametrize(
    ("objective", "model", "advice"),
    [
        ("causal_lm", RecurrentConfig(context_length=16, carry_state=True), "model.carry_state"),
        ("skip_gram", SkipGramConfig(), "leave it stream"),
    ],
)
def test_what_reads_no_rows_of_documents_refuses_to_pack_them(objective, model, advice):
    config = experiment(objective)
    config.model, config.data.packing = model, "best_fit"
    dataset = prepare(config.data)
    with pytest.raises(UserError, match=rf"data\.packing=best_fit .*{advice}"):
        OBJECTIVES[objective].training_batches(config, dataset)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_processes_share_the_rows_of_every_batch(objective, tmp_path, monkeypatch):
    config = experiment(objective)
    if objective == "classification":
        config = tiny(objective=objective, data=ImageConfig(), model=DenseClassifierConfig())
    if objective == "skip_gram":
        config.model = SkipGramConfig()
    dataset = dataset_of(config, tmp_path)

    def batches(index, count):
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(sharding, "make_mesh", lambda sizes: None)
        monkeypatch.setattr(sharding, "share_of_rows", lambda mesh, process: (index, count))
        training = OBJECTIVES[objective].training_batches(config, dataset)[3]
        how = EvaluationConfig(batch_size=8)
        held_out, _ = OBJECTIVES[objective].evaluation_batches(config, dataset.validation, how)
        return training, held_out[len(held_out) - 1]

    whole, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    for rows, *shares in zip(whole, first, second, strict=True):
        for name, values in rows.items():
            ours = np.concatenate([share[name] for share in shares])
            np.testing.assert_array_equal(ours, values, err_msg=name)


@pytest.mark.parametrize(
    ("result", "given"),
    [
        (Losses(0.0, 0.0), "a Losses"),
        (None, "a NoneType"),
        ((Losses(0.0, 0.0), None), r"a tuple \(Losses, NoneType\)"),
        ((0.0, {}), r"a tuple \(float, dict\)"),
        ((Losses(0.0, 0.0), {}, {}), r"a tuple \(Losses, dict, dict\)"),
    ],
)
def test_a_loss_that_returns_no_pair_is_named_with_its_objective(result, given):
    mine = OBJECTIVES["causal_lm"]._replace(name="mine", loss=lambda *args, **kwargs: result)
    expected = f"the loss of the objective mine returns {given}; expected the pair .Losses, new"
    with pytest.raises(UserError, match=expected):
        loss_function(mine, None)({}, {}, train=True, key=None)
