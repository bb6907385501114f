import struct

import numpy as np
import pytest

from lm_jax.data import DataConfig, TokenizerConfig, prepare, texts_of, tokenize
from lm_jax.data.text.windows import evaluation_batches, training_batches
from lm_jax.data.tokenizers import train_tokenizer
from lm_jax.errors import UserError

TEXTS = [f"Document {number} of 日本語 and more.\n" * (number % 4 + 1) for number in range(40)]
BYTES = train_tokenizer(TokenizerConfig("byte"), [])
END = BYTES.end_of_document
IDS = [BYTES.encode(text).tolist() for text in TEXTS]


def write_nanogpt(folder, name, documents):
    flat = [token for ids in documents for token in ids + [END]]
    (folder / f"{name}.bin").write_bytes(np.array(flat, "<u2").tobytes())


def write_llm_c(folder, name, documents):
    """Two files, cut in the midst of a document."""
    flat = [token for ids in documents for token in [END, *ids]]
    for part, tokens in enumerate((flat[: len(flat) // 2], flat[len(flat) // 2 :])):
        header = struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253)
        body = np.array(tokens, "<u2").tobytes()
        (folder / f"{name}_{part:06}.bin").write_bytes(header + body)


def write_megatron(folder, name, documents, ends=True):
    documents = [ids + [END] * ends for ids in documents]
    lengths = [len(ids) for ids in documents]
    pointers = np.append(0, np.cumsum(lengths)[:-1]) * 4
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, len(documents), len(documents) + 1)
    index += np.array(lengths, "<i4").tobytes() + np.array(pointers, "<i8").tobytes()
    index += np.arange(len(documents) + 1, dtype="<i8").tobytes()
    (folder / f"{name}.idx").write_bytes(index)
    flat = [token for ids in documents for token in ids]
    (folder / f"{name}.bin").write_bytes(np.array(flat, "<i4").tobytes())


def without_ends(folder, name, documents):
    write_megatron(folder, name, documents, ends=False)


WRITERS = {
    "nanoGPT": write_nanogpt,
    "llm.c": write_llm_c,
    "Megatron": write_megatron,
    "Megatron without ends": without_ends,
}


@pytest.fixture
def folder(tmp_path):
    BYTES.save(tmp_path / "tokenizer")
    return tmp_path


def config(folder, validation="validation*.bin", **fields):
    return DataConfig(
        source="tokens",
        path=str(folder / "train*.bin"),
        validation_path=str(folder / validation) if validation else "",
        cache_directory=str(folder / "cache"),
        tokenizer=TokenizerConfig(path=str(folder / "tokenizer")),
        **fields,
    )


@pytest.mark.parametrize("name", WRITERS)
def test_batches_are_those_of_the_text(folder, name):
    WRITERS[name](folder, "train", IDS[:30])
    WRITERS[name](folder, "validation", IDS[30:])
    found = prepare(config(folder))
    train, validation = (tokenize(BYTES, texts) for texts in (TEXTS[:30], TEXTS[30:]))
    assert texts_of(found.tokenizer, found.validation) == TEXTS[30:]
    for ours, theirs in zip(validation, found.validation, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    windows = {"context_length": 16, "batch_size": 4, "seed": 1}
    ours, theirs = (training_batches(split, **windows) for split in (train, found.train))
    for step in (0, 3, 50):
        for key, values in ours[step].items():
            np.testing.assert_array_equal(theirs[step][key], values)
    ours, theirs = (
        evaluation_batches(split, context_length=16, batch_size=4)
        for split in (validation, found.validation)
    )
    for one, other in zip(ours, theirs, strict=True):
        for key, values in one.items():
            np.testing.assert_array_equal(other[key], values)
    assert found.description["formats"] == name.removesuffix(" without ends")
    assert prepare(config(folder)).description == found.description


def test_without_held_out_files_the_last_documents_are_held_out(folder):
    write_nanogpt(folder, "train", IDS)
    found = prepare(config(folder, validation="", validation_fraction=0.2))
    train, validation = (texts_of(BYTES, split) for split in (found.train, found.validation))
    assert train + validation == TEXTS and 5 < len(validation) < 12
    assert found.train.tokens[0] == found.validation.tokens[0] == END
    sizes = found.description["validation"]
    assert sizes["characters"] == sum(map(len, validation))
    assert "characters" not in found.description["train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: setattr(config.tokenizer, "path", ""), "needs data.tokenizer.path"),
        (lambda config: setattr(config, "path", "nowhere/*.bin"), "no file matches data.path"),
        (lambda config: setattr(config, "validation_path", ""), "holds one document"),
    ],
)
def test_what_cannot_be_used_is_refused(folder, change, message):
    write_nanogpt(folder, "train", IDS[:1])
    given = config(folder)
    change(given)
    with pytest.raises(UserError, match=message):
        prepare(given)


def test_a_token_beyond_the_vocabulary_is_named_and_nothing_is_cached(folder):
    write_nanogpt(folder, "train", [*IDS, [300]])
    with pytest.raises(UserError, match=r"train\.bin: token [\d,]+ is 300; expected 0 to 256"):
        prepare(config(folder, validation=""))
    assert not (folder / "cache").exists()
