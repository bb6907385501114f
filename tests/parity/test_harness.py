"""Figures of documents and questions beside those of lm-evaluation-harness itself."""

import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax.config.experiment import EvaluationConfig
from lm_jax.config.tasks import TaskConfig
from lm_jax.data import TokenizerConfig, train_tokenizer
from lm_jax.data.text.windows import WINDOWS, evaluation_batches
from lm_jax.evaluation.loss_sums import make_loss_function, sum_by_document
from lm_jax.evaluation.tasks import choose_answers, continuations, read_task
from lm_jax.evaluation.token_scores import Scorer, score
from lm_jax.models.interface import Model, loss_from_apply
from lm_jax.parallel import sharding
from lm_jax.runs import text_evaluation
from lm_jax.runs.text_evaluation import TextModel, harness_measures, sum_texts
from tests.parity.harness_tasks import (
    CONTEXT,
    DOCUMENTS,
    QUESTIONS,
    TABLE,
    VOCABULARY,
    numpy_model,
    run_harness,
)
from tests.parity.recorded import reference


def _apply(variables, batch, *, train, key):
    positions = batch["positions"][..., None]
    return jnp.asarray(TABLE)[batch["inputs"]] * (1 + positions / 40), {}


MODEL = Model(init=lambda *_: {}, apply=_apply, loss=loss_from_apply(_apply))


@pytest.fixture(scope="module")
def theirs():
    def compute(_):
        with tempfile.TemporaryDirectory() as directory:
            return run_harness(numpy_model(), Path(directory))

    texts = "".join(DOCUMENTS) + json.dumps(QUESTIONS)
    return reference(
        "harness",
        "bigrams",
        compute,
        (TABLE, np.frombuffer(texts.encode(), np.uint8)),
        libraries=("lm_eval",),
        rtol=1e-9,
    )


@pytest.fixture(scope="module")
def scorer():
    mesh = sharding.make_mesh("data:1", jax.devices()[:1])
    tokenizer = train_tokenizer(TokenizerConfig("byte"), [""])
    return Scorer(MODEL, {}, mesh, tokenizer, VOCABULARY, CONTEXT)


def test_figures_of_documents_are_those_of_the_harness(theirs, scorer, monkeypatch):
    losses = make_loss_function(MODEL.loss)

    def sum_documents(built, losses, variables, split, eval_config):
        batches = evaluation_batches(
            split, context_length=CONTEXT, batch_size=8, windows=WINDOWS[eval_config.windows]
        )
        return sum_by_document(losses, variables, batches, len(split.characters), scorer.mesh)

    monkeypatch.setattr(text_evaluation, "sum_documents", sum_documents)
    model = TextModel("bigrams", None, losses, {}, scorer.tokenizer)
    sums = sum_texts(model, "documents", DOCUMENTS, EvaluationConfig(windows="rolling"))
    ours = harness_measures(sums)
    assert len(ours) == 3
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], rel=1e-6)


def test_accuracies_of_questions_are_those_of_the_harness(theirs, scorer, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    task = read_task("questions", TaskConfig(str(path)))
    found = choose_answers(task, score(scorer, *continuations(task), begins=False).nats).measures
    ours = [found[name] for name in ("accuracy", "accuracy_normalised", "accuracy_bytes")]
    expected = [float(theirs[name]) for name in ("acc", "acc_norm", "acc_bytes")]
    assert ours == pytest.approx(expected)
    assert len(set(ours)) == 3  # three different rules
