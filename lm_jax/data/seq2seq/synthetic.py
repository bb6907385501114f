"""Sequences of made-up symbols and what becomes of them: a task that can be learned exactly."""

from collections.abc import Collection

import numpy as np

from lm_jax.data.config import SymbolsConfig
from lm_jax.errors import UserError

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
Sequence = tuple[int, ...]


def made_pairs(task: str, config: SymbolsConfig) -> tuple[list[tuple[str, str]], ...]:
    """Training and validation pairs of a task (copy, reverse, sort), symbols parted by spaces.

    Lengths are uniform, symbols too; a sequence occurs once. Sequences to validate are new ones, so
    the shortest kinds, which training exhausts, may be missing there.

    Raises:
      UserError: there are no new sequences left to validate.
    """
    names = _names(config.num_symbols)
    train = _draw(config, 0, config.num_training_pairs, config.shortest, config.longest, ())
    held_out = _draw(
        config, 1, config.num_validation_pairs, *config.lengths_to_validate, set(train)
    )
    if not held_out:
        raise UserError(
            f"training holds every sequence of {config.num_symbols} symbols that was drawn to "
            "validate; set more data.symbols.num_symbols or longer sequences"
        )

    def texts(sequence: Sequence) -> tuple[str, str]:
        result = {"copy": sequence, "reverse": sequence[::-1], "sort": tuple(sorted(sequence))}
        return " ".join(names[i] for i in sequence), " ".join(names[i] for i in result[task])

    return [texts(s) for s in train], [texts(s) for s in held_out]


def _names(count: int) -> list[str]:
    """Names that sort as their numbers do."""
    if count <= len(_ALPHABET):
        return list(_ALPHABET[:count])
    digits = len(str(count - 1))
    return [f"s{number:0{digits}}" for number in range(count)]


def _draw(
    config: SymbolsConfig,
    stream: int,
    count: int,
    shortest: int,
    longest: int,
    known: Collection[Sequence],
) -> list[Sequence]:
    rng = np.random.default_rng((config.seed, stream))
    lengths = rng.integers(shortest, longest + 1, size=count)
    symbols = rng.integers(config.num_symbols, size=lengths.sum()).tolist()
    ends = np.cumsum(lengths).tolist()
    sequences = [
        tuple(symbols[end - length : end])
        for end, length in zip(ends, lengths.tolist(), strict=True)
    ]
    return [sequence for sequence in dict.fromkeys(sequences) if sequence not in known]
