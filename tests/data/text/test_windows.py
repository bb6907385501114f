import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, tokenize
from lm_jax.data.batches import Share
from lm_jax.data.text.rows import WINDOWS
from lm_jax.data.text.windows import (
    contiguous_batches,
    evaluation_batches,
    training_batches,
)
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError

BYTES = train_tokenizer(TokenizerConfig("byte"), [])
TEXTS = ["the first document", "second", "", "a third one, longer than any window " * 9, "x"]
DOCUMENTS = tokenize(BYTES, TEXTS)


def test_a_document_of_n_tokens_gives_n_plus_1_targets():
    assert np.diff(DOCUMENTS.starts).tolist() == [len(text) + 1 for text in TEXTS]


def test_sizes_are_counted_on_the_raw_text():
    documents = tokenize(BYTES, ["héllo  wörld\n", "日本"])
    assert documents.characters.tolist() == [13, 2]
    assert documents.bytes.tolist() == [15, 6]
    assert documents.words.tolist() == [2, 1]


def test_a_batch_is_a_function_of_seed_and_step():
    make = lambda seed: training_batches(  # noqa: E731
        DOCUMENTS, context_length=16, batch_size=4, seed=seed
    )
    one, again, other = make(0), make(0), make(1)
    backwards = [again[step]["inputs"] for step in reversed(range(20))][::-1]
    for step in range(20):
        np.testing.assert_array_equal(one[step]["inputs"], backwards[step])
    assert any((one[s]["inputs"] != other[s]["inputs"]).any() for s in range(20))


def test_targets_are_the_next_inputs():
    batch = training_batches(DOCUMENTS, context_length=16, batch_size=8, seed=3)[5]
    np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])


def test_each_epoch_covers_disjoint_windows_of_a_stream_without_repeats():
    text = "".join(chr(0x100 + i) for i in range(900))  # every character occurs once
    stream = tokenize(train_tokenizer(TokenizerConfig("char", 2000), [text]), [text])
    batches = training_batches(stream, context_length=16, batch_size=1, seed=0)
    seen_by_epoch, orders = [], []
    for epoch in range(2):
        first = epoch * batches.rows_per_epoch
        rows = [batches[first + i]["inputs"][0] for i in range(batches.rows_per_epoch)]
        tokens = np.concatenate(rows)
        assert len(np.unique(tokens)) == len(tokens) > 900 - 3 * 16
        seen_by_epoch.append([row.tolist() for row in rows])
        orders.append(np.argsort([row.min() for row in rows]).tolist())
    assert not {tuple(row) for row in seen_by_epoch[0]} & {tuple(row) for row in seen_by_epoch[1]}
    assert orders[0] != orders[1]


def test_processes_read_consecutive_rows_of_one_global_batch():
    whole = training_batches(DOCUMENTS, context_length=16, batch_size=6, seed=0)
    parts = [
        training_batches(DOCUMENTS, context_length=16, batch_size=6, seed=0, share=Share(p, 3))
        for p in range(3)
    ]
    for step in range(5):
        for name, value in whole[step].items():
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, value)


def test_processes_evaluate_consecutive_rows_of_one_global_batch():
    arguments = {"context_length": 16, "batch_size": 6, "stride": 5}
    whole = evaluation_batches(DOCUMENTS, **arguments)
    parts = [evaluation_batches(DOCUMENTS, **arguments, share=Share(p, 3)) for p in range(3)]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batch in enumerate(whole):
        for name, value in batch.items():
            joined = np.concatenate([part[number][name] for part in parts])
            np.testing.assert_array_equal(joined, value)


def test_segments_open_at_document_ends_and_positions_restart():
    batch = training_batches(DOCUMENTS, context_length=64, batch_size=8, seed=0)[0]
    end = BYTES.end_of_document
    for inputs, segments, positions in zip(
        batch["inputs"], batch["segments"], batch["positions"], strict=True
    ):
        for t in range(1, 64):
            opens = inputs[t] == end
            assert segments[t] == segments[t - 1] + opens
            assert positions[t] == (0 if opens else positions[t - 1] + 1)


def test_one_document_needs_no_segments():
    stream = tokenize(BYTES, ["only one " * 50])
    batch = training_batches(stream, context_length=16, batch_size=2, seed=0)[0]
    assert set(batch) == {"inputs", "targets", "weights"}


def windows_of(texts, kind, context_length, stride=None):
    """(inputs, counted targets) of each window of each document, in its order."""
    batches = evaluation_batches(
        tokenize(BYTES, texts),
        context_length=context_length,
        batch_size=4,
        stride=stride,
        windows=WINDOWS[kind],
    )
    found = []
    for batch in batches:
        segments = batch.get("segments", np.ones_like(batch["inputs"]))
        for row in range(len(segments)):
            for segment in range(1, segments[row].max() + 1):
                here = segments[row] == segment
                counted = here & (batch["weights"][row] > 0)
                window = batch["inputs"][row][here], batch["targets"][row][counted]
                found.append(tuple(tokens.tolist() for tokens in window))
    return found


def test_rolling_windows_are_those_of_lm_evaluation_harness():
    # lm_eval.utils.get_rolling_token_windows(list(text), 256, 4, 1), lm-eval 0.4.13
    expected = {
        "abcdefghij": [("\u0100abc", "abcd"), ("defg", "efgh"), ("fghi", "ij")],
        "abcd": [("\u0100abc", "abcd")],
        "abcde": [("\u0100abc", "abcd"), ("abcd", "e")],
        "ab": [("\u0100a", "ab")],
        "": [],
    }
    as_text = lambda tokens: "".join(map(chr, tokens))  # noqa: E731
    for text, windows in expected.items():
        found = windows_of([text, "zz"], "rolling", 4)[: len(windows)]
        assert [(as_text(a), as_text(b)) for a, b in found] == windows
    strided = [as_text(b) for _, b in windows_of(["abcdefghij", ""], "rolling", 4, stride=2)]
    assert [part for part in strided if part] == ["abcd", "ef", "gh", "ij"]


def test_bare_windows_read_and_predict_nothing_but_the_text():
    found = windows_of(["abcdef", "x", "", "gh"], "bare", 4)
    as_bytes = [(bytes(inputs), bytes(targets)) for inputs, targets in found if inputs]
    assert as_bytes == [(b"abcd", b"bcde"), (b"e", b"f"), (b"g", b"h")]


@pytest.mark.parametrize("stride", [None, 16, 5, 1])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_evaluation_predicts_every_token_once(stride, batch_size):
    batches = evaluation_batches(DOCUMENTS, context_length=16, batch_size=batch_size, stride=stride)
    found = {document: [] for document in range(len(TEXTS))}
    for batch in batches:
        assert batch["inputs"].shape == (batch_size, 16)
        counted = batch["weights"] > 0
        for document, target in zip(
            batch["documents"][counted], batch["targets"][counted], strict=True
        ):
            found[int(document)].append(int(target))
    for document, text in enumerate(TEXTS):
        assert found[document] == [*text.encode(), BYTES.end_of_document]


def test_strided_windows_give_every_token_its_context():
    stream = tokenize(BYTES, ["abcdefghij" * 20])
    for batch in evaluation_batches(stream, context_length=16, batch_size=1, stride=4):
        counted = np.flatnonzero(batch["weights"][0])
        whole_document = batch["inputs"][0, 0] == BYTES.end_of_document
        assert whole_document or counted[0] >= 16 - 4


def test_text_shorter_than_a_window_is_refused_with_its_size():
    with pytest.raises(UserError, match="6 tokens.*context_length 16"):
        training_batches(tokenize(BYTES, ["short"]), context_length=16, batch_size=1, seed=0)


def test_a_stride_that_leaves_gaps_is_refused():
    with pytest.raises(UserError, match="stride of 20"):
        evaluation_batches(DOCUMENTS, context_length=16, batch_size=1, stride=20)


def test_contiguous_streams_continue_the_last_batch_and_cover_an_epoch():
    batches = contiguous_batches(DOCUMENTS, context_length=16, batch_size=3, seed=0)
    rows = [batches[step] for step in range(batches.rows_per_epoch // 3)]
    streams = np.concatenate([row["inputs"] for row in rows], axis=1)
    targets = np.concatenate([row["targets"] for row in rows], axis=1)
    np.testing.assert_array_equal(streams[:, 1:], targets[:, :-1])
    np.testing.assert_array_equal(streams[1:, 0], targets[:-1, -1])
    stream = np.tile(np.asarray(DOCUMENTS.tokens[:-1]), 2).tolist()
    whole = streams.ravel().tolist()
    assert any(stream[i : i + len(whole)] == whole for i in range(len(stream) // 2))


def test_a_stream_too_short_for_its_batch_is_refused():
    with pytest.raises(UserError, match="fewer than one window .* of 4000 contiguous"):
        contiguous_batches(DOCUMENTS, context_length=16, batch_size=4000, seed=0)


def test_contiguous_streams_continue_nothing_where_an_epoch_begins():
    one = tokenize(BYTES, ["a text without an end " * 20])
    batches = contiguous_batches(one, context_length=16, batch_size=3, seed=0)
    per_epoch = batches.rows_per_epoch // 3
    for step in range(3 * per_epoch):
        before = batches[step - 1]["targets"][:, -1] if step else None
        continues = batches[step]["segments"][:, 0] == 1
        if step % per_epoch == 0:
            assert not continues.any()
        else:
            np.testing.assert_array_equal(batches[step]["inputs"][:, 0], before)
            opens = batches[step]["inputs"][:, 0] == one.tokens[0]
            np.testing.assert_array_equal(continues, ~opens)
