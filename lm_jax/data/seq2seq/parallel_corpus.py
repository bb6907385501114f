"""Pairs of texts, cleaned, held out by whole documents, and in the tokens of one vocabulary."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_jax.data.cache import cached, load_documents, save_documents
from lm_jax.data.cleaning import uniform
from lm_jax.data.config import ParallelTextConfig
from lm_jax.data.documents import TokenizedDocuments, tokenize
from lm_jax.data.seq2seq.near_duplicates import near_copies
from lm_jax.data.seq2seq.readers import Pair, load_pairs, parse_tasks
from lm_jax.data.sources import cache_directory
from lm_jax.data.tokenizers import Tokenizer, identity, load_tokenizer, train_tokenizer
from lm_jax.errors import UserError

_FORMAT = 1  # raise it when what the cache holds changes meaning


class ParallelSplit(NamedTuple):
    """One split: pair n is document n of both sides."""

    source: TokenizedDocuments
    target: TokenizedDocuments
    texts: list[tuple[str, str]]  # as they were: what tokens may no longer say
    origins: list[str]  # where each pair stood
    tasks: np.ndarray  # [N] int32: which instruction stands before each source
    instructions: list[str]  # [""] where there is none


class ParallelSet(NamedTuple):
    """Both splits in tokens, what made them tokens, and what a reader should know of them."""

    tokenizer: Tokenizer
    train: ParallelSplit
    validation: ParallelSplit
    description: dict[str, Any]


def prepare_parallel_text(config: ParallelTextConfig) -> ParallelSet:
    """The pairs of a configuration, each once, none nearly on both sides of the split.

    Where pairs name their documents (two at least), whole documents are held out, by a hash of
    their names; otherwise pairs, by a hash of their sources. Held-out pairs whose source or target
    is a near copy (`near_copies`) of one trained on are left out; targets count there unless most
    of those of a task are repeated, as labels are. A held-out split of the data set's own stays
    whole, so that its figures compare: what nearly stands there is not trained on. The tokenizer
    is trained on both sides of the training split.

    What becomes of files is cached, addressed by the raw pairs and by all that decides it.

    Raises:
      UserError: the pairs cannot be had or read, or one of the splits would be empty.
      OSError: the cache directory cannot be written.
    """
    config.validate()
    everything, own = load_pairs(config)
    if config.is_made:
        return _make(config, everything, own)
    choices = {
        name: value
        for name, value in asdict(config).items()
        if "path" not in name and name != "truncate"
    }
    choices["tokenizer"] = identity(config.tokenizer)
    key = json.dumps([_FORMAT, config.path, everything, own, choices], sort_keys=True)
    place = cache_directory("") / hashlib.sha256(key.encode()).hexdigest()[:32]
    return cached(place, lambda: _make(config, everything, own), _write, _read)


def _make(
    config: ParallelTextConfig, everything: Sequence[Pair], own: Sequence[Pair] | None
) -> ParallelSet:
    pairs, dropped = _clean(config, everything)
    if own is None:
        train, held_out, how = _split(pairs, config.validation_fraction)
    else:
        train, held_out, how = pairs, list(own), "the data set's own"
    dropped["near copies"] = 0
    if config.drop_near_copies and not config.is_made:
        in_train, in_held = _near_copies(held_out, train)
        if own is None:
            held_out = _without(held_out, in_train)
            dropped["near copies"] = int(in_train.sum())
        else:
            train = _without(train, in_held)
            dropped["near copies"] = int(in_held.sum())
    if not train or not held_out:
        side = "validation" if not held_out else "training"
        raise UserError(
            f"{config.path or config.tasks}: no pair is left for {side} of {len(everything):,} "
            f"(dropped: {_counted(dropped)}); give more pairs, another "
            "data.validation_fraction, or set data.drop_near_copies=false"
        )
    instructions = list(parse_tasks(config.tasks)) if config.tasks else [""]
    tokenizer = train_tokenizer(
        config.tokenizer,
        [text for pair in train for text in (_told(pair, instructions), pair.target)],
    )

    def split(pairs: Sequence[Pair]) -> ParallelSplit:
        return ParallelSplit(
            source=tokenize(tokenizer, [_told(pair, instructions) for pair in pairs]),
            target=tokenize(tokenizer, [pair.target for pair in pairs]),
            texts=[(_told(pair, instructions), pair.target) for pair in pairs],
            origins=[pair.origin for pair in pairs],
            tasks=np.array([pair.task for pair in pairs], np.int32),
            instructions=instructions,
        )

    contents = [[(*pair[:2], pair.task) for pair in pairs] for pairs in (train, held_out)]
    digest = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    choices = json.dumps([identity(config.tokenizer), instructions], sort_keys=True)
    description: dict[str, Any] = {
        "source": config.source,
        "path": config.path or config.tasks,
        "sha256": digest,
        "fingerprint": hashlib.sha256((digest + choices).encode()).hexdigest()[:32],
        "split": how,
        "dropped": dropped,
        "sizes": {"vocab_size": tokenizer.vocab_size},
        "train": _sizes(train),
        "validation": _sizes(held_out),
    }
    if config.tasks:
        description["tasks"] = parse_tasks(config.tasks)
    description["summary"] = _summary(description)
    return ParallelSet(tokenizer, split(train), split(held_out), description)


def _write(pairs: ParallelSet, place: Path) -> None:
    pairs.tokenizer.save(place / "tokenizer")
    for name, split in (("train", pairs.train), ("validation", pairs.validation)):
        save_documents(split.source, place, f"{name}_source")
        save_documents(split.target, place, f"{name}_target")
        np.save(place / f"{name}_tasks.npy", split.tasks)
        (place / f"{name}_texts.json").write_text(json.dumps([split.texts, split.origins]))
    values = [pairs.train.instructions, pairs.description]
    (place / "description.json").write_text(json.dumps(values, indent=2) + "\n")


def _read(place: Path) -> ParallelSet:
    instructions, description = json.loads((place / "description.json").read_text())

    def split(name: str) -> ParallelSplit:
        texts, origins = json.loads((place / f"{name}_texts.json").read_text())
        return ParallelSplit(
            load_documents(place, f"{name}_source"),
            load_documents(place, f"{name}_target"),
            [(source, target) for source, target in texts],
            origins,
            np.load(place / f"{name}_tasks.npy"),
            instructions,
        )

    tokenizer = load_tokenizer(place / "tokenizer")
    return ParallelSet(tokenizer, split("train"), split("validation"), description)


def _told(pair: Pair, instructions: Sequence[str]) -> str:
    """What the model is given: the instruction of its task, if there is one, and the source."""
    return f"{instructions[pair.task]} {pair.source}".lstrip()


def _clean(config: ParallelTextConfig, pairs: Sequence[Pair]) -> tuple[list[Pair], dict[str, int]]:
    """The first of equal pairs, without those too long or too unequal; how many went, and why."""
    first: dict[tuple[int, str, str], Pair] = {}
    for pair in pairs:
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
        "repeated": len(pairs) - len(unique),
        "too long": len(unique) - len(short),
        "unequal in length": len(short) - len(kept),
    }
    return kept, dropped


def _split(pairs: Sequence[Pair], fraction: float) -> tuple[list[Pair], list[Pair], str]:
    by_documents = len({pair.document for pair in pairs if pair.document}) > 1
    keys = [pair.document if by_documents and pair.document else pair.source for pair in pairs]
    is_held_out = np.array([uniform(key) < fraction for key in keys], bool)
    unit = "documents" if by_documents else "sources"
    how = f"{fraction:g} of the {unit}, by a hash of each"
    return _without(pairs, is_held_out), _without(pairs, ~is_held_out), how


def _counted(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in dropped.items())


def _without(pairs: Sequence[Pair], is_dropped: np.ndarray) -> list[Pair]:
    return [pair for pair, drop in zip(pairs, is_dropped, strict=True) if not drop]


def _near_copies(held_out: Sequence[Pair], train: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    in_train, in_held = near_copies([p.source for p in held_out], [p.source for p in train])
    for task in {pair.task for pair in held_out}:
        targets = [[p.target for p in pairs if p.task == task] for pairs in (held_out, train)]
        if 2 * len(set(targets[1])) < len(targets[1]):
            continue
        places = [[p.task == task for p in pairs] for pairs in (held_out, train)]
        copies = near_copies(*targets)
        in_train[places[0]] |= copies[0]
        in_held[places[1]] |= copies[1]
    return in_train, in_held


def _sizes(pairs: Sequence[Pair]) -> dict[str, int]:
    return {
        "pairs": len(pairs),
        "documents": len({pair.document for pair in pairs if pair.document}),
        "source characters": sum(len(pair.source) for pair in pairs),
        "target characters": sum(len(pair.target) for pair in pairs),
    }


def _summary(description: dict[str, Any]) -> str:
    train, validation = description["train"], description["validation"]
    dropped = _counted(description["dropped"])
    held_in = f" of {validation['documents']:,} documents" if validation["documents"] else ""
    return (
        f"{train['pairs']:,} pairs to train on, {validation['pairs']:,}{held_in} to validate "
        f"(split: {description['split']}; dropped: {dropped}); "
        f"{description['sizes']['vocab_size']:,} kinds of token; "
        f"SHA-256 {description['sha256'][:12]}"
    )
