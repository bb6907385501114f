import json

import numpy as np
import pytest

from lm_jax.data import LabelledTextConfig, TokenizerConfig, prepare
from lm_jax.data.batches import Share
from lm_jax.data.classification.batches import evaluation_examples, text_reader, training_examples
from lm_jax.data.cleaning import uniform
from lm_jax.errors import UserError

LINES = [(("good", "bad")[i % 2], f"text number {i} of many") for i in range(200)]


def tabs(directory, lines=LINES, name="texts.tsv"):
    path = directory / name
    path.write_text("".join(f"{label}\t{text}\n" for label, text in lines), encoding="utf-8")
    return LabelledTextConfig(path=str(path))


def test_tabs_and_jsonl_hold_the_same(tmp_path):
    one = prepare(tabs(tmp_path))
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"label": a, "text": b}) + "\n" for a, b in LINES))
    other = prepare(LabelledTextConfig(path=str(path)))
    assert one.description["fingerprint"] == other.description["fingerprint"]
    assert one.labels == ["bad", "good"]
    np.testing.assert_array_equal(one.train.targets, other.train.targets)


def test_no_text_stands_on_both_sides_of_the_split(tmp_path):
    config = tabs(tmp_path, LINES + LINES[:50])
    found = prepare(config)
    assert found.description["repeated_texts_dropped"] == 50
    assert found.description["of_which_labelled_otherwise"] == 0
    assert len(found.train.targets) + len(found.validation.targets) == 200
    config.validation_path = str(tabs(tmp_path, LINES[:20], "held.tsv").path)
    found = prepare(config)
    assert len(found.train.targets) == 180 and len(found.validation.targets) == 20


def test_of_a_text_with_two_labels_the_last_counts_and_the_other_is_told(tmp_path):
    found = prepare(tabs(tmp_path, [*LINES, ("bad", LINES[0][1])]))
    assert found.description["of_which_labelled_otherwise"] == 1
    assert "1 of them labelled otherwise" in found.description["summary"]
    labels = np.concatenate([found.train.targets, found.validation.targets])
    assert np.bincount(labels).tolist() == [101, 99]


def test_rows_are_padded_and_cut_to_the_context(tmp_path):
    config = tabs(tmp_path, [("good", "one two three"), ("bad", "four five"), *LINES])
    config.tokenizer = TokenizerConfig("whitespace", 500)
    found = prepare(config)
    batch = text_reader(found.train.inputs, 2)(np.array([0]), None)
    assert found.tokenizer.decode(batch["inputs"][0]) == "one two"
    batch = text_reader(found.train.inputs, 5)(np.array([0]), None)
    assert batch["segments"].tolist() == [[1, 1, 1, 0, 0]]


def test_every_example_counts_once_and_epochs_hold_each_once(tmp_path):
    train = prepare(tabs(tmp_path)).train
    read, count = text_reader(train.inputs, 4), len(train.targets)
    seen = []
    for batch in evaluation_examples(train, read, batch_size=32):
        assert batch["inputs"].shape == (32, 4)
        seen += batch["documents"][batch["weights"] > 0].tolist()
    assert seen == list(range(count))
    batches = training_examples(train, read, batch_size=count, seed=3)
    for epoch in range(2):
        np.testing.assert_array_equal(np.sort(batches[epoch]["targets"]), np.sort(train.targets))
    assert not np.array_equal(batches[0]["inputs"], batches[1]["inputs"])


def test_processes_read_consecutive_rows_of_one_global_batch(tmp_path):
    train = prepare(tabs(tmp_path)).train
    read = text_reader(train.inputs, 4)
    whole = training_examples(train, read, batch_size=6, seed=0)[5]
    parts = [
        training_examples(train, read, batch_size=6, seed=0, share=Share(p, 3))[5] for p in range(3)
    ]
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("good\ta text\nno tab\n", "texts.tsv:2: 'no tab' is not label<TAB>text"),
        ("\tonly text\n", "texts.tsv:1"),
        ("good\tthe only text\n", "no text is left"),
        ("".join(f"good\ttext {i}\n" for i in range(99)), "every text is labelled 'good'"),
    ],
)
def test_files_that_are_not_labelled_are_refused_by_line(tmp_path, lines, message):
    path = tmp_path / "texts.tsv"
    path.write_text(lines)
    with pytest.raises(UserError, match=message):
        prepare(LabelledTextConfig(path=str(path)))


@pytest.mark.parametrize(
    "line", ['{"label": null, "text": "a"}', '{"label": "a", "text": 7}', "[" * 100_000]
)
def test_jsonl_of_other_types_is_refused_by_line(tmp_path, line):
    path = tmp_path / "texts.jsonl"
    path.write_text(f'{{"label": 1, "text": "fine"}}\n{line}\n')
    with pytest.raises(UserError, match="texts.jsonl:2"):
        prepare(LabelledTextConfig(path=str(path)))


def test_a_few_texts_are_held_out_in_the_order_of_their_hashes(tmp_path):
    rows = [("good", "one"), ("bad", "two"), ("good", "six"), ("bad", "seven")]
    assert min(uniform(text) for _, text in rows) > 0.1
    found = prepare(tabs(tmp_path, rows))
    assert found.description["validation"]["texts"] == 1


def test_a_label_that_is_only_held_out_is_refused(tmp_path):
    config = tabs(tmp_path)
    config.validation_path = tabs(tmp_path, [("odd", "another text")], "held.tsv").path
    with pytest.raises(UserError, match="such as 'odd'"):
        prepare(config)


def test_words_outside_a_vocabulary_without_unk_are_refused(tmp_path):
    config = tabs(tmp_path)
    config.tokenizer = TokenizerConfig("word", 500, unknown=False)
    with pytest.raises(UserError, match="not in the vocabulary .* no <unk>"):
        prepare(config)


def test_only_ends_of_lines_end_a_line_and_a_byte_order_mark_is_no_label(tmp_path):
    lines = [("good", "one\u2028two\x85three\x0cfour"), *LINES]
    plain = prepare(tabs(tmp_path, lines))
    assert plain.labels == ["bad", "good"]
    path = tmp_path / "texts.jsonl"
    rows = [json.dumps({"label": a, "text": b}, ensure_ascii=False) for a, b in lines]
    path.write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
    other = prepare(LabelledTextConfig(path=str(path)))
    assert other.description["fingerprint"] == plain.description["fingerprint"]
