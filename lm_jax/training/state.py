"""The train state: created split over the mesh, described without being allocated, inherited."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lm_jax.models.interface import Model, Variables
from lm_jax.models.parameters import Declarations, path_of
from lm_jax.parallel import sharding


class TrainState(NamedTuple):
    """All that a step reads and writes besides its batch."""

    step: jax.Array  # int32: optimizer steps done, which is also the position in the data
    key: jax.Array  # never changes; step s draws from fold_in(key, s)
    params: Any
    stats: Variables  # non-gradient variables, such as running statistics; {} where there are none
    opt_state: Any


Shapes = Mapping[str, Any]  # arrays, or `ShapeDtypeStruct`s that stand for them


def variables_of(state: TrainState) -> dict[str, Any]:
    """Returns the variables that `Model.apply` takes."""
    return {"params": state.params, **state.stats}


def abstract_state(
    model: Model, optimizer: optax.GradientTransformation, batch: Shapes, mesh: Mesh
) -> TrainState:
    """Returns the shapes, dtypes and shardings of a state; nothing is allocated.

    Args:
      batch: arrays or `ShapeDtypeStruct`s of any batch that the model takes.
    """
    boxed = jax.eval_shape(model.init, jax.random.key(0), batch)
    placed = sharding.variable_shardings(boxed, mesh)["params"]
    state = jax.eval_shape(_creator(model, optimizer, batch), jax.random.key(0))
    shardings = sharding.state_shardings(state, state.params, placed, mesh)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings
    )


def state_bytes(
    model: Model,
    optimizer: optax.GradientTransformation,
    batch: Shapes,
    is_trained: Callable[[Any], Any] | None = None,
) -> int:
    """Returns what parameters, their gradients and the optimizer's state take in all.

    Args:
      is_trained: (parameters) -> a tree of bools, which of them have gradients; None: all.
    """
    state = jax.eval_shape(_creator(model, optimizer, batch), jax.random.key(0))
    gradients = trained_leaves(state.params, is_trained)
    leaves = jax.tree.leaves((state.params, gradients, state.opt_state))
    return sum(x.size * x.dtype.itemsize for x in leaves)


def trained_leaves(params: Any, is_trained: Callable[[Any], Any] | None) -> list[Any]:
    """Returns the parameters that are trained; None: all."""
    leaves = jax.tree.leaves(params)
    if is_trained is None:
        return leaves
    return [x for x, one in zip(leaves, jax.tree.leaves(is_trained(params)), strict=True) if one]


def init_state(
    model: Model, optimizer: optax.GradientTransformation, batch: Shapes, mesh: Mesh, seed: int
) -> TrainState:
    """Returns a fresh state, created already split over the mesh."""
    abstract = abstract_state(model, optimizer, batch, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(_creator(model, optimizer, batch), out_shardings=shardings)(jax.random.key(seed))


def _creator(model: Model, optimizer: optax.GradientTransformation, batch: Shapes):
    def create(key: jax.Array) -> TrainState:
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in batch.items()}
        # Under jit, so that what abstract states traced is not traced again.
        variables = dict(sharding.unboxed(jax.jit(model.init)(key, zeros)))
        params = variables.pop("params")
        return TrainState(jnp.int32(0), key, params, variables, optimizer.init(params))

    return create


def counted_state(variables: Variables, seed: int) -> TrainState:
    """Returns the state after the one step of a model that counts, on one device."""
    return TrainState(jnp.int32(1), jax.random.key(seed), variables["params"], {}, ())


class Inheritance(NamedTuple):
    """What a state took over of another run: the shapes of its variables, by their paths."""

    taken: dict[str, list[int]]
    new: dict[str, list[int]]  # the other run has none of this path
    other_shape: dict[str, list[list[int]]]  # path -> shape of the other run, shape of this one
    unused: dict[str, list[int]]  # of the other run; this one has none of this path


def inherit(
    state: TrainState, variables: Mapping[str, Any], declared: Declarations
) -> tuple[TrainState, Inheritance]:
    """Returns the state with the variables of another run, and which those are.

    An array is taken over where its path and its shape agree, and of a longer table of learned
    positions its beginning; the optimizer starts afresh.

    Args:
      declared: what each parameter of the state is, by its path.
    """
    theirs = {
        path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dict(variables))
    }
    found = Inheritance({}, {}, {}, {})

    def choose(path: Any, leaf: jax.Array) -> jax.Array:
        name, shape = path_of(path), list(leaf.shape)
        parameter = declared.get(path_of(path[1:]))
        other = theirs.get(name)
        if other is None:
            found.new[name] = shape
            return leaf
        given = list(other.shape)
        if parameter and parameter.names == ("positions", "embed"):
            other = other[: len(leaf)]
        if other.shape != leaf.shape:
            found.other_shape[name] = [given, shape]
            return leaf
        found.taken[name] = shape
        return sharding.placed(jnp.asarray(other, leaf.dtype), leaf.sharding)

    ours = jax.tree_util.tree_map_with_path(choose, variables_of(state))
    params = ours.pop("params")
    known = found.taken.keys() | found.other_shape.keys()
    found.unused.update({n: list(x.shape) for n, x in theirs.items() if n not in known})
    return state._replace(params=params, stats=ours), found
