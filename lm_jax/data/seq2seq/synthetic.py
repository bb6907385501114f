"""Sequences of made-up symbols and their targets: tasks that can be learned exactly."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from lm_jax.errors import UserError

if TYPE_CHECKING:
    from lm_jax.data.seq2seq.config import SymbolsConfig

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
Sequence = tuple[int, ...]

TASKS: dict[str, Callable[[Sequence], Sequence]] = {  # source -> target
    "copy": lambda sequence: sequence,
    "reverse": lambda sequence: sequence[::-1],
    "sort": lambda sequence: tuple(sorted(sequence)),
}


def made_pairs(task: str, config: SymbolsConfig) -> tuple[list[tuple[str, str]], ...]:
    """Returns training and validation pairs of one of `TASKS`, symbols separated by spaces.

    Lengths and symbols are uniform; a sequence occurs once. Validation sequences do not occur in
    training, so the shortest lengths, which training exhausts, may be missing there.

    Raises:
      UserError: no new sequences are left to validate.
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
        target = TASKS[task](sequence)
        return " ".join(names[i] for i in sequence), " ".join(names[i] for i in target)

    return [texts(s) for s in train], [texts(s) for s in held_out]


def _names(count: int) -> list[str]:
    """Returns names whose alphabetical order is that of their numbers."""
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
