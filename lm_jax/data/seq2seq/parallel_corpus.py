"""Pairs of texts: how they are cleaned, held out by whole documents, and described."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.cleaning import held_out_by_hash
from lm_jax.data.dataset import Dataset
from lm_jax.data.documents import OWN_SPLIT, Documents, TokenizedDocuments
from lm_jax.data.pipeline import TextKind
from lm_jax.data.seq2seq.config import ParallelTextConfig
from lm_jax.data.seq2seq.near_duplicates import near_duplicates
from lm_jax.data.seq2seq.readers import READERS, Pair, parse_tasks
from lm_jax.data.seq2seq.synthetic import TASKS
from lm_jax.data.token_stream import tokenize
from lm_jax.data.tokenizers import Tokenizer, identity
from lm_jax.errors import UserError
from lm_jax.plurals import counted

Pairs = Documents[Pair]


_DECIDED_BY = {  # why pairs are dropped -> the field that decides; repeated pairs always are
    "too long": "data.longest_characters",
    "unequal in length": "data.largest_length_ratio",
    "near copies of test pairs": "data.drop_near_copies",
    "near duplicates": "data.drop_near_copies",
}
_SINGULAR = {
    "near copies of test pairs": "near copy of a test pair",
    "near duplicates": "near duplicate",
}


class ParallelSplit(NamedTuple):
    """One split: pair n is document n of both sides."""

    source: TokenizedDocuments
    target: TokenizedDocuments
    texts: list[tuple[str, str]]  # (source, target) before tokenization, which may lose something
    origins: list[str]  # where each pair was found
    tasks: np.ndarray  # [N] int32: index of the instruction before each source
    instructions: list[str]  # [""] where there are none

    @property
    def tokens(self) -> np.ndarray:
        """The stream of tokens of the targets, [N]."""
        return self.target.tokens


ParallelSet = Dataset[ParallelSplit, Tokenizer]


def _drop_unfit_pairs(documents: Pairs, config: ParallelTextConfig) -> Pairs:
    """Returns the first of equal pairs, without pairs that are too long or too unequal."""
    first: dict[tuple[int, str, str], Pair] = {}
    for pair in documents.train:
        first.setdefault((pair.task, pair.source, pair.target), pair)
    unique = list(first.values())
    longest, ratio = config.longest_characters or np.inf, config.largest_length_ratio or np.inf
    short = [p for p in unique if max(len(p.source), len(p.target)) <= longest]
    kept = [
        p
        for p in short
        if max(len(p.source), len(p.target)) <= ratio * min(len(p.source), len(p.target))
    ]
    dropped = {
        "repeated": len(documents.train) - len(unique),
        "too long": len(unique) - len(short),
        "unequal in length": len(short) - len(kept),
    }
    return replace(documents, train=kept, names=None).noting(dropped=dropped)


def _drop_copies_of_test(documents: Pairs, config: ParallelTextConfig) -> Pairs:
    """Returns the pairs without near-duplicates of a test pair; the test split stays whole."""
    if documents.test is None or not config.drop_near_copies:
        return documents
    _, in_test = _find_near_duplicates(documents.test, documents.train)
    counts = documents.description["dropped"] | {"near copies of test pairs": int(in_test.sum())}
    train = _without(documents.train, in_test)
    return replace(documents, train=train).noting(dropped=counts)


def _hold_out(documents: Pairs, config: ParallelTextConfig) -> Pairs:
    """Returns the pairs split by a hash, unless the source splits them itself.

    The hash is that of a pair's document where pairs name two documents or more, else that of its
    source.
    """
    if documents.validation is not None:
        return documents.noting(split=OWN_SPLIT)
    pairs, fraction = documents.train, config.validation_fraction
    by_documents = len({pair.document for pair in pairs if pair.document}) > 1
    keys = [pair.document if by_documents and pair.document else pair.source for pair in pairs]
    is_held_out = np.array(held_out_by_hash(keys, fraction), bool)
    unit = "documents" if by_documents else "sources"
    return replace(
        documents, train=_without(pairs, is_held_out), validation=_without(pairs, ~is_held_out)
    ).noting(split=f"{fraction:g} of the {unit}, by a hash of each")


def _drop_near_duplicates(documents: Pairs, config: ParallelTextConfig) -> Pairs:
    """Returns splits of which neither holds a near-duplicate of a pair of the other.

    Held-out pairs whose source or target is a near-duplicate of one trained on are dropped; targets
    of a task count only if most of them differ, which labels do not. A validation split of the data
    set's own stays whole, so that its figures compare: training pairs are dropped instead.
    """
    train, held_out, dropped = documents.train, documents.validation or [], 0
    if config.drop_near_copies and config.source not in TASKS:
        in_train, in_held = _find_near_duplicates(held_out, train)
        if documents.description["split"] == OWN_SPLIT:
            train, dropped = _without(train, in_held), int(in_held.sum())
        else:
            held_out, dropped = _without(held_out, in_train), int(in_train.sum())
    counts = documents.description["dropped"] | {"near duplicates": dropped}
    return replace(documents, train=train, validation=held_out).noting(dropped=counts)


def _find_near_duplicates(
    held_out: Sequence[Pair], train: Sequence[Pair]
) -> tuple[np.ndarray, np.ndarray]:
    in_train, in_held = near_duplicates([p.source for p in held_out], [p.source for p in train])
    for task in {pair.task for pair in held_out}:
        targets = [[p.target for p in pairs if p.task == task] for pairs in (held_out, train)]
        if 2 * len(set(targets[1])) < len(targets[1]):
            continue
        is_of_task = [[p.task == task for p in pairs] for pairs in (held_out, train)]
        found = near_duplicates(*targets)
        in_train[is_of_task[0]] |= found[0]
        in_held[is_of_task[1]] |= found[1]
    return in_train, in_held


def _refuse_empty_splits(documents: Pairs, config: ParallelTextConfig) -> Pairs:
    if not documents.train or not documents.validation:
        dropped = documents.description["dropped"]
        side = "validation" if not documents.validation else "training"
        total = len(documents.train) + sum(dropped.values())
        if documents.description["split"] != OWN_SPLIT:
            total += len(documents.validation or [])
        raise UserError(
            f"{config.origin or config.source}: no pair is left for {side} of {total:,} "
            f"(dropped: {_counted(dropped)}); give more pairs, another "
            "data.validation_fraction, or set data.drop_near_copies=false"
        )
    return documents


def _without(pairs: Sequence[Pair], is_dropped: np.ndarray) -> list[Pair]:
    return [pair for pair, drop in zip(pairs, is_dropped, strict=True) if not drop]


def _counted(dropped: Mapping[str, int]) -> str:
    parts = []
    for why, count in dropped.items():
        field = f" ({_DECIDED_BY[why]})" if count and why in _DECIDED_BY else ""
        parts.append(f"{counted(count, _SINGULAR.get(why, why), why)}{field}")
    return ", ".join(parts)


def _instructions(config: ParallelTextConfig) -> list[str]:
    return list(parse_tasks(config.tasks)) if config.tasks else [""]


def _instructed(pair: Pair, instructions: Sequence[str]) -> str:
    """Returns what the model reads: the instruction of the pair's task, if any, and the source."""
    return f"{instructions[pair.task]} {pair.source}".lstrip()


def _texts(pairs: Sequence[Pair], config: ParallelTextConfig) -> list[str]:
    instructions = _instructions(config)
    return [text for pair in pairs for text in (_instructed(pair, instructions), pair.target)]


def _tokenized(
    pairs: Sequence[Pair], documents: Pairs, config: ParallelTextConfig, tokenizer: Tokenizer
) -> ParallelSplit:
    instructions = _instructions(config)
    sources = [_instructed(pair, instructions) for pair in pairs]
    targets = [pair.target for pair in pairs]
    return ParallelSplit(
        source=tokenize(tokenizer, sources),
        target=tokenize(tokenizer, targets),
        texts=list(zip(sources, targets, strict=True)),
        origins=[pair.origin for pair in pairs],
        tasks=np.array([pair.task for pair in pairs], np.int32),
        instructions=instructions,
    )


def _fingerprint(
    documents: Pairs, config: ParallelTextConfig, digest: str, key: str
) -> tuple[str, str]:
    contents = [
        [(pair.source, pair.target, pair.task) for pair in pairs]
        for pairs in (documents.train, documents.validation or [], documents.test)
        if pairs is not None
    ]
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    choices = json.dumps([identity(config.tokenizer), _instructions(config)], sort_keys=True)
    return digest, hashlib.sha256((digest + choices).encode()).hexdigest()[:32]


def _counts(documents: Pairs, splits: Mapping[str, ParallelSplit]) -> dict[str, dict[str, int]]:
    return {
        name: {
            "pairs": len(pairs),
            "documents": len({pair.document for pair in pairs if pair.document}),
            "source characters": sum(len(pair.source) for pair in pairs),
            "target characters": sum(len(pair.target) for pair in pairs),
        }
        for name, pairs in (
            ("train", documents.train),
            ("validation", documents.validation or []),
            ("test", documents.test or []),
        )
        if name in splits
    }


def _list_tasks(documents: Pairs, config: ParallelTextConfig) -> Pairs:
    return documents.noting(tasks=parse_tasks(config.tasks)) if config.tasks else documents


def _summary(description: dict[str, Any]) -> str:
    train, validation = description["train"], description["validation"]
    dropped = _counted(description["dropped"])
    held_in = (
        f" of {counted(validation['documents'], 'document')}" if validation["documents"] else ""
    )
    to_test = f", {description['test']['pairs']:,} to test" if "test" in description else ""
    return (
        f"{counted(train['pairs'], 'pair')} to train on, {validation['pairs']:,}{held_in} to "
        f"validate{to_test} (split: {description['split']}; dropped: {dropped}); "
        f"vocabulary: {description['sizes']['vocab_size']:,} tokens; "
        f"SHA-256 {description['sha256'][:12]}"
    )


PARALLEL_TEXT: TextKind[Pair, "ParallelTextConfig", ParallelSplit] = TextKind(
    readers=READERS,
    strings=lambda pair: (*pair[:-1], str(pair.task)),
    stages=(
        _drop_unfit_pairs,
        _drop_copies_of_test,
        _hold_out,
        _drop_near_duplicates,
        _refuse_empty_splits,
        _list_tasks,
    ),
    texts=_texts,
    split=ParallelSplit,
    tokenized=_tokenized,
    fingerprint=_fingerprint,
    counts=_counts,
    summary=_summary,
    not_in_key=("test_path", "test_target_path"),
)
