"""Every family through the one path: train, stop, resume, evaluate, generate, report."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

from lm_jax.config.experiment import EvaluationConfig, FineTuningConfig, SamplesConfig
from lm_jax.data import DataConfig, ImageConfig, LabelledTextConfig, TokenizerConfig, prepare
from lm_jax.errors import UserError
from lm_jax.models.causal_cnn import CausalCNNConfig
from lm_jax.models.convnet.model import ConvNetConfig
from lm_jax.models.dense_classifier import DenseClassifierConfig
from lm_jax.models.mlp import MLPConfig
from lm_jax.models.naive_bayes import NaiveBayesConfig
from lm_jax.models.ngram.model import NgramConfig
from lm_jax.models.recurrent.classifier import RecurrentClassifierConfig
from lm_jax.models.recurrent.language_model import RecurrentConfig
from lm_jax.models.skip_gram import SkipGramConfig
from lm_jax.models.transformer.config import EncoderConfig
from lm_jax.reports.numbers import with_error
from lm_jax.runs.classify import classify_images, classify_texts, labels_of
from lm_jax.runs.evaluate import evaluate, vectors_of_words
from lm_jax.runs.generate import complete
from lm_jax.runs.page import add_word_vector_scores
from lm_jax.runs.train import train
from lm_jax.runs.trained_run import load
from lm_jax.telemetry.json_files import read_metrics
from tests.conftest import slow_but
from tests.experiments import tiny


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    devices = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda: devices)


LANGUAGE = {
    "ngram": NgramConfig(order=3),
    "mlp": MLPConfig(context_length=32, d_embedding=16, d_hidden=32),
    "causal_cnn": CausalCNNConfig(context_length=32, d_model=16, num_layers=3),
    "lstm": RecurrentConfig(context_length=16, d_hidden=24, num_layers=1),
    "gru": RecurrentConfig(context_length=16, d_hidden=24, num_layers=1, cell="gru"),
    "carried": RecurrentConfig(context_length=16, d_hidden=24, num_layers=1, carry_state=True),
}


def language(name):
    config = tiny(model=LANGUAGE[name], evaluation__every_steps=10, mesh="auto")
    config.samples.num_samples = 1
    config.data.tokenizer = TokenizerConfig("byte")
    config.schedule.peak_learning_rate = 1e-2
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the work directory and the results of a language model, trained once."""

    @functools.cache
    def run_of(name):
        directory = tmp_path_factory.mktemp(name)
        return directory, train(language(name), directory)

    return run_of


# What each computes is tested beside its model; here, what counts and what carries its state.
@pytest.mark.parametrize("name", slow_but(LANGUAGE, "ngram", "carried"))
def test_language_models_train_generate_and_are_read_back(name, trained):
    workdir, results = trained(name)
    assert results["validation"]["cross_entropy"] < np.log(257) - 0.3
    run = load(workdir, log=lambda line: None)
    eval_config = EvaluationConfig(batch_size=16, context_length=LANGUAGE[name].context_length)
    again = evaluate(run, split="validation", eval_config=eval_config)
    assert again["cross_entropy"] == pytest.approx(results["validation"]["cross_entropy"], abs=1e-5)
    text = complete(run, ["The "], SamplesConfig(1, max_new_tokens=40, temperature=0))[0].text
    assert text.startswith("The ") and len(text) > 10
    page = (workdir / "report.html").read_text()
    assert "<h2>Samples</h2>" in page and "<h2>Next-token predictions</h2>" in page


@pytest.mark.parametrize("name", ["carried", "ngram"])
def test_a_stopped_run_goes_on_to_the_same_bits(name, trained, tmp_path, request):
    whole, results = trained(name)
    request.getfixturevalue("without_analysis")
    asked = iter([False, True])
    train(language(name), tmp_path, stop_requested=lambda step: next(asked, False))
    parts = train(language(name), tmp_path)
    assert parts["step"] == results["step"] and parts["validation"] == results["validation"]
    one, other = (load(d, log=lambda line: None) for d in (whole, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)


def images(model, **fields):
    fields = {"model": model, "data": ImageConfig(), "mesh": "auto"} | fields
    return tiny(objective="classification", **fields)


def test_a_classifier_of_images_learns_and_shows_what_it_gets_wrong(tmp_path):
    config = images(DenseClassifierConfig(num_layers=2, d_hidden=32), training__batch_size=64)
    config.schedule.peak_learning_rate, config.training.num_steps = 1e-2, 40
    config.evaluation.baselines = True
    results = train(config, tmp_path)
    assert results["validation"]["accuracy"] > 0.7 and results["validation"]["examples"] == 180
    analysis = json.loads((tmp_path / "inspection.json").read_text())
    confusion = np.array(analysis["confusion"])
    assert confusion.sum() == 180
    assert np.trace(confusion) / 180 == pytest.approx(results["validation"]["accuracy"])
    shares = [row["probability"] for row in analysis["mistakes"]]
    assert shares == sorted(shares, reverse=True)
    validation, run = prepare(ImageConfig()).validation, load(tmp_path)
    majority = np.mean(
        validation.targets == np.bincount(prepare(ImageConfig()).train.targets).argmax()
    )
    assert results["baselines"] == {"accuracy_of_majority_class": majority}
    classes = classify_images(run, validation.inputs).argmax(axis=1)
    assert np.mean(classes == validation.targets) == pytest.approx(
        results["validation"]["accuracy"]
    )
    with pytest.raises(UserError, match="are 4 x 4 x 1, and .* was trained on 8 x 8 x 1"):
        classify_images(run, validation.inputs[:, :4, :4])
    wrong = analysis["mistakes"][0]
    assert wrong["label"] != wrong["predicted"] and wrong["image"].startswith("data:image/png")
    for title in ("Confusion matrix", "Most confident mistakes"):
        assert f"<h2>{title}</h2>" in (tmp_path / "report.html").read_text()


@pytest.fixture
def larger_digits(tmp_path):
    """Digits of 16 x 16, for networks that pool."""
    digits = prepare(ImageConfig()).train
    pixels = np.kron(digits.inputs[:400, ..., 0], np.ones((2, 2), np.float32))
    np.savez(tmp_path / "digits.npz", x_train=pixels, y_train=digits.targets[:400])
    return ImageConfig(source="npz", path=str(tmp_path / "digits.npz"))


def test_running_statistics_are_saved_with_the_state(larger_digits, tmp_path):
    config = images(ConvNetConfig(architecture="keras", norm="batch_norm"), data=larger_digits)
    train(config, tmp_path / "run")
    run = load(tmp_path / "run", log=lambda line: None)
    means = [leaf for leaf in jax.tree.leaves(run.variables["batch_stats"]) if leaf.ndim == 1]
    assert any(np.abs(leaf).max() > 0 for leaf in means)
    assert "First filters" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("without_analysis")
def test_only_the_head_of_another_runs_model_is_trained(larger_digits, tmp_path):
    model = ConvNetConfig(architecture="keras", norm="batch_norm")
    train(images(model, data=larger_digits), tmp_path / "base")
    config = images(model, data=larger_digits)
    config.fine_tuning = FineTuningConfig(str(tmp_path / "base"), "head")
    config.seed = 7
    train(config, tmp_path / "tuned")
    base, tuned = (load(tmp_path / d, log=lambda line: None) for d in ("base", "tuned"))
    changed = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (jax.tree_util.keystr(path), bool(np.any(a != b))),
        base.variables,
        tuned.variables,
    )
    pairs = jax.tree.leaves(changed, is_leaf=lambda x: isinstance(x, tuple))
    assert {"head" in path for path, is_new in pairs if is_new} == {True}
    assert not any(is_new for path, is_new in pairs if "head" not in path)


def labelled_texts(directory):
    path = directory / "texts.tsv"
    lines = [
        f"{('bad', 'good')[i % 2]}\tthe {('dull', 'fine')[i % 2]} film {i}" for i in range(400)
    ]
    path.write_text("\n".join(lines))
    return LabelledTextConfig(path=str(path))


@pytest.mark.usefixtures("without_analysis")
@pytest.mark.parametrize(
    "model",
    [
        NaiveBayesConfig(),
        RecurrentClassifierConfig(context_length=6, d_embedding=8, d_hidden=8, bidirectional=True),
    ],
)
def test_classifiers_of_texts_find_the_word_that_tells(model, tmp_path):
    config = tiny(objective="classification", model=model, data=labelled_texts(tmp_path))
    config.schedule.peak_learning_rate, config.training.num_steps = 3e-2, 60
    config.mesh = "auto"
    results = train(config, tmp_path / "run")
    assert results["validation"]["accuracy"] == 1.0
    run = load(tmp_path / "run", log=lambda line: None)
    found = classify_texts(
        run, ["the fine film 7", "the dull film 8", "the fine film " * 9], batch_size=2
    )
    assert [labels_of(run)[index] for index in found.argmax(axis=1)] == ["good", "bad", "good"]
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="classifies texts; give them with --text"):
        classify_images(run, np.zeros((1, 8, 8, 1), np.float32))


def test_word_vectors_are_trained_and_asked(tmp_path):
    config = tiny(objective="skip_gram", model=SkipGramConfig(d_embedding=8, window=2))
    config.data = DataConfig(tokenizer=TokenizerConfig("word", 300, lowercase=True))
    config.training.batch_size, config.evaluation.batch_size = 256, 512
    config.mesh = "auto"
    results = train(config, tmp_path)
    assert results["validation"]["cross_entropy"] < np.log(300)
    run = load(tmp_path, log=lambda line: None)
    vectors = vectors_of_words(run)
    assert vectors.vectors.shape == (299, 8)  # all but the end of a document
    page = (tmp_path / "report.html").read_text()
    assert page.index("Nearest neighbours") < page.index("<h2>Training")
    for name, right in (("a.txt", 1), ("b.txt", 2)):  # one after the other
        counts = {"right": right, "asked": 2, "of": 3}
        add_word_vector_scores(run, {"analogies": {name: counts}})
    page = (tmp_path / "report.html").read_text()
    assert "analogies of a.txt" in page and "analogies of b.txt" in page
    add_word_vector_scores(dataclasses.replace(run, step=1), {"analogies": {"b.txt": counts}})
    assert "analogies of a.txt" not in (tmp_path / "report.html").read_text()  # of another step


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: tiny(objective="classification"), "takes labelled_text or images data, not text"),
        (
            lambda: images(DenseClassifierConfig(), evaluation__stride=4),
            "evaluation.stride is about windows of a text",
        ),
        (lambda: images(MLPConfig()), "does not fit model family mlp"),
        (lambda: tiny(objective="masked"), "objective is 'masked'; expected one of"),
        (lambda: tiny(evaluation__context_length=64), "that this model was made for"),
        (
            lambda: images(
                DenseClassifierConfig(), fine_tuning=FineTuningConfig("nowhere", "head")
            ),
            "nowhere is no work directory",
        ),
        (
            lambda: tiny(samples__num_beams=600, mesh="auto"),
            "samples.num_beams is 600, but there are 512 tokens",
        ),
        (
            lambda: tiny(fine_tuning=FineTuningConfig("", "head"), mesh="auto"),
            "trains a head on another run's features",
        ),
        (lambda: images(RecurrentClassifierConfig()), "takes labelled_text data, not images"),
        (
            lambda: images(DenseClassifierConfig(), data=LabelledTextConfig(path="texts.tsv")),
            "dense_classifier takes images data, not labelled_text",
        ),
        (lambda: images(ConvNetConfig(image_height=9)), "model.image_height is 9, but the data"),
        (lambda: tiny(model=NgramConfig(order=9)), "model.order is 9; expected 1 <= order <= 8"),
    ],
)
def test_combinations_that_cannot_run_are_refused_before_anything_is_written(
    config, message, tmp_path
):
    with pytest.raises(UserError, match=message):
        train(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_analysis")
def test_embeddings_of_other_tokens_are_not_taken_over(tmp_path):
    config = tiny(model=LANGUAGE["mlp"], mesh="auto", training__num_steps=6)
    config.data.tokenizer = TokenizerConfig("word", 300)
    train(config, tmp_path / "base")
    config.fine_tuning = FineTuningConfig(str(tmp_path / "base"))
    assert train(config, tmp_path / "tuned")["step"] == 6
    config.data.tokenizer.lowercase = True
    with pytest.raises(UserError, match="has another tokenizer than data.tokenizer gives here"):
        train(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_analysis")
def test_what_was_learned_of_masked_text_is_taken_over_with_its_tokenizer(tmp_path):
    shape = {"context_length": 32, "num_layers": 1, "d_model": 16, "num_heads": 2}
    base = tiny(objective="masked_lm", model=EncoderConfig(**shape), mesh="auto")
    base.data.tokenizer.vocab_size = 512
    train(base, tmp_path / "base")
    (tmp_path / "texts.tsv").write_text(
        "".join(
            f"{'yes' if i % 2 else 'no'}\t{'good' if i % 2 else 'bad'} {i}\n" for i in range(90)
        )
    )
    tokenizer = TokenizerConfig(path=str(tmp_path / "base"))
    texts = LabelledTextConfig(path=str(tmp_path / "texts.tsv"), tokenizer=tokenizer)
    config = tiny(objective="classification", model=EncoderConfig(**shape), data=texts, mesh="auto")
    config.fine_tuning = FineTuningConfig(str(tmp_path / "base"))
    results = train(config, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "inherited.json").read_text())
    assert found["new"] == {"params/head/classes/bias": [2], "params/head/classes/kernel": [16, 2]}
    assert "params/embedding" in found["taken"] and not found["other_shape"]
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "evaluation"]
    assert rows[0]["step"] == 0
    before = results["validation_before"]["cross_entropy"]
    assert before == rows[0]["cross_entropy"] != results["validation"]["cross_entropy"]
    page = (tmp_path / "run" / "report.html").read_text()
    shown = with_error(before, results["validation_before"]["cross_entropy_standard_error"])
    assert f"Fine-tuned from {tmp_path / 'base'}." in page and f">{shown}</td>" in page
    shutil.rmtree(tmp_path / "base")  # a run has all that it takes to be read
    run = load(tmp_path / "run")
    assert run.tokenizer.vocab_size == 512 and run.built.experiment.model.vocab_size == 513
    again = evaluate(run, split="validation", eval_config=config.evaluation)
    assert again["cross_entropy"] == pytest.approx(results["validation"]["cross_entropy"], abs=1e-5)
    with pytest.raises(UserError, match="base holds no tokenizer that can be read"):
        train(config, tmp_path / "other")
