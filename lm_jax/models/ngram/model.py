"""The n-gram language model; its parameters are smoothed probabilities in a sorted trie.

Level n of the trie holds the n-grams; `kneser_ney.py` defines their order and estimates them. A
look-up uses 32-bit integers and a fixed number of steps, so it runs inside `jax.jit` like any other
model. Axes: b batch, t time, v vocabulary; r rows of a level.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.errors import UserError
from lm_jax.fields import described
from lm_jax.models.family import Family
from lm_jax.models.interface import Batch, Losses, Model, Variables
from lm_jax.models.ngram.kneser_ney import SMOOTHINGS, best_words, count, estimate, first_children
from lm_jax.models.parameters import Declared

_RUNS_ACROSS = {"document": False, "stream": True}  # boundaries -> whether contexts cross documents
_BLOCK = 64  # children of a context written into its logits per iteration

Params = Mapping[str, Any]


@dataclasses.dataclass
class NgramConfig:
    """The order, smoothing and document boundaries of an n-gram model.

    `maximum_likelihood` gives a word that never followed its context probability 0, so that the
    loss of a text may be infinite.
    """

    vocab_size: int = described(0, "Size of the vocabulary; 0: the tokenizer's.", minimum=0)
    context_length: int = described(
        1024, "Tokens of an evaluation window; contexts are `order` - 1 tokens.", minimum=1
    )
    order: int = described(5, "Words of the longest n-gram.", minimum=1, maximum=8)
    smoothing: str = described(
        "kneser_ney",
        "How unseen n-grams get a probability; kneser_ney: interpolated and modified.",
        choices=SMOOTHINGS,
    )
    k: float = described(1.0, "add_k: added to each count.", above=0)
    boundaries: str = described(
        "document",
        "Contexts end at an end token (document), or run across documents (stream).",
        choices=_RUNS_ACROSS,
    )


class _Contexts(NamedTuple):
    """The contexts of a batch's targets; arrays have the shape of the targets."""

    rows: list[jax.Array]  # rows of the last 1, 2, ... order - 1 tokens; -1: never seen
    reach: jax.Array  # length of the longest context


def ngram(config: NgramConfig, dtype: Any = jnp.float32) -> Model:
    """Returns the n-gram model of a configuration, fitted by counting; it computes in float32.

    `apply` returns log-probabilities. Contexts reach back to the start of a row or segment and,
    with `document` boundaries, to an end token. Variables hold integers, and their shapes change
    in a fit, so there are no gradients. `fit` reads the `tokens` and `starts` of a split, and
    raises UserError if they cannot be counted.

    Raises:
      UserError: the size of the vocabulary is not given.
    """
    del dtype
    if config.vocab_size < 1:
        raise UserError("model.vocab_size is 0: give the size of the vocabulary")

    def init(key: jax.Array, batch: Batch) -> Variables:
        return {"params": jax.tree.map(_whole, _nothing_counted(config))}

    def fit(train_split: Any) -> Variables:
        return {"params": jax.tree.map(jnp.asarray, _counted(config, train_split))}

    def apply(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        contexts = _contexts(config, variables["params"], batch["inputs"], batch.get("segments"))
        return _log_probabilities(config, variables["params"], contexts), {}

    def loss(variables: Variables, batch: Batch, *, train: bool, key: jax.Array | None = None):
        params, targets_bt = variables["params"], batch["targets"]
        contexts = _contexts(config, params, batch["inputs"], batch.get("segments"))
        correct = _best_words(config, params, contexts) == targets_bt
        nats = -_log_probability(config, params, contexts, targets_bt)
        return Losses(nats, correct.astype(jnp.float32)), {}

    def start(variables: Variables, batch_size: int, max_length: int) -> jax.Array:
        return jnp.full((batch_size, max(config.order - 1, 1)), -1, jnp.int32)

    def step(variables: Variables, carry: jax.Array, tokens: jax.Array):
        recent_bt = jnp.append(carry[:, 1:], tokens[:, None], axis=1)
        contexts = _contexts(config, variables["params"], recent_bt, recent_bt >= 0)
        last = jax.tree.map(lambda x_bt: x_bt[:, -1], contexts)
        return _log_probabilities(config, variables["params"], last), recent_bt

    return Model(init, apply, loss, start, step, fit)


def _whole(leaf: np.ndarray) -> Declared:
    """Declares an array that every device holds whole, because a look-up may reach any row."""
    return Declared(jnp.asarray(leaf), (None,) * leaf.ndim)


def _nothing_counted(config: NgramConfig) -> Params:
    """Returns the parameters before a fit: a uniform distribution and no n-grams."""
    vocab_size = config.vocab_size

    def level(n: int) -> dict[str, np.ndarray]:
        size = vocab_size if n == 1 else 1  # not 0: XLA cannot gather from empty arrays
        arrays = {"log_probability": np.full(size, -math.log(vocab_size), np.float32)}
        if n > 1:
            arrays["word"] = np.zeros(size, np.int32)
        if n < config.order:
            arrays["first_child"] = np.zeros(size + 1, np.int32)
            arrays["log_back_off"] = np.zeros(size, np.float32)
            arrays["best_word"] = np.zeros(size, np.int32)
        return arrays

    levels = {f"level_{n}": level(n) for n in range(1, config.order + 1)}
    return {"boundary": np.int32(-1), "level_0": {"best_word": np.zeros(1, np.int32)}} | levels


def _counted(config: NgramConfig, documents: Any) -> Params:
    """Returns the parameters estimated from a stream of documents."""
    across = _RUNS_ACROSS[config.boundaries]
    levels = count(
        documents.tokens, documents.starts, config.vocab_size, config.order, across=across
    )
    estimates = estimate(levels, config.smoothing, config.k)
    best = best_words(levels, estimates, _floor(config))
    params: dict[str, Any] = {
        "boundary": np.int32(-1 if across else documents.tokens[0]),
        "level_0": {"best_word": best[0]},
    }
    for n, level in enumerate(levels, 1):
        arrays = {"log_probability": estimates.log_probability[n - 1]}
        if n > 1:
            arrays["word"] = level.word
        if n < config.order:
            arrays["first_child"] = first_children(levels[n], len(level.word))
            arrays["log_back_off"] = estimates.log_back_off[n]
            arrays["best_word"] = best[n]
        params[f"level_{n}"] = arrays
    return params


def _floor(config: NgramConfig) -> float | None:
    """Returns log 1 / V for add-k, which uses no shorter contexts; else None."""
    backs_off = SMOOTHINGS[config.smoothing].backs_off
    return None if backs_off else -math.log(config.vocab_size)


def _contexts(
    config: NgramConfig, params: Params, inputs_bt: jax.Array, segments_bt: jax.Array | None
) -> _Contexts:
    """Returns the contexts that end at each input; a longer one is a child of the one before."""
    index_bt = jnp.broadcast_to(jnp.arange(inputs_bt.shape[1]), inputs_bt.shape)
    opens_bt = (index_bt == 0) | (inputs_bt == params["boundary"])
    if segments_bt is not None:
        opens_bt |= segments_bt != jnp.roll(segments_bt, 1, axis=1)
    last_open_bt = jax.lax.cummax(jnp.where(opens_bt, index_bt, 0), axis=1)
    rows = [inputs_bt][: config.order - 1]
    for n in range(2, config.order):
        previous_bt = jnp.where(opens_bt, -1, jnp.roll(rows[-1], 1, axis=1))
        rows.append(_child(config, params, n, previous_bt, inputs_bt))
    return _Contexts(rows, index_bt - last_open_bt + 1)


def _children(params: Params, n: int, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns first and end row in level n of the n-grams that extend rows of level n - 1."""
    first_child = params[f"level_{n - 1}"]["first_child"]
    first = first_child[jnp.maximum(row, 0)]
    return first, jnp.where(row < 0, first, first_child[jnp.maximum(row, 0) + 1])


def _child(
    config: NgramConfig, params: Params, n: int, row: jax.Array, word: jax.Array
) -> jax.Array:
    """Returns the row in level n of rows of level n - 1 followed by a word; -1 if never seen.

    It is a binary search with enough steps for the largest possible number of children.
    """
    words = params[f"level_{n}"]["word"]
    first, last = _children(params, n, row)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]):
        low, high = bounds
        middle = low + (high - low) // 2
        is_less = (low < high) & (words[middle] < word)
        return jnp.where(is_less, middle + 1, low), jnp.where(is_less, high, middle)

    steps = min(config.vocab_size, len(words)).bit_length()
    at, _ = jax.lax.fori_loop(0, steps, halve, (first, last))
    return jnp.where((at < last) & (words[at] == word), at, -1)


def _log_probability(
    config: NgramConfig, params: Params, contexts: _Contexts, word: jax.Array
) -> jax.Array:
    """Returns log p(word | context): the longest n-gram seen, plus log back-off weights."""
    score = params["level_1"]["log_probability"][word]
    for n, row in enumerate(contexts.rows, 1):
        at = _child(config, params, n + 1, row, word)
        seen = params[f"level_{n + 1}"]["log_probability"][at]
        longer = jnp.where(at < 0, _backed_off(config, params, n, row, score), seen)
        score = jnp.where(n <= contexts.reach, longer, score)
    return score


def _log_probabilities(config: NgramConfig, params: Params, contexts: _Contexts) -> jax.Array:
    """Returns log p of every word [..., V], with all children of a row at once."""
    shape = (*contexts.reach.shape, config.vocab_size)
    score_bv = jnp.broadcast_to(params["level_1"]["log_probability"], shape).reshape(-1, shape[-1])
    for n, row in enumerate(contexts.rows, 1):
        row_b1 = row.reshape(-1, 1)
        longer_bv = _backed_off(config, params, n, row_b1, score_bv)
        longer_bv = _write_children(params, n + 1, row_b1, longer_bv)
        score_bv = jnp.where(n <= contexts.reach.reshape(-1, 1), longer_bv, score_bv)
    return score_bv.reshape(shape)


def _backed_off(
    config: NgramConfig, params: Params, n: int, row: jax.Array, shorter: jax.Array
) -> jax.Array:
    """Returns log p of a word that never followed these rows, from a shorter context's log p."""
    floor = _floor(config)
    log_back_off = params[f"level_{n}"]["log_back_off"][row]
    lower = shorter if floor is None else jnp.full_like(shorter, floor)
    return jnp.where(row < 0, 0.0, log_back_off) + lower


def _write_children(params: Params, n: int, row_b1: jax.Array, score_bv: jax.Array) -> jax.Array:
    """Returns the scores with the log p of all n-grams that extend rows of level n - 1."""
    level, vocab_size = params[f"level_{n}"], score_bv.shape[1]
    first_b1, last_b1 = _children(params, n, row_b1)
    batch_b1 = jnp.arange(len(score_bv))[:, None]

    def unwritten(loop) -> jax.Array:
        return jnp.any(first_b1 + loop[0] < last_b1)

    def write(loop):
        done, score_bv = loop
        at_br = first_b1 + done + jnp.arange(_BLOCK)
        word_br = jnp.where(at_br < last_b1, level["word"][at_br], vocab_size)
        value_br = level["log_probability"][at_br]
        return done + _BLOCK, score_bv.at[batch_b1, word_br].set(value_br, mode="drop")

    return jax.lax.while_loop(unwritten, write, (jnp.int32(0), score_bv))[1]


def _best_words(config: NgramConfig, params: Params, contexts: _Contexts) -> jax.Array:
    """Returns the arg-max of `_log_probabilities`, stored with the longest context seen."""
    best = jnp.broadcast_to(params["level_0"]["best_word"][0], contexts.reach.shape)
    for n, row in enumerate(contexts.rows, 1):
        unseen = best if _floor(config) is None else jnp.zeros_like(best)
        longer = jnp.where(row < 0, unseen, params[f"level_{n}"]["best_word"][row])
        best = jnp.where(n <= contexts.reach, longer, best)
    return best


FAMILY = Family(NgramConfig, ngram, any_length=True)
