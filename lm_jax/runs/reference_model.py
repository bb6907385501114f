"""A Kneser-Ney model of characters that scores texts by their likeness to a reference.

It is what `data/preparation/` takes as `LanguageModel`: (fit, load).
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.data import TokenizerConfig, load_tokenizer, tokenize, train_tokenizer
from lm_jax.models.ngram.model import NgramConfig, ngram

_ORDER = 5
_VOCAB_SIZE = 4096
_ROWS, _COLUMNS = 64, 512


def fit(texts: list[str], directory: Path) -> None:
    """Fits the model to texts and writes it to a directory."""
    tokenizer = train_tokenizer(TokenizerConfig("char", _VOCAB_SIZE), texts)
    model = ngram(NgramConfig(tokenizer.vocab_size, order=_ORDER))
    assert model.fit is not None
    params = model.fit(tokenize(tokenizer, texts))["params"]
    levels = {name: level for name, level in params.items() if name != "boundary"}
    arrays = {f"{n}/{name}": leaf for n, level in levels.items() for name, leaf in level.items()}
    np.savez(directory / "params.npz", boundary=params["boundary"], **arrays)
    tokenizer.save(directory)


def load(directory: Path) -> Callable[[Sequence[str]], list[float]]:
    """Returns a function of texts that returns the bits per character of each."""
    tokenizer = load_tokenizer(directory)
    model = ngram(NgramConfig(tokenizer.vocab_size, order=_ORDER))
    params: dict[str, dict[str, jax.Array] | jax.Array] = {}
    with np.load(directory / "params.npz") as arrays:
        for key in arrays.files:
            level, _, name = key.partition("/")
            if name:
                params.setdefault(level, {})[name] = jnp.asarray(arrays[key])  # type: ignore[index]
            else:
                params[level] = jnp.asarray(arrays[key])

    @jax.jit
    def nats_of(params: dict, inputs_bt: jax.Array, targets_bt: jax.Array) -> jax.Array:
        batch = {"inputs": inputs_bt, "targets": targets_bt}
        losses, _ = model.loss({"params": params}, batch, train=False, key=None)
        return losses.nats

    def score(texts: Sequence[str]) -> list[float]:
        end = tokenizer.end_of_document
        # (text, first target to count, stream of the row), in a shape that is compiled once. A row
        # begins with the contexts that the end of the row before has scored.
        rows = []
        for index, ids in enumerate(tokenizer.encode_all(texts)):
            stream = np.concatenate([[end], ids])
            for start in range(0, max(len(ids) - _ORDER, 1), _COLUMNS - _ORDER):
                rows.append((index, _ORDER if start else 0, stream[start : start + _COLUMNS + 1]))
        nats = np.zeros(len(texts))
        for first in range(0, len(rows), _ROWS):
            part = rows[first : first + _ROWS]
            streams = np.full((_ROWS, _COLUMNS + 1), end, np.int32)
            for row, (_, _, stream) in enumerate(part):
                streams[row, : len(stream)] = stream
            found = np.asarray(nats_of(params, streams[:, :-1], streams[:, 1:]), np.float64)
            for row, (index, counted, stream) in enumerate(part):
                nats[index] += found[row, counted : len(stream) - 1].sum()
        lengths = [max(len(text), 1) for text in texts]
        return [float(n) / math.log(2) / length for n, length in zip(nats, lengths, strict=True)]

    return score
