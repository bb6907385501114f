"""Files of tokens, written here from the published formats of nanoGPT, llm.c and Megatron."""

import struct
from array import array

import numpy as np
import pytest

from lm_jax.data import token_files
from lm_jax.data.token_files import FORMATS, open_token_file, open_token_files
from lm_jax.errors import UserError

END = 9
DOCUMENTS = [[1, 2, 3], [4], [5, 6, 7, 8], []]


def little(code, values):
    return struct.pack(f"<{len(values)}{code}", *values)


def after(documents=DOCUMENTS):
    return [token for document in documents for token in [*document, END]]


def before(documents=DOCUMENTS):
    return [token for document in documents for token in [END, *document]]


def llm_c(tokens, code="H", magic=20240520, version=1, count=None):
    header = array("i", [0] * 256)
    header[:3] = array("i", [magic, version, len(tokens) if count is None else count])
    return header.tobytes() + little(code, tokens)


def megatron(path, sequences, documents, code=8, letter="H", version=1, modes=b""):
    """Writes sequences; `documents` are the numbers of sequences of each document."""
    tokens = [token for sequence in sequences for token in sequence]
    path.with_suffix(".bin").write_bytes(little(letter, tokens))
    lengths, pointers, bounds = [len(s) for s in sequences], [], [0]
    for number in range(len(sequences)):
        pointers.append(sum(lengths[:number]) * struct.calcsize(letter))
    for count in documents:
        bounds.append(bounds[-1] + count)
    path.with_suffix(".idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<Q", version)
        + struct.pack("<B", code)
        + struct.pack("<Q", len(sequences))
        + struct.pack("<Q", len(bounds))
        + little("i", lengths)
        + little("q", pointers)
        + little("q", bounds)
        + modes
    )
    return path.with_suffix(".bin")


def documents_of(found):
    parts = zip(found.document_starts[:-1], found.document_starts[1:], strict=True)
    return [found.tokens[first:last].tolist() for first, last in parts]


def test_nanogpt_ends_each_document(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(little("H", after()))
    found = open_token_file(path, end_of_document=END, vocab_size=END + 1)
    assert found.format == "nanoGPT" and found.tokens.dtype == np.uint16
    assert found.tokens.tolist() == after()
    assert documents_of(found) == [[*document, END] for document in DOCUMENTS]
    assert isinstance(found.tokens, np.memmap) and not found.tokens.flags.writeable
    assert open_token_file(path).document_starts is None
    path.write_bytes(little("H", [*after(), 1, 2]))  # the last document does not end
    assert documents_of(open_token_file(path, end_of_document=END))[-1] == [1, 2]


@pytest.mark.parametrize(
    ("code", "magic", "version", "dtype"),
    [("H", 20240520, 1, np.uint16), ("I", 20240801, 7, np.uint32)],
)
def test_llm_c_begins_each_document(tmp_path, code, magic, version, dtype):
    path = tmp_path / "shard.bin"
    path.write_bytes(llm_c(before(), code, magic, version))
    found = open_token_file(path, end_of_document=END, vocab_size=END + 1)
    assert found.format == "llm.c" and found.tokens.dtype == dtype
    assert documents_of(found) == [[END, *document] for document in DOCUMENTS]


def test_shards_come_in_the_order_of_their_names_and_part_documents(tmp_path):
    stream = before()
    (tmp_path / "b_000001.bin").write_bytes(llm_c(stream[8:]))
    (tmp_path / "b_000000.bin").write_bytes(llm_c(stream[:8]))
    found = open_token_files(str(tmp_path / "*.bin"), end_of_document=END)
    assert [token for shard in found for token in shard.tokens] == stream
    assert documents_of(found[0])[-1] == [END, 5] and documents_of(found[1]) == [[6, 7, 8], [END]]


TYPES = [(1, "B"), (2, "b"), (3, "h"), (4, "i"), (5, "q"), (8, "H")]


@pytest.mark.parametrize(("code", "letter"), TYPES)
@pytest.mark.parametrize("modes", [b"", b"\0\1\0"])
def test_megatron_names_sequences_and_documents(tmp_path, code, letter, modes):
    path = megatron(tmp_path / "a", [[1, 2], [3, END], [4, END]], [2, 1], code, letter, modes=modes)
    for given in (path, path.with_suffix(".idx")):
        found = open_token_file(given, vocab_size=END + 1)
        assert found.format == "Megatron" and found.path == str(path)
        assert found.tokens.dtype == np.dtype(letter)
        assert documents_of(found) == [[1, 2, 3, END], [4, END]]


def test_an_index_is_no_file_of_tokens(tmp_path):
    megatron(tmp_path / "a", [[1], [2]], [1, 1])
    (tmp_path / "b.bin").write_bytes(little("H", [3]))
    found = open_token_files(str(tmp_path))
    assert [file.format for file in found] == ["Megatron", "nanoGPT"]


def test_vocabularies_are_checked_in_chunks_and_name_the_position(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_CHUNK", 4)
    path = tmp_path / "a.bin"
    path.write_bytes(little("H", [1] * 9 + [50_257, 60_000]))
    assert open_token_file(path, vocab_size=60_001).tokens[-1] == 60_000
    with pytest.raises(UserError, match=r"a.bin: token 9 is 50257; expected 0 to 50256, the ids"):
        open_token_file(path, vocab_size=50_257)
    path = megatron(tmp_path / "b", [[1, 2, 3, 4], [5, -6]], [2], 4, "i")
    with pytest.raises(UserError, match=r"token 5 is -6; expected 0 to 9"):
        open_token_file(path, vocab_size=10)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "Megatron"])
def test_documents_are_found_in_chunks_as_in_one(tmp_path, monkeypatch, name):
    path = tmp_path / "a.bin"
    path.write_bytes(little("H", after()) if name == "nanoGPT" else llm_c(before()))
    whole = open_token_file(path, end_of_document=END)
    assert whole.format == name
    monkeypatch.setattr(token_files, "_CHUNK", 3)
    parts = open_token_file(path, end_of_document=END)
    np.testing.assert_array_equal(whole.document_starts, parts.document_starts)


def test_megatron_sequences_are_checked_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_CHUNK", 2)
    path = megatron(tmp_path / "a", [[n] * n for n in range(1, 8)], [3, 4])
    assert documents_of(open_token_file(path)) == [
        [1, 2, 2, 3, 3, 3],
        [4] * 4 + [5] * 5 + [6] * 6 + [7] * 7,
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a.bin is empty; expected tokens"),
        (b"abc", r"a.bin has 3 bytes; expected an even number, .*nanoGPT's tokens have 2"),
        (llm_c([1, 2, 3], count=4), "its header names 4 tokens, but 3 follow; it is cut off"),
        (llm_c([1, 2, 3], count=2), "its header names 2 tokens, but 3 follow"),
        (llm_c([1, 2, 3])[:-1], "its header names 3 tokens, but 2.5 follow"),
        (llm_c([1, 2])[:100], "its header names 2 tokens, but 0 follow"),
        (llm_c([]), "its header names 0 tokens, but 0 follow"),
        (llm_c([1], version=2), "is llm.c's with version 2; expected 1"),
        (llm_c([1], "I", 20240801, 1), "is llm.c's with version 1; expected 7"),
        (llm_c([1], magic=20240522), "holds llm.c's multiple-choice questions"),
    ],
)
def test_files_that_do_not_add_up_are_refused(tmp_path, content, message):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_token_file(tmp_path / "a.bin")
    assert "\n" not in str(caught.value)


SEQUENCES = [[1, 2], [3], [4, 5, 6]]


def test_an_index_that_does_not_agree_is_refused(tmp_path, monkeypatch):
    path = megatron(tmp_path / "a", SEQUENCES, [1, 2])
    index = path.with_suffix(".idx")
    whole, tokens = index.read_bytes(), path.read_bytes()

    def refused(content=whole, held=tokens):
        index.write_bytes(content)
        path.write_bytes(held)
        with pytest.raises(UserError) as caught:
            open_token_file(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for kept in range(len(whole)):
        assert str(index) in refused(whole[:kept])
    assert "a.bin holds 5 tokens, and a.idx names 6; one of them is cut" in refused(
        held=tokens[:-2]
    )
    assert "a.bin holds 5.5 tokens" in refused(held=tokens[:-1])
    at = 34  # bytes of the header; then lengths, pointers and bounds
    lengths = whole[:at] + little("i", [2, 2, 3]) + whole[at + 12 :]
    assert "a.idx: sequence 2 does not begin where the one before ends" in refused(lengths)
    negative = whole[:at] + little("i", [2, -1, 5]) + whole[at + 12 :]
    assert "a.idx: sequence 1 does not begin" in refused(negative)
    monkeypatch.setattr(token_files, "_CHUNK", 1)
    for bounds in ([0, 2, 4], [1, 2, 3], [0, 4, 3]):
        assert "do not part its 3 sequences" in refused(whole[:-24] + little("q", bounds))
    assert "version 2; expected 1" in refused(whole[:9] + b"\2" + whole[10:])
    assert "names type 7; expected an integer type" in refused(whole[:17] + b"\7" + whole[18:])


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a.bin is no file; expected a file of tokens"):
        open_token_file(tmp_path / "a.idx")
    (tmp_path / "README.md").write_text("tokens of a corpus")
    with pytest.raises(UserError, match=r"README.md is no file of tokens: expected .bin of Meg"):
        open_token_files(str(tmp_path))
    with pytest.raises(UserError, match="no file matches data.path"):
        open_token_files(str(tmp_path / "*.bin"))
