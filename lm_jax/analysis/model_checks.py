"""Checks that an architecture keeps the contracts of `lm_jax.models`, on made-up tokens.

Nothing is read or trained. The model has the sizes of its configuration, rows of at most 16 tokens,
and every parameter is moved at random, so that no term hides behind an initial zero.
"""

import dataclasses
import functools
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.analysis.checked_model import (
    LENGTH,
    SAME,
    TOLERANCE,
    NotApplicable,
    Subject,
    Wrong,
    compiled,
    differences,
    jitted,
    largest,
    made_up,
    made_up_source,
    other_tokens,
    shapes_of,
    shown,
)
from lm_jax.analysis.visibility_checks import causal, padding, segments
from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.models import build_model, family_of
from lm_jax.models.interface import Losses, counting_weights, cross_entropy, named_values
from lm_jax.models.parameters import declarations_of, path_of
from lm_jax.objectives import objective_of
from lm_jax.parallel import sharding
from lm_jax.plurals import counted

_SIZES = {"vocab_size": 67, "num_classes": 5}  # of data, where the configuration leaves them open
_SIZES |= {"image_height": 28, "image_width": 28, "image_channels": 1}


class Check(NamedTuple):
    """The outcome of one check."""

    name: str
    ok: bool | None  # None: it does not apply
    text: str  # what was found, and where


def check_model(experiment: Experiment) -> list[Check]:
    """Returns the outcome of each check of an experiment's model; each stands for one contract.

    Raises:
      UserError: the experiment cannot run, or its model counts instead of being trained.
    """
    with sharding.on_mesh(sharding.make_mesh("data:1", jax.devices()[:1])):
        subject, first = _subject_of(experiment)
        if subject is None:
            return [first]
        return [first, *(_run(name, check, subject) for name, check in CHECKS.items())]


def _run(name: str, check: Callable[[Any], Any], argument: Any) -> Check:
    try:
        return Check(name, True, check(argument))
    except NotApplicable as error:
        return Check(name, None, str(error))
    except (Wrong, UserError) as error:
        return Check(name, False, str(error))
    except Exception as error:  # of the code that is checked
        what = " ".join(str(error).split())[:300]
        return Check(name, False, f"{type(error).__name__}: {what} ({_place(error)})")


def _place(error: Exception) -> str:
    """Returns file:line of the innermost call outside installed packages and this file."""
    packages = tuple({sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib")})
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if not f.filename.startswith((*packages, "<")) and f.line]
    outside = [f for f in ours if f.filename != __file__] or ours
    return f"{outside[-1].filename}:{outside[-1].lineno}" if outside else "no source"


def _axes(s: Subject) -> str:
    """Checks that parameters are declared, with a known logical axis or None a dimension."""
    known = {name for name, _ in sharding.RULES}
    for path, found in declarations_of(s.boxed["params"]).items():
        shape, axes = found.value.shape, found.names
        if len(axes) != len(shape):
            raise Wrong(
                f"parameter {path} has {len(axes)} logical axes ({', '.join(map(str, axes))}) for "
                f"its shape {shown(shape)}; declare one for each dimension"
            )
        if unknown := [axis for axis in axes if axis is not None and axis not in known]:
            raise Wrong(
                f"parameter {path} has the logical axis {unknown[0]!r}; expected one of "
                f"{', '.join(sorted(known))}, or None"
            )
        if outside := [axis for axis in found.summed if not -len(shape) <= axis < 0]:
            raise Wrong(
                f"parameter {path} sums over axis {outside[0]} of its shape {shown(shape)}; "
                "expected an axis counted from the end"
            )
    return f"declared: {counted(len(jax.tree.leaves(s.variables['params'])), 'parameter')}"


def _dtypes(s: Subject) -> str:
    """Checks that parameters and logits are float32, and what is between them follows `dtype`."""
    for path, x in jax.tree_util.tree_leaves_with_path(s.variables["params"]):
        if x.dtype != jnp.float32:
            raise Wrong(f"parameter {path_of(path)} is {x.dtype}; expected float32")
    half = s.family.build(s.config, jnp.bfloat16)
    apply = functools.partial(half.apply, train=False)
    for name, function in (("float32", s.model.apply), ("bfloat16", half.apply)):
        call = functools.partial(function, train=False)
        dtype = jax.eval_shape(call, s.variables, s.batch)[0].dtype
        if dtype != jnp.float32:
            raise Wrong(f"built in {name}, the logits are {dtype}; expected float32")
    if "bf16" not in str(jax.make_jaxpr(apply)(s.variables, s.batch)):
        raise Wrong("built in bfloat16, nothing is computed in bfloat16; use the `dtype` given")
    if half.start and half.step:
        start = functools.partial(half.start, batch_size=2, max_length=LENGTH, **made_up_source(s))
        carry = jax.eval_shape(start, s.variables)
        _, after = jax.eval_shape(half.step, s.variables, carry, jnp.zeros(2, jnp.int32))
        before = jax.tree_util.tree_leaves_with_path(carry)
        for (path, x), y in zip(before, jax.tree.leaves(after), strict=True):
            if (x.shape, x.dtype) != (y.shape, y.dtype):
                raise Wrong(
                    f"built in bfloat16, a step turns {path_of(path)} of the carry from {x.dtype} "
                    f"{shown(x.shape)} into {y.dtype} {shown(y.shape)}; expected the same"
                )
    return "float32 parameters and logits, bfloat16 between"


def _deterministic(s: Subject) -> str:
    """Checks that evaluation does not depend on the key, and training is a function of it."""
    plain = s.logits(s.batch)
    if (plain != s.logits(s.batch)).any():
        raise Wrong("two evaluations of one batch differ")
    if (plain != s.logits(s.batch, key=jax.random.key(6))).any():
        raise Wrong("with train=False the logits depend on the key; is dropout still on?")
    trained = [s.logits(s.batch, train=True) for _ in range(2)]
    if (trained[0] != trained[1]).any():
        raise Wrong("with train=True and one key, the logits of two calls differ")
    return "the same bits twice, in evaluation and with one key in training"


def _rows(s: Subject) -> str:
    """Checks that a row of an evaluation batch does not depend on the others."""
    changed = {name: np.array(x) for name, x in s.batch.items()}
    changed["inputs"][1] = other_tokens(s, changed["inputs"][1])
    before, after = s.logits(s.batch)[0], s.logits(changed)[0]
    if differences(after, before, SAME).any():
        raise Wrong(f"changing row 1 moves the logits of row 0 by {largest(after, before)}")
    return "a row does not see the others"


def _loss(s: Subject) -> str:
    """Checks that `loss` is the cross-entropy of `apply`, and its gradients are finite."""
    logits = s.logits(s.batch)
    targets = np.random.default_rng(2).integers(logits.shape[-1], size=logits.shape[:-1])
    weights = np.ones(targets.shape, np.float32)
    batch = {**s.batch, "targets": targets.astype(np.int32), "weights": weights}
    evaluated = compiled(functools.partial(s.model.loss, train=False))
    found, _ = evaluated(s.variables, batch)
    expected = cross_entropy(jnp.asarray(logits), jnp.asarray(batch["targets"]))
    if differences(np.asarray(found.nats), np.asarray(expected.nats), TOLERANCE).any():
        raise Wrong(
            "nats differ from the cross-entropy of the logits of apply by "
            f"{largest(np.asarray(found.nats), np.asarray(expected.nats))}"
        )
    others = {name: value for name, value in s.variables.items() if name != "params"}

    def total(params: Any) -> jax.Array:
        variables = {**others, "params": params}
        key = jax.random.key(0)
        return _trained_loss(s.model.loss(variables, batch, train=True, key=key)[0], batch)

    gradient = compiled(jax.grad(total))(s.variables["params"])
    for path, x in jax.tree_util.tree_leaves_with_path(gradient):
        if not np.isfinite(x).all():
            raise Wrong(f"the gradient of parameter {path_of(path)} is not finite")
        if not np.any(x):
            raise Wrong(f"the gradient of parameter {path_of(path)} is 0: it is not used")
    reported = ", ".join(named_values(found))
    also = f"; also reported: {reported}" if reported else ""
    return f"the cross-entropy of apply; every parameter has a finite gradient{also}"


def _trained_loss(losses: Losses, batch: Mapping[str, Any]) -> jax.Array:
    """Returns the cross-entropy and the auxiliary terms, each averaged and with its coefficient."""
    averages = {"": jnp.mean(losses.nats)}
    for name, values in named_values(losses).items():
        counting = counting_weights(values, batch["weights"])
        averages[name] = jnp.sum(values * counting) / jnp.sum(counting)
    coefficients = {name: term.coefficient for name, term in losses.auxiliary.items()}
    coefficients[""] = losses.coefficient
    return sum((c * averages[name] for name, c in coefficients.items()), jnp.zeros(()))


def _steps(s: Subject) -> str:
    """Checks that steps give the logits of `apply`, also after `read`, `forget` and `prepare`."""
    if s.compiled.start is None or s.compiled.step is None:
        raise NotApplicable("it does not generate: no start and step (models/recomputed_steps.py)")
    tokens, expected = s.batch["inputs"], s.logits(s.batch)
    rows, length = tokens.shape
    first = s.compiled.start(s.variables, rows, length, **made_up_source(s))
    ways = {"step": s.variables}
    if s.compiled.prepare is not None:
        ways["step after prepare"] = s.compiled.prepare(s.variables)
    for name, variables in ways.items():
        carry, found = first, []
        for t in range(length):
            logits, carry = s.compiled.step(variables, carry, tokens[:, t])
            found.append(np.asarray(logits))
        _compare_steps(name, np.stack(found, axis=1), expected, 0)
    if s.compiled.read is not None and length > 2:
        half = length // 2
        logits, carry = s.compiled.read(s.variables, first, tokens[:, :half])
        _compare_steps("read", np.asarray(logits)[:, None], expected[:, half - 1 : half], half - 1)
        logits, _ = s.compiled.step(s.variables, carry, tokens[:, half])
        after = np.asarray(logits)[:, None]
        _compare_steps("step after read", after, expected[:, half : half + 1], half)
        if s.compiled.forget is not None:
            longer = tokens[:, : half + 1].copy()
            longer[:, half] = tokens[:, 0]
            _, carry = s.compiled.read(s.variables, first, longer)
            carry = s.compiled.forget(carry, 1)
            logits, _ = s.compiled.step(s.variables, carry, tokens[:, half])
            after = np.asarray(logits)[:, None]
            _compare_steps("step after forget", after, expected[:, half : half + 1], half)
    return f"{length} positions"


def _compare_steps(name: str, found: np.ndarray, expected: np.ndarray, first: int) -> None:
    wrong = differences(found, expected, TOLERANCE)
    if wrong.any():
        t = int(np.flatnonzero(wrong.any(axis=(0, 2)))[0])
        raise Wrong(
            f"{name}: the logits at position {first + t} differ from those of apply by "
            f"{largest(found[:, t], expected[:, t])}"
        )


def _family(s: Subject) -> str:
    """Checks that what the family declares holds of its configuration."""
    fields = {field.name for field in dataclasses.fields(s.config)}
    needed = {"source_length"} if s.family.has_encoder else set()
    if s.family.reads_images:
        needed |= {"image_height", "image_width", "image_channels"}
    if missing := needed - fields:
        raise Wrong(f"the configuration has no field {', '.join(sorted(missing))}")
    if unknown := set(_widths(s)) - fields:
        raise Wrong(f"widths names {min(unknown)!r}, which is no field of the configuration")
    shapes = shapes_of(s.model, s.example)
    for name, other in (
        ("for_low_memory", s.family.for_low_memory(s.config)),
        ("for_any_device", s.family.for_any_device(s.config)),
    ):
        if shapes_of(s.family.build(other, jnp.float32), s.example) != shapes:
            raise Wrong(f"{name} gives a configuration with other parameters")
    said = [f"reads any length: {'yes' if s.family.any_length else 'no'}"]
    if s.family.any_length and s.batch["inputs"].ndim == 2:
        longer = {name: jnp.zeros((2, 2 * x.shape[1]), x.dtype) for name, x in s.example.items()}
        found = jax.eval_shape(functools.partial(s.model.apply, train=False), s.variables, longer)
        if found[0].ndim == 3 and found[0].shape[1] != longer["inputs"].shape[1]:
            raise Wrong(
                f"any_length is declared, but {longer['inputs'].shape[1]} tokens give logits "
                f"{shown(found[0].shape)}"
            )
    if s.family.splits_time:
        said.append("a mesh may split its context")
    return ", ".join(said)


def _widths(s: Subject) -> tuple[str, ...]:
    try:
        return s.family.widths(s.config)
    except UserError:  # muP cannot scale this configuration, and says why when it is asked to
        return ()


CHECKS: dict[str, Callable[[Subject], str]] = {
    "logical axes": _axes,
    "family": _family,
    "dtype": _dtypes,
    "determinism": _deterministic,
    "rows": _rows,
    "loss": _loss,
    "step": _steps,
    "causality": causal,
    "padding": padding,
    "segments": segments,
}


def _subject_of(experiment: Experiment) -> tuple[Subject | None, Check]:
    """Returns what the checks look at, None if it cannot be made, and the check of making it."""
    objective, family = objective_of(experiment), family_of(experiment.model)
    fields = {field.name for field in dataclasses.fields(experiment.model)}
    known = experiment.data.expected_sizes  # None where the data must be read: all sizes are
    sizes = {
        name: size
        for name, size in _SIZES.items()
        if name in fields and getattr(experiment.model, name) == 0 and name in (known or _SIZES)
    }
    config = dataclasses.replace(experiment.model, **sizes)
    experiment = dataclasses.replace(experiment, model=config)
    model = build_model(config, jnp.float32)
    if model.fit is not None:
        raise UserError(
            "this model is fitted by counting; the checks are about models trained by steps"
        )
    example = objective.example(experiment, 2)
    made: list[Subject] = []

    def make(_: None) -> str:
        boxed = jax.eval_shape(model.init, jax.random.key(0), example)
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in example.items()}
        compiled = jitted(model)
        variables = sharding.unboxed(compiled.init(jax.random.key(0), zeros))
        rng = np.random.default_rng(1)
        moved = jax.tree.map(
            lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), variables["params"]
        )
        # One set of names in all batches, so that one program is compiled.
        packed = {"segments", "positions"} & set(objective.packed)
        shapes = dict.fromkeys(packed, example["inputs"]) | dict(example)
        batch = made_up(shapes, config)
        variables = dict(variables) | {"params": moved}
        found = Subject(
            config, family, objective, model, compiled, example, boxed, variables, batch
        )
        made.append(found)
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        return f"{count:,} parameters, logits {shown(found.logits(batch).shape)}"

    first = _run("init and apply", make, None)
    if not (first.ok or family.reads_images or "vocab_size" in fields):
        absent = "the configuration has no field vocab_size, which the tokenizer decides"
        first = first._replace(text=f"{first.text}; {absent}")
    return (made[0] if first.ok else None), first
