"""What a table of weights is made of: rows of tensors, fields of configurations, transforms.

A table says how the tensors and the configuration of an architecture of Hugging Face transformers
are named here, for import and export alike. Axes: d model width, h heads, k head width, i inputs,
o outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm_jax.errors import UserError

Arrays = Sequence[np.ndarray]
Values = Mapping[str, Any]
LAYER = "{layer}"  # in the name of a tensor: the index of its layer
EXPERT = "{expert}"  # likewise of its expert: a row then has a tensor for each


class Transform(NamedTuple):
    """How tensors of others become arrays of ours, and back."""

    to_ours: Callable[[Arrays, Any], Arrays]  # (tensors, our configuration) -> arrays
    to_theirs: Callable[[Arrays, Any], Arrays]  # the inverse


def _each(to_ours: Callable, to_theirs: Callable | None = None) -> Transform:
    back = to_theirs or to_ours
    return Transform(
        lambda arrays, config: [to_ours(x) for x in arrays],
        lambda arrays, config: [back(x) for x in arrays],
    )


SAME = _each(lambda x: x)
TRANSPOSED = _each(np.transpose)
"""PyTorch's linear layers hold [o, i], our kernels [i, o]."""

ONE_PLUS = _each(lambda x: x.astype(np.float32) + 1, lambda x: x - 1)
"""Gemma's norms multiply by 1 + w."""

EXPERTS = Transform(
    lambda arrays, config: [np.stack([x.T for x in arrays])],
    lambda arrays, config: [x.T for x in arrays[0]],
)
"""A linear layer of each expert, and our kernels [e, i, o]."""

THIRDS = Transform(
    lambda arrays, config: np.split(arrays[0], 3, axis=-1),
    lambda arrays, config: [np.concatenate(arrays, axis=-1)],
)
"""GPT-2 holds queries, keys and values side by side."""


class Row(NamedTuple):
    """Tensors of others, and the arrays of ours that hold the same numbers.

    A row whose arrays a configuration does not have does not apply to it.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transform: Transform = SAME


def row(theirs: str, ours: str, transform: Transform = SAME) -> Row:
    """Returns a row of one tensor and one array."""
    return Row((theirs,), (ours,), transform)


def linear(theirs: str, ours: str) -> tuple[Row, Row]:
    """Returns the rows of a linear layer of PyTorch."""
    return (
        row(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED),
        row(f"{theirs}.bias", f"{ours}/bias"),
    )


def norm(theirs: str, ours: str, transform: Transform = SAME) -> tuple[Row, Row]:
    """Returns the rows of a norm, with biases or without."""
    return (
        row(f"{theirs}.weight", f"{ours}/scale", transform),
        row(f"{theirs}.bias", f"{ours}/bias", transform),
    )


class Field(NamedTuple):
    """A field of ours, and what their configuration says of it."""

    ours: str  # empty: a field of theirs that is checked only
    read: Callable[[Values], Any]  # (their configuration) -> our value; may raise UserError
    write: Callable[[Any], Values]  # (our configuration) -> their fields


def same(
    theirs: str, ours: str, default: Any = None, write: Callable[[Any], Any] | None = None
) -> Field:
    """Returns a field that is a number in both.

    Args:
      default: what transformers takes where their configuration has none; None: it must have one.
      write: (our configuration) -> the value; None: the field itself.
    """

    def read(values: Values) -> Any:
        value = values.get(theirs)
        value = default if value is None else value
        if value is None:
            raise UserError(f"config.json has no {theirs}; restore it")
        expects_bool = isinstance(default, bool)
        if isinstance(value, bool) != expects_bool or not isinstance(value, int | float):
            raise UserError(
                f"config.json: {theirs} is {value!r}; expected "
                f"{'true or false' if expects_bool else 'a number'}"
            )
        return value

    given = write or (lambda config: getattr(config, ours))
    return Field(ours, read, lambda config: {theirs: given(config)})


def named(theirs: str, ours: str, names: Mapping[Any, Any], default: Any) -> Field:
    """Returns a field whose values have other names there.

    Args:
      names: their value -> ours; the first of several is written.
      default: of theirs.
    """

    def read(values: Values) -> Any:
        value = values.get(theirs, default)
        if not isinstance(value, str | bool | None) or value not in names:
            known = ", ".join(map(str, names))
            raise UserError(f"config.json: {theirs} is {value!r}; supported are {known}")
        return names[value]

    def write(config: Any) -> Values:
        value = getattr(config, ours)
        found = [name for name, known in names.items() if known == value]
        if not found:
            raise UserError(f"model.{ours} {value}")
        return {theirs: found[0]}

    return Field(ours, read, write)


def only(theirs: str, value: Any, *others: Any) -> Field:
    """Returns a field of theirs that is supported at one value.

    Args:
      value: what is written, and what transformers takes where there is none.
      others: values that mean the same to us.
    """

    def read(values: Values) -> Any:
        given = values.get(theirs, value)
        if given not in (value, *others):
            raise UserError(f"config.json: {theirs} is {given!r}; supported is {value!r}")

    return Field("", read, lambda config: {theirs: value})


def dropout(*ours: str, none: Sequence[str] = ()) -> Field:
    """Returns their fields of dropout, which are written and not read.

    Left out, it would be that of transformers, 0.1 in GPT-2, BERT and T5.

    Args:
      ours: those for what `model.dropout_rate` drops, the embedding and the output of blocks.
      none: those for what no model here drops, such as attention weights.
    """

    def write(config: Any) -> Values:
        return dict.fromkeys(ours, config.dropout_rate) | dict.fromkeys(none, 0.0)

    return Field("", lambda values: None, write)


class Architecture(NamedTuple):
    """An architecture of transformers in terms of one of our families."""

    model_type: str  # of config.json
    classes: tuple[str, ...]  # names in `architectures` of config.json; exports name the first
    family: str  # key of `lm_jax.models.FAMILIES`
    objective: str  # what such models are trained for
    constants: Mapping[str, Any]  # our fields that have one value
    fields: tuple[Field, ...]
    rows: tuple[Row, ...]
    prefix: str = ""  # of most tensors; files of the model without a head leave it out
    left_out: tuple[str, ...] = ()  # patterns of tensors that hold nothing else of the model
    head: str = "output"  # what the paths of our head begin with: some files have none
    of_tokenizer: Mapping[str, str] = {}
    """Our fields that are ids -> what tokenizer_config.json calls the token."""
