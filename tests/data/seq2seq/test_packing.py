import numpy as np
import pytest

from lm_jax.data import ParallelTextConfig, TokenizerConfig, prepare
from lm_jax.data.batches import Share
from lm_jax.data.seq2seq.packing import evaluation_packed_pairs, pack_pairs, training_packed_pairs
from lm_jax.errors import UserError

SIZES = {"source_length": 78, "context_length": 82}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), size=4)) for _ in range(400)]
    lines = []
    for number in range(1500):
        chosen = rng.choice(words, size=rng.integers(1, 8))
        lines.append(f"{' '.join(chosen)}\t{' '.join(chosen[::-1])}!\tdocument {number % 40}\n")
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(lines))
    config = ParallelTextConfig(path=str(path), tokenizer=TokenizerConfig("byte"))
    return prepare(config).train


def pairs_of(batch, end=256):
    """The pairs of a batch as byte strings, by reading its segments one by one."""
    for row in range(len(batch["source"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            read = batch["source_segments"][row] == segment
            here = batch["segments"][row] == segment
            source, target = batch["source"][row][read], batch["targets"][row][here]
            assert source[-1] == target[-1] == end
            np.testing.assert_array_equal(batch["inputs"][row][here], np.append(end, target[:-1]))
            np.testing.assert_array_equal(
                batch["source_positions"][row][read], np.arange(len(source))
            )
            np.testing.assert_array_equal(batch["positions"][row][here], np.arange(len(target)))
            yield bytes(source[:-1].tolist()), bytes(target[:-1].tolist())


def all_pairs(split):
    def texts(documents):
        bounds = zip(documents.starts[:-1] + 1, documents.starts[1:], strict=True)
        return [bytes(documents.tokens[a:b].tolist()) for a, b in bounds]

    return list(zip(texts(split.source), texts(split.target), strict=True))


def test_an_epoch_holds_each_pair_once_in_an_order_of_its_own(split):
    batches = training_packed_pairs(split, **SIZES, batch_size=1, seed=3)
    rows = batches.rows_per_epoch
    epochs = [
        [p for step in range(rows) for p in pairs_of(batches[e * rows + step])] for e in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(all_pairs(split))
    assert epochs[0] != epochs[1]


def test_padding_is_weightless_and_little(split):
    batches = training_packed_pairs(split, **SIZES, batch_size=16, seed=0)
    batch = batches[2]
    for name in ("source", "inputs", "targets"):
        segments = batch["source_segments" if name == "source" else "segments"]
        assert not batch[name][segments == 0].any()
    np.testing.assert_array_equal(batch["weights"], batch["segments"] > 0)
    counted = [
        (training["source_segments"] == 0).mean()
        for training in (batches[step] for step in range(batches.rows_per_epoch // 16))
    ]
    padding = pack_pairs(split, **SIZES, seed=0).padding()
    assert np.mean(counted) == pytest.approx(padding[0], abs=0.01)
    assert max(padding) < 0.15 and "padding" in batches.note


def test_a_batch_is_a_function_of_seed_and_step(split):
    make = lambda seed: training_packed_pairs(split, **SIZES, batch_size=4, seed=seed)  # noqa: E731
    one, again, other = make(0), make(0), make(1)
    for name, value in one[123].items():
        np.testing.assert_array_equal(value, again[123][name])
    assert (one[123]["source"] != other[123]["source"]).any()


def test_processes_read_consecutive_rows_of_one_global_batch(split):
    arguments = {"batch_size": 6, **SIZES}
    for make in (
        lambda **p: training_packed_pairs(split, seed=0, **arguments, **p)[7],
        lambda **p: evaluation_packed_pairs(split, **arguments, **p)[7],
    ):
        whole = make()
        parts = [make(share=Share(index, 3)) for index in range(3)]
        for name, value in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_evaluation_holds_each_pair_once_and_names_it(split, batch_size):
    expected, found = all_pairs(split), {}
    for batch in evaluation_packed_pairs(split, **SIZES, batch_size=batch_size):
        assert batch["source"].shape == (batch_size, 78)
        for row in range(batch_size):
            for number in np.unique(batch["documents"][row][batch["weights"][row] > 0]):
                here = (batch["documents"][row] == number) & (batch["weights"][row] > 0)
                assert number not in found
                found[int(number)] = bytes(batch["targets"][row][here][:-1].tolist())
    assert [found[number] for number in range(len(expected))] == [t for _, t in expected]


def test_what_is_longer_than_the_model_reads_is_refused_by_line_or_cut(split):
    with pytest.raises(UserError, match=r"pairs.tsv:\d+: a source of .* model.source_length 16"):
        training_packed_pairs(split, source_length=16, context_length=40, batch_size=1, seed=0)
    with pytest.raises(UserError, match=r"a target of .* model.context_length 20 .*truncate"):
        evaluation_packed_pairs(split, source_length=78, context_length=20, batch_size=1)
    cut = training_packed_pairs(
        split, source_length=16, context_length=20, batch_size=64, seed=0, truncate=True
    )
    whole = all_pairs(split)
    for source, target in pairs_of(cut[0]):
        assert len(source) <= 15 and len(target) <= 19
        assert any(s.startswith(source) and t.startswith(target) for s, t in whole)


def test_without_an_encoder_a_pair_is_one_text_of_which_the_target_counts(split):
    found = []
    for batch in evaluation_packed_pairs(
        split, source_length=None, context_length=160, batch_size=9
    ):
        assert "source" not in batch
        for row in range(9):
            for segment in range(1, batch["segments"][row].max() + 1):
                here = batch["segments"][row] == segment
                text, weights = batch["targets"][row][here], batch["weights"][row][here]
                np.testing.assert_array_equal(batch["inputs"][row][here], np.append(256, text[:-1]))
                np.testing.assert_array_equal(batch["positions"][row][here], np.arange(len(text)))
                first = int(weights.argmax())
                np.testing.assert_array_equal(weights, np.arange(len(text)) >= first)
                assert text[first - 1] == text[-1] == 256
                found.append((bytes(text[: first - 1].tolist()), bytes(text[first:-1].tolist())))
    assert sorted(found) == sorted(all_pairs(split))
    (padding,) = pack_pairs(split, source_length=None, context_length=160, seed=0).padding()
    assert padding < 0.15
    with pytest.raises(UserError, match=r"a pair of \d+ tokens is longer than model.context_len"):
        training_packed_pairs(split, source_length=None, context_length=40, batch_size=1, seed=0)
    cut = pack_pairs(split, source_length=None, context_length=40, truncate=True)
    assert len(cut.packing.pairs) == len(all_pairs(split))
