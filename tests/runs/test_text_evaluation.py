import csv
import math
import random

import numpy as np
import pytest

from lm_jax.config.experiment import EvaluationConfig
from lm_jax.data import TokenizerConfig, train_tokenizer
from lm_jax.errors import UserError
from lm_jax.evaluation.loss_sums import DocumentSums
from lm_jax.runs import text_evaluation
from lm_jax.runs.text_evaluation import (
    Kept,
    TextModel,
    difference_of,
    fingerprint,
    harness_measures,
    sum_texts,
    write_documents,
)

TEXTS = ["The café 😀\n", "日本語 ", "", "four words of it"]


@pytest.fixture
def measured(monkeypatch):
    """The documents that are measured, each at 2 nats a byte; a part holds ten characters."""
    measured = []

    def sum_documents(built, losses, variables, split, eval_config):
        sizes = np.diff(split.starts) - 1
        measured.append(sizes.tolist())
        return DocumentSums(2.0 * sizes, 0.5 * sizes, sizes.astype(float), {"z": 1.0})

    monkeypatch.setattr(text_evaluation, "sum_documents", sum_documents)
    monkeypatch.setattr(text_evaluation, "_PART", 10)
    return measured


def model(name="run"):
    return TextModel(name, None, None, None, train_tokenizer(TokenizerConfig("byte"), [""]))


def test_the_harness_figures_divide_by_bytes_and_by_pieces_between_spaces(measured):
    sums = sum_texts(model(), "t", TEXTS, EvaluationConfig())
    size = sum(len(text.encode()) for text in TEXTS)
    assert sums.of("nats").sum() == 2 * size and sums.of("bytes").sum() == size
    figures = harness_measures(sums)
    assert figures["bits_per_byte"] == pytest.approx(2 / math.log(2))
    assert figures["byte_perplexity"] == pytest.approx(math.exp(2))
    pieces = 4 + 2 + 1 + 4  # re.split(r"\s+", text): an empty piece after a space at the end
    assert figures["word_perplexity"] == pytest.approx(math.exp(2 * size / pieces))
    assert sums.of("words").sum() == 3 + 1 + 0 + 4 and sums.named["z"] == 1


def test_an_evaluation_goes_on_after_the_parts_that_are_kept(measured, tmp_path):
    path, identity = tmp_path / "new" / "texts.kept.jsonl", {"step": 3}
    whole = sum_texts(model(), "t", TEXTS, EvaluationConfig())
    parts = list(measured)
    assert parts == [[15], [10, 0, 16]]
    measured.clear()
    kept, shown = Kept(path, identity), []

    def stop(*done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sum_texts(model(), "t", TEXTS, EvaluationConfig(), kept, stop)
    assert measured == parts[:1]
    with path.open("a") as file:  # a killed process leaves half a line
        file.write('{"run')
    kept = Kept(path, identity)
    again = sum_texts(
        model(), "t", TEXTS, EvaluationConfig(), kept, lambda *done: shown.append(done)
    )
    assert measured == parts  # the first part once
    np.testing.assert_array_equal(again.table, whole.table)
    assert [done for _, done, _ in shown] == [1, 4] and shown[0][2] == 4
    measured.clear()
    sum_texts(model(), "t", TEXTS, EvaluationConfig(), Kept(path, identity))
    assert not measured
    other = Kept(path, {"step": 4})  # another evaluation begins anew
    sum_texts(model(), "t", TEXTS, EvaluationConfig(), other)
    assert measured == parts
    other.remove()
    assert not path.exists()


def test_no_flipped_bit_of_kept_parts_changes_a_sum(measured, tmp_path):
    path, rng = tmp_path / "texts.kept.jsonl", random.Random(0)
    whole = sum_texts(model(), "t", TEXTS, EvaluationConfig(), Kept(path, {}))
    good = path.read_bytes()
    measured.clear()
    for _ in range(60):
        content = bytearray(good)
        content[rng.randrange(len(content) - 1)] ^= 1 << rng.randrange(7)
        path.write_bytes(content)
        again = sum_texts(model(), "t", TEXTS, EvaluationConfig(), Kept(path, {}))
        np.testing.assert_array_equal(again.table, whole.table)
    assert len(measured) >= 60  # what is damaged is measured again


def test_a_fingerprint_tells_sets_documents_and_their_order_apart():
    sets = [{"a": ["xy", "z"]}, {"a": ["x", "yz"]}, {"a": ["z", "xy"]}, {"b": ["xy", "z"]}, {}]
    assert len({fingerprint(each) for each in sets}) == len(sets)


def test_two_models_are_compared_by_document(measured, tmp_path):
    first = sum_texts(model(), "t", TEXTS, EvaluationConfig())
    second = first._replace(table=first.table * np.array([[0.5], *[[1]] * 6]))
    found = difference_of(first, second)
    bits = first.of("bytes").sum() / first.of("characters").sum() / math.log(2)
    assert found.difference == pytest.approx(bits) and found.low > 0 and found.documents == 3
    assert found.p_value < 0.001
    sums = {"run": {"t": first}, "other": {"t": second}}
    write_documents(tmp_path / "new" / "d.csv", {"t": list("abcd")}, sums)
    rows = list(csv.DictReader((tmp_path / "new" / "d.csv").open()))
    assert [row["document"] for row in rows] == list("abcd")
    assert rows[0]["nats"] == "30.0" and rows[0]["nats_other"] == "15.0"
    assert float(rows[0]["bits_per_byte"]) == pytest.approx(2 / math.log(2))
    assert rows[2]["bits_per_byte"] == "" and rows[0]["accuracy"] == "0.5"
    assert rows[1]["characters"] == "4" and rows[1]["bytes"] == "10"


def test_texts_without_anything_to_predict_are_refused(measured):
    with pytest.raises(UserError, match="t: no document holds any text that can be predicted"):
        sum_texts(model(), "t", ["", ""], EvaluationConfig())
