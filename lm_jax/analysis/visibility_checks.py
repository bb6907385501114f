"""Checks of which tokens an architecture sees: none later, no padding, no other document."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.analysis.checked_model import (
    SAME,
    TOLERANCE,
    NotApplicable,
    Subject,
    Wrong,
    compiled,
    differences,
    largest,
    other_tokens,
)
from lm_jax.models.parameters import declarations_of, path_of
from lm_jax.plurals import counted


def causal(s: Subject) -> str:
    """Checks that no logit depends on a later token, by gradients of a table of embeddings.

    Each position gets a token of its own, so the gradient of the logits at t with respect to the
    token's row of the table is the influence of its position.
    """
    logits = s.logits(s.batch)
    if logits.ndim != 3 or not (s.objective.in_windows or s.model.step):
        raise NotApplicable("it does not predict the next token")
    length = logits.shape[1]
    tables = {
        path
        for path, found in declarations_of(s.boxed["params"]).items()
        if found.looked_up and found.names[0] == "vocab"
    }
    source = s.batch.get("source", np.zeros((1, 0), np.int32))
    if tables and s.config.vocab_size > length + source.shape[1]:
        influence, how = _influences_by_gradient(s, tables, length, source.shape[1]), "gradient"
    else:
        influence, how = _influences_by_change(s, length), "change of a token"
    later = np.triu(influence > 0, 1)
    if later.any():
        t, from_t = (int(x) for x in np.argwhere(later)[0])
        raise Wrong(
            f"the logits at position {t} depend on the later token {from_t} "
            f"({how} {influence[t, from_t]:.2g}); {counted(int(later.sum()), 'such pair')}"
        )
    if blind := [t for t in range(length) if not influence[t, t] > 0]:
        raise Wrong(f"the logits at position {blind[0]} do not depend on the token there")
    return f"by {how}, {length} positions"


def _influences_by_gradient(
    s: Subject, tables: set[str], length: int, source_length: int
) -> np.ndarray:
    """Returns the largest gradient of the logits at t by the embedding of token s, [t, s]."""
    batch = dict(s.batch) | {"inputs": np.broadcast_to(np.arange(length), (2, length))}
    if source_length:
        shape = (2, source_length)
        batch["source"] = np.broadcast_to(length + np.arange(source_length), shape)
    unused = length + source_length  # a token that no position holds, so its row is only an output
    params = s.variables["params"]
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    chosen = {path_of(path): leaf for path, leaf in flat if path_of(path) in tables}

    def logits_t(found: Mapping[str, jax.Array]) -> jax.Array:
        leaves = [found.get(path_of(path), leaf) for path, leaf in flat]
        variables = {**s.variables, "params": jax.tree.unflatten(tree, leaves)}
        return s.model.apply(variables, batch, train=False)[0][0, :, unused]

    def influences(found: Mapping[str, jax.Array]) -> jax.Array:
        _, pull = jax.vjp(logits_t, found)
        rows = jax.lax.map(lambda cotangent: pull(cotangent)[0], jnp.eye(length))
        largest = [jnp.abs(x_tvd[:, :length]).max(axis=2) for x_tvd in rows.values()]
        return jnp.stack(largest).max(axis=0)

    found = np.asarray(compiled(influences)(chosen))
    if not np.isfinite(found).all():
        raise Wrong("a gradient of the embeddings is not finite")
    return found


def _influences_by_change(s: Subject, length: int) -> np.ndarray:
    """Returns how far the logits at t move when the token at s changes, [t, s]; roundings are 0."""
    before, columns = s.logits(s.batch), []
    for t in range(length):
        changed = np.array(s.batch["inputs"])
        changed[:, t] = other_tokens(s, changed[:, t])
        after = s.logits({**s.batch, "inputs": changed})
        moved = np.where(differences(after, before, SAME), np.abs(after - before), 0)
        columns.append(moved.max(axis=(0, 2)))
    return np.stack(columns, axis=1)


def padding(s: Subject) -> str:
    """Tokens of padding, segment 0 at the end of a row, change no logit before them."""
    if "segments" not in s.batch:
        raise NotApplicable("its batches have no segments")
    length = s.batch["inputs"].shape[1]
    if length < 4:
        raise NotApplicable("its rows are too short")
    kept = length - length // 4
    batch = _packed(s, [kept])
    changed = dict(batch)
    for name in {"inputs", "source"} & batch.keys():
        is_padding = batch[_segments_of(name)] == 0
        changed[name] = np.where(is_padding, other_tokens(s, batch[name]), batch[name])
    before, after = s.logits(batch), s.logits(changed)
    if before.ndim == 3:
        before, after = before[:, :kept], after[:, :kept]
    wrong = differences(after, before, SAME)
    if wrong.any():
        where = (
            f" at position {np.flatnonzero(wrong.any(axis=(0, 2)))[0]}" if wrong.ndim == 3 else ""
        )
        raise Wrong(
            f"changing the padding (segment 0) moves the logits{where} by {largest(after, before)}"
        )
    return f"{length - kept} tokens of padding change nothing"


def segments(s: Subject) -> str:
    """Documents of a row do not see each other, and each has the logits that it has alone."""
    if not {"segments", "positions"} <= s.batch.keys() or s.batch["inputs"].shape[1] < 4:
        raise NotApplicable("its rows hold one document")
    length = s.batch["inputs"].shape[1]
    parts = [length // 2 - 1, length - length // 2 - 1]
    batch = _packed(s, parts)
    together = s.logits(batch)
    for number in (1, 2):
        changed = dict(batch)
        for name in {"inputs", "source"} & batch.keys():
            is_it = batch[_segments_of(name)] == number
            changed[name] = np.where(is_it, other_tokens(s, batch[name]), batch[name])
        other = batch["segments"][0] == 3 - number
        before, after = together[:, other], s.logits(changed)[:, other]
        wrong = differences(after, before, SAME)
        if wrong.any():
            t = np.flatnonzero(other)[np.flatnonzero(wrong.any(axis=(0, 2)))[0]]
            raise Wrong(
                f"changing segment {number} moves the logits of segment {3 - number} at position "
                f"{t} by {largest(after, before)}; attention takes `segments` into its mask by "
                "attention_mask of models/transformer/attention.py"
            )
    found = s.logits(_alone(s, batch, 2))[:, : parts[1]]
    expected = together[:, batch["segments"][0] == 2]
    wrong = differences(found, expected, TOLERANCE)
    if wrong.any():
        raise Wrong(
            f"token {np.flatnonzero(wrong.any(axis=(0, 2)))[0]} of a second document has other "
            f"logits than in a row of its own, by {largest(found, expected)}; are `segments` and "
            "`positions` read?"
        )
    return f"documents of {parts[0]} and {parts[1]} tokens in a row do not see each other"


def _segments_of(name: str) -> str:
    return "segments" if name == "inputs" else "source_segments"


def _packed(s: Subject, lengths: Sequence[int]) -> dict[str, Any]:
    """Returns a batch whose rows hold documents of these lengths, then padding."""
    batch = dict(s.batch)
    for name in {"inputs", "source"} & s.batch.keys():
        room = s.batch[name].shape[1]
        # Sources end in padding, too, and are of other lengths than their targets.
        of_name = lengths if name == "inputs" else [(room - 1) // len(lengths)] * len(lengths)
        rest = room - sum(of_name)
        numbers = np.repeat([*range(1, len(lengths) + 1), 0], [*of_name, rest])
        positions = np.concatenate([np.arange(n) for n in [*of_name, rest]])
        _place_in(batch, name, numbers, positions)
    return batch


def _alone(s: Subject, packed: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Returns a batch in which one segment stands at the beginning of its row, before padding."""
    batch = dict(packed)
    for name in {"inputs", "source"} & packed.keys():
        is_it = packed[_segments_of(name)][0] == number
        order = np.argsort(~is_it, kind="stable")
        batch[name] = packed[name][:, order]
        _place_in(batch, name, is_it[order].astype(np.int32), np.arange(len(order)))
    return batch


def _place_in(batch: dict[str, Any], name: str, numbers: np.ndarray, positions: np.ndarray) -> None:
    prefix = "" if name == "inputs" else "source_"
    for kind, row in (("segments", numbers), ("positions", positions)):
        if prefix + kind in batch:
            batch[prefix + kind] = np.broadcast_to(row.astype(np.int32), batch[name].shape)
