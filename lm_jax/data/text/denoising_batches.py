"""Windows of a text as batches, each row corrupted: masked tokens, prefixes, corrupted spans.

In training, what is hidden is a pure function of (seed, step, row). In evaluation it depends on the
row alone, so that losses of different models, steps and batch sizes can be compared.
"""

from collections.abc import Callable

import numpy as np

from lm_jax.choices import choose
from lm_jax.data.batches import (
    WHOLE,
    Batch,
    EvaluationBatches,
    RandomAccessBatches,
    RowFunction,
    Rows,
    Share,
    batches_by_position,
    batches_in_order,
    shuffled_batches,
    stack_rows,
)
from lm_jax.data.documents import TokenizedDocuments
from lm_jax.data.text.corruption import (
    choose_prefix,
    corrupt_spans,
    longest_text,
    mask_tokens,
    noise_spans,
    num_noise_spans,
)
from lm_jax.data.text.mixture import Mix, mixed_windows
from lm_jax.data.text.packing import PACKINGS, told
from lm_jax.data.text.windows import packed_windows
from lm_jax.data.word_boundaries import WordBoundaries
from lm_jax.errors import UserError

# (one row of a batch, [T] each; random numbers of its own) -> the corrupted row
Corruption = Callable[[Batch, np.random.Generator], Batch]


def masking(
    *,
    rate: float,
    vocab_size: int,
    end: int,
    words: WordBoundaries | None = None,
    mask: int = 0,
) -> Corruption:
    """Masks tokens (`mask_tokens`): `targets` are the tokens, `weights` 1 where chosen.

    Ends of documents are never chosen.

    Args:
      mask: an id of the vocabulary; 0: the last one, which no text has.
    """
    ordinary = vocab_size if mask else vocab_size - 1
    mask = mask or vocab_size - 1

    def corrupt(row: Batch, rng: np.random.Generator) -> Batch:
        tokens, is_text = row["inputs"], row["weights"] > 0
        starts = None if words is None else words.starts(tokens)
        seen, chosen = mask_tokens(
            tokens, rng, rate=rate, mask=mask, ordinary=ordinary, special=end, word_starts=starts
        )
        weights = (chosen & is_text).astype(np.float32)
        return row | {
            "inputs": np.where(is_text, seen, tokens),
            "targets": tokens,
            "weights": weights,
        }

    return corrupt


def prefixing() -> Corruption:
    """Chooses a random `prefix` of each segment (`choose_prefix`), whose targets have weight 0."""

    def corrupt(row: Batch, rng: np.random.Generator) -> Batch:
        segments = row.get("segments", (row["weights"] > 0).astype(np.int32))
        prefix = choose_prefix(segments, rng)
        # The last token of a prefix predicts the first after it, so that one counts.
        is_inside = (prefix > 0) & (np.append(prefix[1:], 0) > 0)
        return row | {"prefix": prefix, "weights": np.where(is_inside, 0, row["weights"])}

    return corrupt


def span_corruption(
    *,
    source_length: int,
    context_length: int,
    density: float,
    mean_span: float,
    vocab_size: int,
    end: int,
) -> Corruption:
    """Corrupts spans (`corrupt_spans`) into a source and its target, in rows like those of pairs.

    Sentinels are the last ids of the vocabulary: the first sentinel is the last id, as in T5.
    """

    def corrupt(row: Batch, rng: np.random.Generator) -> Batch:
        is_text = row["weights"] > 0
        text = row["inputs"][is_text]
        corrupted = _pair_row(source_length, context_length)
        if len(text) < 2:  # a row of padding
            return corrupted | ({"documents": corrupted["segments"]} if "documents" in row else {})
        is_noise = noise_spans(len(text), rng, density, mean_span)
        spans = num_noise_spans(len(text), density, mean_span)[1]
        source, target = corrupt_spans(text, is_noise, vocab_size - 1 - np.arange(spans))
        read, written = slice(0, len(source) + 1), slice(0, len(target) + 1)
        corrupted["source"][read] = np.append(source, end)
        corrupted["inputs"][written] = np.append(end, target)
        corrupted["targets"][written] = np.append(target, end)
        corrupted["source_segments"][read] = corrupted["segments"][written] = 1
        corrupted["source_positions"][read] = np.arange(read.stop)
        corrupted["positions"][written] = np.arange(written.stop)
        corrupted["weights"][written] = 1
        if "documents" in row:
            # A sentinel belongs to the document of its span, an end to that of the last span.
            positions = np.flatnonzero(is_noise | np.append(is_noise[1:], False))
            documents = row["documents"][is_text][np.append(positions, positions[-1])]
            opened = np.append(~is_noise[positions], False)
            documents[opened] = documents[np.flatnonzero(opened) + 1]
            corrupted["documents"] = np.zeros_like(row["inputs"], shape=context_length)
            corrupted["documents"][written] = documents
        return corrupted

    return corrupt


def _pair_row(source_length: int, context_length: int) -> Batch:
    row = {
        name: np.zeros(length, np.int32)
        for length, names in (
            (source_length, ("source", "source_segments", "source_positions")),
            (context_length, ("inputs", "targets", "segments", "positions")),
        )
        for name in names
    }
    return row | {"weights": np.zeros(context_length, np.float32)}


def text_length(
    source_length: int, context_length: int, density: float, mean_span: float
) -> tuple[int, int]:
    """Returns the tokens of text in a corrupted pair of rows, and the sentinels that it needs.

    Raises:
      UserError: the rows are too short for any text.
    """
    length = longest_text(source_length, context_length, density, mean_span)
    if not length:
        raise UserError(
            f"model.source_length {source_length} and model.context_length {context_length} are "
            "too short for a text with a corrupted span; expected at least 3 of each"
        )
    return length, num_noise_spans(length, density, mean_span)[1]


def _corrupted(
    rows: RowFunction, corrupt: Corruption, seed: Callable[[Rows, int], tuple[int, ...]]
) -> RowFunction:
    """Returns rows that are corrupted each with random numbers of its own.

    Args:
      seed: (rows, index among them) -> the seed of that row's random numbers.
    """

    def make(which: Rows) -> Batch:
        batch = rows(which)
        return stack_rows(
            [
                corrupt(
                    {name: array[index] for name, array in batch.items()},
                    np.random.default_rng(seed(which, index)),
                )
                for index in range(len(which.slots))
            ]
        )

    return make


def training_corrupted(
    documents: TokenizedDocuments,
    corrupt: Corruption,
    *,
    context_length: int,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
    mix: Mix | None = None,
    packing: str = "stream",
) -> RandomAccessBatches:
    """Returns batches of the windows of `training_batches`, each row corrupted.

    What is hidden is a pure function of (seed, step, row of the global batch).

    Args:
      packing: how documents fill rows, where there is one source; a key of `PACKINGS`.
      mix: how the sources of the documents are mixed; None: there is one source.

    Raises:
      UserError: as there.
    """

    def seed_of(rows: Rows, index: int) -> tuple[int, int, int]:
        return seed, rows.step, int(rows.slots[index])

    if mix is not None:
        windows, about = mixed_windows(documents, mix, context_length, seed)
        corrupted = _corrupted(windows, corrupt, seed_of)
        return batches_by_position(corrupted, batch_size=batch_size, share=share, **about)
    packed = choose(PACKINGS, packing, "data.packing")(documents, context_length, seed, None)
    return shuffled_batches(
        _corrupted(packed.make, corrupt, seed_of),
        packed.per_epoch,
        batch_size=batch_size,
        seed=seed,
        share=share,
        **told(packing, packed.waste),
    )


def evaluation_corrupted(
    documents: TokenizedDocuments,
    corrupt: Corruption,
    *,
    context_length: int,
    batch_size: int,
    share: Share = WHOLE,
) -> EvaluationBatches:
    """Returns all batches of `evaluation_batches` in disjoint windows, each row corrupted.

    What is hidden depends on the row alone, that is, on the text and the context length.
    """
    windows, count = packed_windows(documents, context_length, context_length)
    return batches_in_order(
        _corrupted(windows, corrupt, lambda rows, i: (int(rows.numbers[i]),)),
        count,
        batch_size=batch_size,
        share=share,
    )
