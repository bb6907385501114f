import numpy as np
import pytest

from lm_jax.data import DataConfig, TokenizerConfig, prepare, texts_of
from lm_jax.data.batches import WHOLE, Share
from lm_jax.data.sources import PERIOD, parse_epochs, parse_sources, parse_weights
from lm_jax.data.text.mixture import Timeline, mix_of, mixed_batches
from lm_jax.errors import UserError


def located(timeline, first, last):
    return timeline.locate(np.arange(first, last))


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1 / 3, 1 / 3, 1 / 3), (0.9999, 0.0001)])
def test_any_period_holds_each_source_in_exact_proportion_and_shorter_stretches_nearly(weights):
    timeline = Timeline([10] * len(weights), {0: weights}, [None] * len(weights))
    sources, _ = located(timeline, 0, 3 * PERIOD)
    exact = np.bincount(sources[:PERIOD], minlength=len(weights))
    assert np.abs(exact - np.array(weights) * PERIOD).max() < 1
    counts = np.cumsum(np.eye(len(weights), dtype=int)[sources], axis=0)
    windows = counts[PERIOD:] - counts[:-PERIOD]
    assert (windows == exact).all()
    short = counts[100:] - counts[:-100]
    assert np.abs(short - 100 * exact / PERIOD).max() <= 2


def test_each_sequence_of_a_source_is_the_next_one_through_all_changes_of_weights():
    weights = {0: (0.5, 0.5, 0.0), 1_234: (0.0, 0.8, 0.2), 15_000: (0.1, 0.1, 0.8)}
    timeline = Timeline([7, 7, 7], weights, [None, 3_000, None])
    sources, numbers = located(timeline, 0, 40_000)
    for source in range(3):
        np.testing.assert_array_equal(numbers[sources == source], np.arange(sum(sources == source)))
    assert sum(sources == 1) == 3_000
    last = np.flatnonzero(sources == 1)[-1]
    assert 2_000 < last < 15_000 and set(sources[last + 1 : 15_000]) == {2}  # alone, then
    # Any part of it, in any order, is the same.
    some = np.random.default_rng(0).permutation(40_000)[:500]
    np.testing.assert_array_equal(timeline.locate(some), (sources[some], numbers[some]))


def test_a_mixture_ends_where_all_sources_have_reached_their_limits():
    timeline = Timeline([10, 20], {}, [10, 30])
    assert timeline.length == 40
    sources, numbers = located(timeline, 0, 40)
    assert np.bincount(sources).tolist() == [10, 30]


@pytest.fixture
def corpus(tmp_path):
    for name, letter, size in (("a", "a", 30), ("b", "b", 10)):
        (tmp_path / name).mkdir()
        for number in range(size):
            text = f"{letter}{number} " + f"{letter} " * 40
            (tmp_path / name / f"{number}.txt").write_text(text)
    (tmp_path / "a" / "blank.txt").write_text(" \n")
    return tmp_path


def config(folder, **fields):
    return DataConfig(
        source="files",
        sources=f"first={folder}/a; second={folder}/b",
        cache_directory=str(folder / "cache"),
        tokenizer=TokenizerConfig("byte"),
        **fields,
    )


def letters(batch):
    """The letter of each row, of which there is one."""
    found = [set(bytes(row[row < 128].astype(np.uint8)).decode()) & set("ab") for row in batch]
    assert all(len(each) == 1 for each in found)
    return [each.pop() for each in found]


def batches_of(dataset, config, share=WHOLE, num_steps=200):
    mix = mix_of(config, dataset.description, 8, num_steps)
    return mixed_batches(dataset.train, mix, context_length=16, batch_size=8, seed=3, share=share)


@pytest.mark.parametrize("split", ["documents", "tail"])
def test_sequences_come_from_their_sources_in_the_shares_of_their_weights(corpus, split):
    fields = {"split": split, "weights": "first=1, second=3; 100: first=1"}
    dataset = prepare(config(corpus, **fields))
    sources = dataset.description["sources"]
    texts = texts_of(dataset.tokenizer, dataset.train)
    assert [text[0] for text in texts] == ["a"] * sources["first"] + ["b"] * sources["second"]
    held_out = [text.strip()[0] for text in texts_of(dataset.tokenizer, dataset.validation)]
    counts = dataset.description["validation_sources"]
    assert held_out == ["a"] * counts["first"] + ["b"] * counts["second"] and min(counts.values())
    assert "of first" in dataset.description["summary"]
    assert "1 blank document" in dataset.description["summary"]
    batches = batches_of(dataset, config(corpus, **fields))
    drawn = [letters(batches[step]["inputs"]) for step in range(110)]
    assert sum(drawn[:100], []).count("b") == 600 and set(sum(drawn[100:], [])) == {"a"}
    # The beginning of each document opens a segment, and positions count from there.
    batch = batches[0]
    opens = batch["inputs"] == dataset.tokenizer.end_of_document
    assert (batch["positions"][opens] == 0).all() and batch["segments"].min() == 1
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])


def test_documents_of_each_source_are_packed_whole(corpus):
    fields = {"weights": "first=1, second=1", "packing": "best_fit"}
    dataset = prepare(config(corpus, **fields))
    mix = mix_of(config(corpus, **fields), dataset.description, 8, 10)
    batches = mixed_batches(dataset.train, mix, context_length=128, batch_size=8, seed=3)
    drawn = [letters(batches[step]["inputs"]) for step in range(10)]
    assert sum(drawn, []).count("b") == 40
    packing = batches.facts["packing"]
    assert packing["kind"] == "best_fit" and list(packing["sources"]) == ["first", "second"]
    # 84 or so tokens a document: one a row.
    padding = np.mean([batches[step]["weights"] == 0 for step in range(10)])
    wastes = [waste["padding"] for waste in packing["sources"].values()]
    assert min(wastes) - 0.02 < padding < max(wastes) + 0.02 and padding > 0.3
    assert batches.note.startswith("rows: best_fit; first: ")


def test_without_weights_each_source_comes_by_its_size(corpus):
    dataset = prepare(config(corpus))
    batches = batches_of(dataset, config(corpus))
    drawn = sum((letters(batches[step]["inputs"]) for step in range(40)), [])
    starts, first = dataset.train.starts, dataset.description["sources"]["first"]
    windows = [(size - 16 + 1) // 16 for size in (starts[first], starts[-1] - starts[first])]
    assert drawn.count("b") == pytest.approx(320 * windows[1] / sum(windows), abs=1)


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_every_row_of_a_mixture_is_made_by_one_host(corpus, hosts, packing):
    mixed = config(corpus, weights="first=1, second=1; 50: second=1", packing=packing)
    dataset = prepare(mixed)
    whole = batches_of(dataset, mixed)
    parts = [batches_of(dataset, mixed, Share(host, hosts)) for host in range(hosts)]
    assert sorted(slot for part in parts for slot in part.slots) == list(range(8))
    for step in (0, 49, 57):  # in another order than a run takes them
        made = [part[step] for part in reversed(parts)][::-1]
        for name, values in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([own[name] for own in made]), values)


def test_a_source_that_may_not_be_repeated_ends_the_mixture(corpus):
    dataset = prepare(config(corpus))
    limited = config(corpus, epochs="first=1, second=2", weights="first=1, second=1")
    with pytest.raises(UserError, match=r"takes 1,600 sequences, and the sources hold \d+ within"):
        batches_of(dataset, limited)
    batches_of(dataset, limited, num_steps=10)


def test_other_sources_are_other_data(corpus):
    first = prepare(config(corpus)).description
    renamed = config(corpus)
    renamed.sources = renamed.sources.replace("second", "third")
    assert prepare(renamed).description["fingerprint"] != first["fingerprint"]
    assert (
        prepare(config(corpus, weights="first=1")).description["fingerprint"]
        == (first["fingerprint"])
    )


def test_each_source_may_name_its_held_out_texts(corpus):
    for name, texts in (("a", ["a held", " ", "a out"]), ("b", ["b held"])):
        (corpus / f"{name}_held").mkdir()
        for number, text in enumerate(texts):
            (corpus / f"{name}_held" / f"{number}.txt").write_text(text)
    paths = f"second={corpus}/b_held; first = {corpus}/a_held"
    named = config(corpus, validation_path=paths)
    dataset = prepare(named)
    assert texts_of(dataset.tokenizer, dataset.validation) == ["b held", "a held", "a out"]
    assert dataset.description["validation_sources"] == {"second": 1, "first": 2}
    assert "3 (1 of second, 2 of first) to validate" in dataset.description["summary"]
    assert f"{corpus}/b_held" in named.files_read and paths not in named.files_read
    unnamed = prepare(config(corpus, validation_path=f"{corpus}/a_held")).description
    assert "validation_sources" not in unnamed and unnamed["validation"]["documents"] == 2
    with pytest.raises(UserError, match=r"validation_path names 'x'; data\.sources has first"):
        config(corpus, validation_path="first=y; x=z").validate()
    assert DataConfig(validation_path="first=y").paths_by_source("validation_path") == {}


def test_each_source_may_name_its_test_texts(corpus):
    (corpus / "tested").mkdir()
    for number, text in enumerate(("of first", "of second", "of both")):
        (corpus / "tested" / f"{number}.txt").write_text(text)
    first, second = (f"{corpus}/tested/{part}.txt" for part in ("0", "[12]"))
    dataset = prepare(config(corpus, test_path=f"first={first}; second={second}"))
    assert texts_of(dataset.tokenizer, dataset.test) == ["of first", "of second", "of both"]
    assert dataset.description["test_sources"] == {"first": 1, "second": 2}
    assert "in 3 (1 of first, 2 of second) to test" in dataset.description["summary"]
    other = prepare(config(corpus, test_path=f"second={first}; first={second}")).description
    assert other["test_sources"] == {"second": 1, "first": 2}  # equal texts, other sources
    with pytest.raises(UserError, match=r"test_path names 'x'; data\.sources has first"):
        config(corpus, test_path="first=y; x=z").validate()


@pytest.mark.parametrize(
    ("parse", "given", "message"),
    [
        (parse_sources, "a", r'has \'a\'; expected "NAME=PATH; NAME=PATH"'),
        (parse_sources, "a=x; a=y", "names a twice"),
        (lambda given: parse_weights(given, ["a"]), "b=1", "names 'b'; data.sources has a"),
        (lambda given: parse_weights(given, ["a"]), "a=x", "has 'a=x'"),
        (lambda given: parse_weights(given, ["a"]), "a=-1", "expected numbers from 0 on"),
        (lambda given: parse_weights(given, ["a"]), "a=nan", "has 'a=nan'"),
        (lambda given: parse_weights(given, ["a"]), "5: a=1", "begins at step 5"),
        (lambda given: parse_weights(given, ["a"]), "a=1; x: a=1", "has 'x: a=1'"),
        (lambda given: parse_weights(given, ["a", "b"]), "a=1, b=1e-5", "gives b less than one"),
        (lambda given: parse_epochs(given, ["a"]), "a=0", "each above 0"),
    ],
)
def test_what_cannot_be_read_is_refused(parse, given, message):
    with pytest.raises(UserError, match=message):
        parse(given)


def test_fields_that_do_not_go_together_are_refused(corpus):
    both = config(corpus)
    both.path = "x"
    with pytest.raises(UserError, match=r"takes the place of data\.path"):
        both.validate()
    with pytest.raises(UserError, match=r"data\.sources has none"):
        DataConfig(weights="a=1").validate()
