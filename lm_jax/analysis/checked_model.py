"""What the checks of an architecture look at: its functions, compiled, on made-up tokens."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.models import Family, Model
from lm_jax.models.parameters import declarations_of
from lm_jax.objectives import Objective

LENGTH = 16  # tokens of a row and of a source, at most
# Compiled programs run a few times on little, so that compiling them well is most of the time.
_QUICKLY: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TOLERANCE = 1e-3  # between two ways to the same logits, relative to the largest one
SAME = 1e-6  # what must not change at all; other shapes may round otherwise


class Wrong(Exception):
    """The contract is broken; says how and where."""


class NotApplicable(Exception):
    """The model declares nothing that this check is about; says what."""


class Subject(NamedTuple):
    """What the checks look at. Arrays: b rows, t tokens, s source tokens, v vocabulary."""

    config: Any
    family: Family
    objective: Objective
    model: Model
    compiled: Model  # to be called; `model` is to be traced
    example: Mapping[str, jax.ShapeDtypeStruct]  # as in training
    boxed: Any  # shapes of the variables with their declarations
    variables: Any
    batch: Mapping[str, Any]  # a document a row, and its source

    def logits(self, batch: Mapping[str, Any], **arguments: Any) -> np.ndarray:
        """Returns the logits of a batch, in evaluation unless the arguments say otherwise."""
        arguments = {"train": False, "key": jax.random.key(5)} | arguments
        return np.asarray(self.compiled.apply(self.variables, batch, **arguments)[0])


def jitted(model: Model) -> Model:
    """Returns the model with each function compiled whole, but for its losses."""
    return model._replace(
        init=compiled(model.init),
        apply=compiled(model.apply, static_argnames="train"),
        start=model.start and compiled(model.start, static_argnums=(1, 2)),
        step=model.step and compiled(model.step),
        read=model.read and compiled(model.read),
        forget=model.forget and compiled(model.forget),
        prepare=model.prepare and compiled(model.prepare),
    )


def compiled(function: Callable[..., Any], **static: Any) -> Callable[..., Any]:
    """Returns the function, compiled quickly rather than well."""
    return jax.jit(function, compiler_options=_QUICKLY, **static)


def made_up(example: Mapping[str, jax.ShapeDtypeStruct], config: Any) -> dict[str, Any]:
    """Returns a batch of one document a row: random tokens, or random images."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for name, x in example.items():
        shape = (*x.shape[:1], *(min(n, LENGTH) for n in x.shape[1:2] if len(x.shape) == 2))
        if x.dtype != jnp.int32:
            made[name] = rng.uniform(size=x.shape).astype(np.float32)
        elif name.endswith("segments"):
            made[name] = np.ones(shape, np.int32)
        elif name.endswith("positions"):
            made[name] = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        else:
            made[name] = rng.integers(config.vocab_size, size=shape).astype(np.int32)
    return made


def shown(shape: tuple[int, ...]) -> str:
    """Returns a shape as messages have it."""
    return f"[{', '.join(map(str, shape))}]"


def differences(found: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns where two arrays of one shape differ by more than a share of the largest value.

    Raises:
      Wrong: the shapes differ, or a value is no number.
    """
    if found.shape != expected.shape:
        raise Wrong(f"the shape is {shown(found.shape)}; expected {shown(expected.shape)}")
    if not np.isfinite(found).all() or not np.isfinite(expected).all():
        raise Wrong("a logit is not finite")
    return np.abs(found - expected) > tolerance * max(float(np.abs(expected).max()), 1e-30)


def largest(found: np.ndarray, expected: np.ndarray) -> str:
    """Returns the largest difference, of the largest value, as messages have it."""
    return f"{np.abs(found - expected).max():.2g} of {np.abs(expected).max():.2g}"


def made_up_source(s: Subject) -> dict[str, Any]:
    """Returns what `start` takes of the source that an encoder reads; {} without an encoder."""
    if not s.family.has_encoder:
        return {}
    return {"source": {name: s.batch[name] for name in ("source", "source_segments")}}


def other_tokens(s: Subject, inputs: np.ndarray) -> np.ndarray:
    """Returns other tokens, or other pixels, in the place of these."""
    if inputs.dtype != np.int32:
        return 1 - inputs
    return (inputs + 1 + np.arange(inputs.size).reshape(inputs.shape) % 7) % s.config.vocab_size


def shapes_of(model: Model, example: Mapping[str, Any]) -> Any:
    """Returns the shape and dtype of each parameter by its path."""
    boxed = jax.eval_shape(model.init, jax.random.key(0), dict(example))["params"]
    return {path: (x.value.shape, x.value.dtype) for path, x in declarations_of(boxed).items()}
