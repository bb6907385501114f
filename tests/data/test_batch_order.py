"""The batches of every kind of data, against hashes recorded before: runs resume on them.

`python -m tests.data.test_batch_order` records the hashes anew, which ends every old run's claim to
resume with the same losses.
"""

import hashlib
import json
from pathlib import Path

import grain
import numpy as np
import pytest

from lm_jax import data
from lm_jax.data.batches import Share, shuffled_order
from lm_jax.data.classification.batches import (
    Examples,
    evaluation_examples,
    image_reader,
    text_reader,
    training_examples,
)
from lm_jax.data.seq2seq.packing import evaluation_packed_pairs, training_packed_pairs
from lm_jax.data.seq2seq.parallel_corpus import ParallelSplit
from lm_jax.data.text.denoising_batches import (
    evaluation_corrupted,
    masking,
    prefixing,
    span_corruption,
    text_length,
    training_corrupted,
)
from lm_jax.data.text.skip_gram_batches import evaluation_pairs, training_pairs
from lm_jax.data.text.windows import contiguous_batches, evaluation_batches, training_batches
from lm_jax.data.word_boundaries import word_boundaries

RECORDED = Path(__file__).parent / "batch_order.json"
BYTES = data.train_tokenizer(data.TokenizerConfig("byte"), [])
STEPS = (0, 1, 2, 17, 130)
SPLITS = (Share(0, 1), Share(0, 2), Share(1, 2))


def _texts(count: int, seed: int, longest: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefgh "))
    return ["".join(rng.choice(letters, size=rng.integers(2, longest))) for _ in range(count)]


def _pairs() -> ParallelSplit:
    return ParallelSplit(
        source=data.tokenize(BYTES, _texts(90, 1)),
        target=data.tokenize(BYTES, _texts(90, 2)),
        texts=[],
        origins=[str(number) for number in range(90)],
        tasks=np.zeros(90, np.int32),
        instructions=[""],
    )


def _examples() -> Examples:
    targets = np.arange(23, dtype=np.int32) % 3
    return Examples(data.tokenize(BYTES, _texts(23, 3)), targets)


def _images() -> Examples:
    images = np.random.default_rng(4).integers(256, size=(23, 8, 8, 1)).astype(np.uint8)
    return Examples(images, np.arange(23, dtype=np.int32) % 3)


def kinds() -> dict:
    """A function (share) -> batches for each kind, and for each use."""
    documents, one = data.tokenize(BYTES, _texts(30, 0)), data.tokenize(BYTES, ["only one " * 99])
    texts, pictures, pairs = _examples(), _images(), _pairs()
    read_text = text_reader(texts.inputs, 24)
    read_image = image_reader(pictures.inputs, crop_padding=2, flip=True)
    words = word_boundaries(BYTES)
    mask = masking(rate=0.3, vocab_size=258, end=256)
    whole_words = masking(rate=0.3, vocab_size=258, end=256, words=words)
    spans = span_corruption(
        source_length=24, context_length=16, density=0.2, mean_span=2.0, vocab_size=270, end=256
    )
    length = text_length(24, 16, 0.2, 2.0)[0]
    common = {"context_length": 16, "batch_size": 6}
    seeded = common | {"seed": 5}
    made = {
        "windows": lambda **p: training_batches(documents, **seeded, **p),
        "windows of one document": lambda **p: training_batches(one, **seeded, **p),
        "windows of whole documents": lambda **p: training_batches(
            documents, packing="best_fit", **seeded, **p
        ),
        "contiguous streams": lambda **p: contiguous_batches(documents, **seeded, **p),
        "pairs": lambda **p: training_packed_pairs(
            pairs, source_length=70, **seeded | {"context_length": 80}, **p
        ),
        "pairs as one text": lambda **p: training_packed_pairs(
            pairs, source_length=None, **seeded | {"context_length": 40}, truncate=True, **p
        ),
        "texts": lambda **p: training_examples(texts, read_text, batch_size=6, seed=5, **p),
        "images": lambda **p: training_examples(pictures, read_image, batch_size=6, seed=5, **p),
        "skip-gram": lambda **p: training_pairs(
            documents, vocab_size=257, window=3, subsampling=0.01, batch_size=6, seed=5, **p
        ),
        "evaluation: windows": lambda **p: evaluation_batches(documents, **common, **p),
        "evaluation: strided": lambda **p: evaluation_batches(documents, **common, stride=5, **p),
        "evaluation: one document": lambda **p: evaluation_batches(one, **common, **p),
        "evaluation: pairs": lambda **p: evaluation_packed_pairs(
            pairs, source_length=70, **common | {"context_length": 80}, **p
        ),
        "evaluation: pairs as one text": lambda **p: evaluation_packed_pairs(
            pairs, source_length=None, **common | {"context_length": 40}, truncate=True, **p
        ),
        "evaluation: texts": lambda **p: evaluation_examples(texts, read_text, batch_size=6, **p),
        "evaluation: images": lambda **p: evaluation_examples(
            pictures, read_image, batch_size=6, **p
        ),
        "evaluation: skip-gram": lambda **p: evaluation_pairs(
            documents, window=3, batch_size=6, **p
        ),
    }
    for name, corruption, width in (
        ("masked", mask, 16),
        ("masked words", whole_words, 16),
        ("prefixes", prefixing(), 16),
        ("spans", spans, length),
    ):
        made[name] = lambda corruption=corruption, width=width, **p: training_corrupted(
            documents, corruption, **seeded | {"context_length": width}, **p
        )
        made[f"evaluation: {name}"] = lambda corruption=corruption, width=width, **p: (
            evaluation_corrupted(documents, corruption, **common | {"context_length": width}, **p)
        )
    return made


def digest(make, share: Share) -> str:
    """Returns the SHA-256 of some batches: names, types, shapes and bytes."""
    batches = make(share=share)
    steps = range(len(batches)) if hasattr(batches, "__len__") else STEPS
    found = hashlib.sha256()
    for step in steps:
        for name, array in sorted(batches[step].items()):
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def digests() -> dict[str, list[str]]:
    """Returns a digest for each kind and each of `SPLITS`."""
    return {name: [digest(make, split) for split in SPLITS] for name, make in kinds().items()}


@pytest.mark.parametrize("name", sorted(kinds()))
def test_batches_are_those_of_earlier_runs(name):
    recorded = json.loads(RECORDED.read_text())
    assert [digest(kinds()[name], split) for split in SPLITS] == recorded[name]


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (2, 5), (1000, 2**32 - 2), (70_000, 7)])
def test_the_order_of_rows_is_grains_shuffle(size, seed):
    shuffled = grain.MapDataset.range(size).shuffle(seed=seed).repeat()
    positions = np.append(np.arange(60), size * np.arange(5) + size - 1)
    expected = [shuffled[position] for position in positions.tolist()]
    assert shuffled_order(size, seed)(positions).tolist() == expected


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(digests(), indent=1) + "\n")
