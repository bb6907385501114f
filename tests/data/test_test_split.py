"""The test split of every kind of data: read as it is, and kept out of all that is trained on."""

from types import SimpleNamespace

import numpy as np
import pytest

from lm_jax.data import (
    DataConfig,
    ImageConfig,
    LabelledTextConfig,
    ParallelTextConfig,
    TokenizerConfig,
    prepare,
    texts_of,
    tfds,
)
from lm_jax.data.cleaning import uniform
from lm_jax.errors import UserError

BYTES = TokenizerConfig("byte")
WORDS = "apple river stone cloud tiger paper green silver window garden music orange".split()
LINES = [" ".join(np.random.default_rng(n).permutation(WORDS)[:7]) for n in range(60)]


def write(place, name, rows):
    (place / name).write_text("".join(f"{row}\n" for row in rows))
    return str(place / name)


def fingerprint(config):
    return prepare(config).description["fingerprint"]


def documents(place):
    (place / "texts").mkdir()
    for number, line in enumerate(LINES):
        (place / "texts" / f"{number:02}.txt").write_text(f"{line}\n\nown text {number}")
    return DataConfig(source="files", path=str(place / "texts"), tokenizer=BYTES)


def test_paragraphs_of_test_texts_are_neither_trained_nor_validated_on(tmp_path):
    config, tested = documents(tmp_path), LINES[:20]
    for number, line in enumerate(tested):
        write(tmp_path, f"{number:02}.test", [line, "", line])
    config.test_path = str(tmp_path / "*.test")
    found = prepare(config)
    seen = texts_of(found.tokenizer, found.train) + texts_of(found.tokenizer, found.validation)
    assert [sum(line in text for text in seen) for line in LINES] == [0] * 20 + [1] * 40
    assert texts_of(found.tokenizer, found.test) == [f"{line}\n\n{line}\n" for line in tested]
    assert len(seen) == 60 and found.description["test"]["documents"] == len(tested)
    assert found.description["repeated_paragraphs_dropped"] == 20
    said = found.description["summary"]
    assert " in 20 to test (split: " in said
    assert "0.0% of long test lines occur in training)" in said
    assert prepare(config).description == found.description  # from the cache
    config.drop_repeated_paragraphs = False
    assert prepare(config).description["overlap_of_long_test_lines"] > 0.5


def test_a_test_split_changes_nothing_where_none_of_it_is_in_training(tmp_path):
    config = documents(tmp_path)
    alone = prepare(config)
    config.test_path = write(tmp_path, "test.txt", ["something else"])
    found = prepare(config)
    for split in ("train", "validation"):
        np.testing.assert_array_equal(alone.splits[split].tokens, found.splits[split].tokens)
    assert alone.test is None and "test" not in alone.description
    assert found.description["fingerprint"] != alone.description["fingerprint"]
    (tmp_path / "moved.txt").write_bytes((tmp_path / "test.txt").read_bytes())
    config.test_path = str(tmp_path / "moved.txt")
    assert fingerprint(config) == found.description["fingerprint"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [([" "], "holds no text"), (None, "no file matches data.test_path")],
)
def test_test_texts_that_are_none_are_refused(tmp_path, rows, message):
    config = documents(tmp_path)
    config.test_path = str(tmp_path / "test.txt") if rows is None else write(tmp_path, "t", rows)
    with pytest.raises(UserError, match=message):
        prepare(config)


def test_training_on_the_test_texts_alone_is_refused(tmp_path):
    config = documents(tmp_path)
    config.test_path = config.path
    with pytest.raises(UserError, match="every paragraph of data.path stands in data.test_path"):
        prepare(config)


def test_a_labelled_test_text_is_neither_trained_nor_validated_on(tmp_path):
    rows = [f"{'even' if n % 2 == 0 else 'odd'}\t{line}" for n, line in enumerate(LINES)]
    config = LabelledTextConfig(path=write(tmp_path, "train.tsv", rows), tokenizer=BYTES)
    alone = prepare(config)
    validated = min(range(60), key=lambda n: uniform(LINES[n]))  # held out before all others
    config.test_path = write(tmp_path, "test.tsv", [rows[validated], *rows[:3], "odd\tnew"])
    found = prepare(config)
    assert [len(found.splits[name].targets) for name in ("train", "validation", "test")] == [
        len(alone.train.targets) - sum(uniform(line) >= 0.1 for line in LINES[:3]),
        len(alone.validation.targets) - 1 - sum(uniform(line) < 0.1 for line in LINES[:3]),
        5,
    ]
    assert "5 to test" in found.description["summary"]
    assert found.description["fingerprint"] != alone.description["fingerprint"]
    config.test_path = write(tmp_path, "other.tsv", ["unknown\tnew"])
    with pytest.raises(UserError, match="such as 'unknown'"):
        prepare(config)


def test_near_copies_of_test_pairs_are_neither_trained_nor_validated_on(tmp_path):
    rows = [f"{line}\t{line[::-1]}" for line in LINES]
    config = ParallelTextConfig(
        path=write(tmp_path, "train.tsv", rows), tokenizer=BYTES, validation_fraction=0.4
    )
    alone = prepare(config)
    copies = [f"{text.upper()}!\ta translation unlike {n}" for n, text in enumerate(LINES[:20])]
    config.test_path = write(tmp_path, "test.tsv", copies)
    found = prepare(config)
    assert found.description["dropped"]["near copies of test pairs"] == 20
    assert "20 near copies of test pairs (data.drop_near_copies)" in found.description["summary"]
    kept = {line for split in (found.train, found.validation) for line, _ in split.texts}
    assert kept == set(LINES[20:]) and len(found.test.texts) == 20
    assert len(found.validation.texts) < len(alone.validation.texts)
    config.drop_near_copies = False
    assert len(prepare(config).train.texts) == len(alone.train.texts)

    one, other = (write(tmp_path, name, ["some text"]) for name in ("en.txt", "de.txt"))
    config.test_path, config.test_target_path = one, other
    assert prepare(config).test.texts == [("some text", "some text")]


def images(place, name, **arrays):
    np.savez(place / name, **arrays)
    return str(place / name)


def test_test_images_no_longer_validate_where_they_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(30, 4, 4)).astype(np.uint8)
    labels = np.arange(30) % 3
    train = {"x_train": pixels[:20], "y_train": labels[:20]}
    test = {"x_test": pixels[20:], "y_test": labels[20:]}
    path = images(tmp_path, "all.npz", **train, **test)
    both = prepare(ImageConfig(source="npz", path=path))
    assert both.test is None and len(both.validation.targets) == 10
    named = prepare(ImageConfig(source="npz", path=path, test_path=path))
    without = prepare(ImageConfig(source="npz", path=images(tmp_path, "train.npz", **train)))
    np.testing.assert_array_equal(named.test.inputs[..., 0], pixels[20:])
    for split in ("train", "validation"):
        np.testing.assert_array_equal(named.splits[split].inputs, without.splits[split].inputs)
    assert "18 images of 4 x 4 x 1 to train on, 2 to validate, 10 to test" in str(named.description)
    fingerprints = {each.description["fingerprint"] for each in (both, named, without)}
    assert len(fingerprints) == 3
    apart = images(tmp_path, "test.npz", **test)
    again = prepare(ImageConfig(source="npz", path=path, test_path=apart))
    assert again.description["fingerprint"] == named.description["fingerprint"]
    with pytest.raises(UserError, match="holds x_train, y_train; expected x_test and y_test"):
        prepare(ImageConfig(source="npz", path=path, test_path=str(tmp_path / "train.npz")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(test_path="x"), "no effect on data.source=embedded; .* --text=FILES"),
        (ImageConfig(test_path="x"), "data.source=digits takes no data.test_path, which is 'x'"),
        (ParallelTextConfig(source="copy", test_path="x"), "makes its pairs"),
        (ParallelTextConfig(tasks="a=b", test_path="x"), "leave .* data.test_path empty"),
        (ParallelTextConfig(path="x", test_target_path="y"), "has no data.test_path beside it"),
    ],
)
def test_a_test_split_that_would_not_be_read_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        config.validate()


def test_the_test_split_of_a_data_set_is_read_where_it_is_named(monkeypatch):
    def builder(*names):
        return SimpleNamespace(
            info=SimpleNamespace(splits=dict.fromkeys(names)), as_data_source=lambda split: split
        )

    sets = {"other": builder("train", "test"), "untested": builder("train")}
    monkeypatch.setattr(tfds, "builder_of", lambda name, cache: sets[name])
    whole, two = builder("train", "validation", "test"), builder("train", "test")

    def read(own, test_path="", **arguments):
        config = SimpleNamespace(path="own", test_path=test_path, cache_directory="")
        return tfds.splits(own, config, **arguments)

    train, validation, test = ({name: name} for name in ("train", "validation", "test"))
    assert read(whole) == read(whole, test_validates=False) == train | validation
    assert read(two) == train and read(two, "own") == train | test
    assert read(two, test_validates=True) == train | {"validation": "test"}
    assert read(two, "own", test_validates=True) == train | test
    for name in ("own", "other"):
        assert read(whole, name, test_validates=True) == train | validation | test
    with pytest.raises(UserError, match="'untested' has no test split; it has train"):
        read(whole, "untested")


def test_a_data_set_of_a_community_is_refused():
    with pytest.raises(UserError, match="whose code tfds would download and run"):
        tfds.builder_of("kaggle:name", "")
