"""What a parameter is, declared where it is created: its axes, whether it is decayed, its fan-in.

Sharding, weight decay, Muon, muP, fine-tuning of a head and counts read these declarations. They
stand in the boxes that `Model.init` returns, so `jax.eval_shape` collects them without allocating
anything.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import struct

from lm_jax.errors import UserError


class Declared(nn.LogicallyPartitioned):
    """A parameter, or its shape, in a box with its declaration.

    `summed` counts axes from the end, so that a leading axis of layers or experts changes nothing.
    """

    summed: tuple[int, ...] = struct.field(default=(), pytree_node=False)
    decayed: bool = struct.field(default=False, pytree_node=False)
    head: bool = struct.field(default=False, pytree_node=False)
    looked_up: bool = struct.field(default=False, pytree_node=False)
    adapter: bool = struct.field(default=False, pytree_node=False)

    @property
    def is_matrix(self) -> bool:
        """Whether Muon orthogonalises it, over the summed axes and the output axis."""
        return self.decayed and bool(self.summed) and self.output_axis is not None

    @property
    def fan_in(self) -> int:
        """Number of inputs that the parameter sums over; 1 for what is looked up, added or scaled.

        Windows of a convolution do not count: they are the same at every width.
        """
        return math.prod(self.value.shape[axis] for axis in self.summed)

    @property
    def output_axis(self) -> int | None:
        """The last axis that is not summed, counted from the end; None where there is none."""
        others = (axis for axis in range(-1, -len(self.value.shape) - 1, -1))
        return next((axis for axis in others if axis not in self.summed), None)

    @property
    def fan_out(self) -> int:
        """Size of the output axis."""
        axis = self.output_axis
        return 1 if axis is None else self.value.shape[axis]


Declarations = Mapping[str, Declared]
"""Path of a parameter, as `path_of` writes it -> its declaration, with its shape as `value`."""


def declared(
    initializer: Callable[..., jax.Array],
    axes: tuple[str | None, ...],
    *,
    summed: tuple[int, ...] = (),
    decayed: bool = False,
    head: bool = False,
    looked_up: bool = False,
    adapter: bool = False,
) -> Callable[..., Declared]:
    """Returns an initializer whose parameters carry a declaration.

    Args:
      initializer: (key, shape, ...) -> array, as those of `flax.linen.initializers`.
      axes: logical axes, which `lm_jax.parallel.sharding.RULES` maps to the mesh.
      summed: axes that a product sums over, counted from the end: the fan-in of muP.
      decayed: weight decay acts on it; Muon orthogonalises it if it sums over an axis.
      head: it belongs to the last layers, which `fine_tuning.parameters=head` trains alone.
      looked_up: it is a table whose rows are looked up, such as embeddings of tokens or positions.
      adapter: it is a factor of an update, which `fine_tuning.parameters=lora` trains.
    """

    @functools.wraps(initializer)
    def init(*args: Any, **kwargs: Any) -> Declared:
        value = initializer(*args, **kwargs)
        return Declared(
            value,
            axes,
            summed=summed,
            decayed=decayed,
            head=head,
            looked_up=looked_up,
            adapter=adapter,
        )

    return init


def declared_kernel(
    initializer: Callable[..., jax.Array], axes: tuple[str | None, ...], *, head: bool = False
) -> Callable[..., Declared]:
    """Returns the initializer of matrices [..., in, out], which are decayed and sum over `in`."""
    return declared(initializer, axes, summed=(-2,), decayed=True, head=head)


def declared_table(
    initializer: Callable[..., jax.Array],
    axes: tuple[str | None, ...],
    *,
    output: bool = False,
    head: bool = False,
) -> Callable[..., Declared]:
    """Returns the initializer of tables [rows, features], whose rows are looked up.

    Args:
      output: instead, the rows are multiplied with features and give logits.
    """
    return declared(
        initializer, axes, summed=(-1,) if output else (), head=head, looked_up=not output
    )


def path_of(path: tuple[Any, ...]) -> str:
    """Returns the path of a leaf as text, such as `layers/attention/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def declarations_of(boxed_params: Any) -> dict[str, Declared]:
    """Returns the declarations of boxed parameters, or of their shapes, by path.

    Raises:
      UserError: a parameter is not declared.
    """
    flat = jax.tree_util.tree_leaves_with_path(
        boxed_params, is_leaf=lambda x: isinstance(x, Declared)
    )
    for path, leaf in flat:
        if not isinstance(leaf, Declared):
            # Another box of Flax shows as one more part of the path, `value`.
            names = path_of(path).removesuffix("/value")
            raise UserError(
                f"parameter {names} is not declared: create it with "
                "lm_jax.models.parameters.declared(...)"
            )
    return {path_of(path): leaf for path, leaf in flat}


def declarations(init: Callable[..., Any], batch: Mapping[str, Any]) -> dict[str, Declared]:
    """Returns the declarations of the parameters that `Model.init` creates, from shapes alone.

    Args:
      init: `Model.init`.
      batch: arrays or `ShapeDtypeStruct`s of any batch that the model takes.

    Raises:
      UserError: a parameter is not declared.
    """
    return declarations_of(jax.eval_shape(init, jax.random.key(0), dict(batch))["params"])


def where(found: Declarations, predicate: Callable[[Declared], Any]) -> Callable[[Any], Any]:
    """Returns (parameters) -> a tree of their structure with the predicate of each declaration."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: predicate(found[path_of(path)]), params
    )
