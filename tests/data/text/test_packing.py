"""Rows of training: no target twice, none lost, and what each way to fill rows wastes."""

import numpy as np
import pytest

from lm_jax.data import TokenizerConfig, tokenize
from lm_jax.data.batches import WHOLE, Share
from lm_jax.data.text.denoising_batches import masking, training_corrupted
from lm_jax.data.text.packing import PACKINGS, best_fit
from lm_jax.data.text.windows import training_batches
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError

BYTES = train_tokenizer(TokenizerConfig("byte"), [])
LENGTHS = np.random.default_rng(0).integers(0, 45, size=60)
TEXTS = ["".join(chr(97 + (i + n) % 26) for i in range(n)) for n in LENGTHS.tolist()]
DOCUMENTS = tokenize(BYTES, TEXTS)
T = 16


def epoch(packing, share=WHOLE, seed=3, batch_size=2):
    arguments = {"context_length": T, "batch_size": batch_size, "seed": seed, "share": share}
    batches = training_batches(DOCUMENTS, packing=packing, **arguments)
    return [batches[step] for step in range(batches.rows_per_epoch // batch_size)], batches


def rows_by_definition(lengths, capacity):
    """Best-fit decreasing as it is defined: each piece looks at all rows."""
    rows, rooms = [], []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        fitting = [(room, row) for row, room in enumerate(rooms) if room >= lengths[number]]
        if not fitting:
            rows.append([])
            rooms.append(capacity)
        row = min(fitting)[1] if fitting else len(rows) - 1
        rows[row].append(number)
        rooms[row] -= lengths[number]
    return rows


def test_each_piece_goes_where_it_leaves_least_room():
    assert best_fit(np.array([5, 3, 7, 5]), 10) == [[2, 1], [0, 3]]
    rng = np.random.default_rng(1)
    for capacity in (10, 64, 1000):
        lengths = rng.integers(1, capacity + 1, size=300)
        found, defined = best_fit(lengths, capacity), rows_by_definition(lengths.tolist(), capacity)
        # Either of two rows with equal room may be taken, so how full the rows are is compared.
        filled = [sorted(lengths[row].sum() for row in rows) for rows in (found, defined)]
        assert filled[0] == filled[1] and max(filled[0]) <= capacity
        assert sorted(sum(found, [])) == list(range(300))


def test_whole_documents_fill_rows_and_every_target_is_predicted_once_an_epoch():
    batches, about = epoch("best_fit", batch_size=1)
    texts, padding, rows_of = [], 0, {}
    for step, batch in enumerate(batches):
        segments, counts = batch["segments"][0], batch["weights"][0]
        assert ((segments > 0) == (counts == 1)).all() and "documents" not in batch
        padding += int((counts == 0).sum())
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            assert batch["positions"][0][here].tolist() == list(range(here.sum()))
            read = batch["inputs"][0][here].tolist()
            said = batch["targets"][0][here].tolist()
            assert said[:-1] == read[1:]
            texts.append((read[0], bytes(said[:-1]), said[-1]))
            rows_of.setdefault(step, []).append(len(said))
    expected = []
    for text in TEXTS:
        tokens = [256, *text.encode(), 256]
        for first in range(0, len(tokens) - 1, T):
            piece = tokens[first : first + T + 1]
            expected.append((piece[0], bytes(piece[1:-1]), piece[-1]))
    assert sorted(texts) == sorted(expected)
    waste = about.facts["packing"]
    assert waste["kind"] == "best_fit"
    assert waste["padding"] == pytest.approx(padding / (T * len(batches)))
    assert waste["truncated_documents"] == np.mean(LENGTHS + 1 > T)
    percent = f"{waste['padding']:.1%} padding, {waste['truncated_documents']:.1%} of documents cut"
    assert about.note == f"rows: best_fit, {percent}" and 0 < waste["padding"] < 0.1


def test_the_stream_cuts_documents_where_a_window_ends():
    _, about = epoch("stream")
    cut = []
    for phase in range(T):
        ends = np.arange(phase, len(DOCUMENTS.tokens), T)
        inside = [((first < ends) & (ends < last)).any() for first, last in BOUNDS]
        cut.append(np.mean(inside))
    waste = about.facts["packing"]
    assert waste == {
        "kind": "stream",
        "padding": 0.0,
        "truncated_documents": pytest.approx(np.mean(cut)),
    }


BOUNDS = list(zip(DOCUMENTS.starts[:-1].tolist(), DOCUMENTS.starts[1:].tolist(), strict=True))


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_packed_batch_is_a_function_of_seed_and_step_whoever_makes_its_rows(packing):
    whole, batches = epoch(packing)
    parts = [epoch(packing, Share(process, 2))[0] for process in range(2)]
    for step, batch in enumerate(whole):
        for name, values in batch.items():
            np.testing.assert_array_equal(batches[step][name], values)
            both = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(both, values)
    other = epoch(packing, seed=4)[0]
    assert any((a["inputs"] != b["inputs"]).any() for a, b in zip(whole, other, strict=False))


def test_rows_are_packed_in_bounded_parts(monkeypatch):
    monkeypatch.setattr("lm_jax.data.text.packing._BUFFER", 7)
    batches, about = epoch("best_fit", batch_size=1)
    assert sum(batch["weights"].sum() for batch in batches) == (LENGTHS + 1).sum()
    monkeypatch.undo()
    assert about.facts["packing"]["padding"] > epoch("best_fit")[1].facts["packing"]["padding"]


def test_one_document_has_no_segments_and_padding_is_never_masked():
    one = tokenize(BYTES, ["only one " * 5])
    batch = training_batches(one, packing="best_fit", context_length=T, batch_size=3, seed=0)[0]
    assert set(batch) == {"inputs", "targets", "weights"} and batch["weights"].sum() == 46
    mask = masking(rate=0.99, vocab_size=258, end=256)
    arguments = {"context_length": T, "batch_size": 4, "seed": 0, "packing": "best_fit"}
    masked = training_corrupted(DOCUMENTS, mask, **arguments)[0]
    assert masked["weights"].any() and not masked["weights"][masked["segments"] == 0].any()


def test_another_packing_is_refused_by_its_name():
    with pytest.raises(UserError, match=r"data\.packing.*best.*(stream|best_fit)"):
        training_batches(DOCUMENTS, packing="best", context_length=T, batch_size=1, seed=0)
