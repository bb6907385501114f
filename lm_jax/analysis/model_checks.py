"""Checks that an architecture keeps the contracts of `lm_jax.models`, on made-up tokens.

Nothing is read or trained. The model has the sizes of its configuration, rows of at most 16 tokens,
and every parameter is moved at random, so that no term hides behind an initial zero.
"""

import dataclasses
import functools
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.config.experiment import Experiment
from lm_jax.errors import UserError
from lm_jax.models import Family, Model, build_model, family_of
from lm_jax.models.interface import Losses, counting_weights, cross_entropy, named_values
from lm_jax.models.parameters import declarations_of, path_of
from lm_jax.objectives import Objective, objective_of
from lm_jax.parallel import sharding

_LENGTH = 16  # tokens of a row and of a source, at most
_SIZES = {"vocab_size": 67, "num_classes": 5}  # of data, where the configuration leaves them open
_SIZES |= {"image_height": 28, "image_width": 28, "image_channels": 1}
# Compiled programs run a few times on little, so that compiling them well is most of the time.
_QUICKLY: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_TOLERANCE = 1e-3  # between two ways to the same logits, relative to the largest one
_SAME = 1e-6  # what must not change at all; other shapes may round otherwise


class Check(NamedTuple):
    """The outcome of one check."""

    name: str
    ok: bool | None  # None: it does not apply
    text: str  # what was found, and where


class _Wrong(Exception):
    """The contract is broken; says how and where."""


class _NotApplicable(Exception):
    """The model declares nothing that this check is about; says what."""


class _Subject(NamedTuple):
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
        arguments = {"train": False, "key": jax.random.key(5)} | arguments
        return np.asarray(self.compiled.apply(self.variables, batch, **arguments)[0])


def check_model(experiment: Experiment) -> list[Check]:
    """Returns the outcome of each check of an experiment's model; each stands for one contract.

    Raises:
      UserError: the experiment cannot run, or its model counts instead of being trained.
    """
    with sharding.on_mesh(sharding.make_mesh("data:1", jax.devices()[:1])):
        subject, first = _subject(experiment)
        if subject is None:
            return [first]
        return [first, *(_run(name, check, subject) for name, check in CHECKS.items())]


def _run(name: str, check: Callable[[Any], Any], argument: Any) -> Check:
    try:
        return Check(name, True, check(argument))
    except _NotApplicable as error:
        return Check(name, None, str(error))
    except (_Wrong, UserError) as error:
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


def _subject(experiment: Experiment) -> tuple[_Subject | None, Check]:
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
    made: list[_Subject] = []

    def make(_: None) -> str:
        boxed = jax.eval_shape(model.init, jax.random.key(0), example)
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in example.items()}
        compiled = _jitted(model)
        variables = sharding.unboxed(compiled.init(jax.random.key(0), zeros))
        rng = np.random.default_rng(1)
        moved = jax.tree.map(
            lambda x: x + jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype), variables["params"]
        )
        # One set of names in all batches, so that one program is compiled.
        packed = {"segments", "positions"} & set(objective.packed)
        shapes = dict.fromkeys(packed, example["inputs"]) | dict(example)
        batch = _made_up(shapes, config)
        variables = dict(variables) | {"params": moved}
        found = _Subject(
            config, family, objective, model, compiled, example, boxed, variables, batch
        )
        made.append(found)
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        return f"{count:,} parameters, logits {_shown(found.logits(batch).shape)}"

    first = _run("init and apply", make, None)
    if not (first.ok or family.reads_images or "vocab_size" in fields):
        absent = "the configuration has no field vocab_size, which the tokenizer decides"
        first = first._replace(text=f"{first.text}; {absent}")
    return (made[0] if first.ok else None), first


def _jitted(model: Model) -> Model:
    """Returns the model with each function compiled whole, but for its losses."""
    return model._replace(
        init=_compiled(model.init),
        apply=_compiled(model.apply, static_argnames="train"),
        start=model.start and _compiled(model.start, static_argnums=(1, 2)),
        step=model.step and _compiled(model.step),
        read=model.read and _compiled(model.read),
        prepare=model.prepare and _compiled(model.prepare),
    )


def _compiled(function: Callable[..., Any], **static: Any) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=_QUICKLY, **static)


def _made_up(example: Mapping[str, jax.ShapeDtypeStruct], config: Any) -> dict[str, Any]:
    """Returns a batch of one document a row: random tokens, or random images."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for name, x in example.items():
        shape = (*x.shape[:1], *(min(n, _LENGTH) for n in x.shape[1:2] if len(x.shape) == 2))
        if x.dtype != jnp.int32:
            made[name] = rng.uniform(size=x.shape).astype(np.float32)
        elif name.endswith("segments"):
            made[name] = np.ones(shape, np.int32)
        elif name.endswith("positions"):
            made[name] = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
        else:
            made[name] = rng.integers(config.vocab_size, size=shape).astype(np.int32)
    return made


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _differences(found: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns where two arrays of one shape differ by more than a share of the largest value.

    Raises:
      _Wrong: the shapes differ, or a value is no number.
    """
    if found.shape != expected.shape:
        raise _Wrong(f"the shape is {_shown(found.shape)}; expected {_shown(expected.shape)}")
    if not np.isfinite(found).all() or not np.isfinite(expected).all():
        raise _Wrong("a logit is not finite")
    return np.abs(found - expected) > tolerance * max(float(np.abs(expected).max()), 1e-30)


def _largest(found: np.ndarray, expected: np.ndarray) -> str:
    return f"{np.abs(found - expected).max():.2g} of {np.abs(expected).max():.2g}"


def _axes(s: _Subject) -> str:
    """Checks that parameters are declared, with a known logical axis or None a dimension."""
    known = {name for name, _ in sharding.RULES}
    for path, found in declarations_of(s.boxed["params"]).items():
        shape, axes = found.value.shape, found.names
        if len(axes) != len(shape):
            raise _Wrong(
                f"parameter {path} has {len(axes)} logical axes ({', '.join(map(str, axes))}) for "
                f"its shape {_shown(shape)}; declare one for each dimension"
            )
        if unknown := [axis for axis in axes if axis is not None and axis not in known]:
            raise _Wrong(
                f"parameter {path} has the logical axis {unknown[0]!r}; expected one of "
                f"{', '.join(sorted(known))}, or None"
            )
        if outside := [axis for axis in found.summed if not -len(shape) <= axis < 0]:
            raise _Wrong(
                f"parameter {path} sums over axis {outside[0]} of its shape {_shown(shape)}; "
                "expected an axis counted from the end"
            )
    return f"{len(jax.tree.leaves(s.variables['params']))} parameters are declared"


def _dtypes(s: _Subject) -> str:
    """Checks that parameters and logits are float32, and what is between them follows `dtype`."""
    for path, x in jax.tree_util.tree_leaves_with_path(s.variables["params"]):
        if x.dtype != jnp.float32:
            raise _Wrong(f"parameter {path_of(path)} is {x.dtype}; expected float32")
    half = s.family.build(s.config, jnp.bfloat16)
    apply = functools.partial(half.apply, train=False)
    for name, function in (("float32", s.model.apply), ("bfloat16", half.apply)):
        call = functools.partial(function, train=False)
        dtype = jax.eval_shape(call, s.variables, s.batch)[0].dtype
        if dtype != jnp.float32:
            raise _Wrong(f"built in {name}, the logits are {dtype}; expected float32")
    if "bf16" not in str(jax.make_jaxpr(apply)(s.variables, s.batch)):
        raise _Wrong("built in bfloat16, nothing is computed in bfloat16; use the `dtype` given")
    if half.start and half.step:
        start = functools.partial(half.start, batch_size=2, max_length=_LENGTH, **_source(s))
        carry = jax.eval_shape(start, s.variables)
        _, after = jax.eval_shape(half.step, s.variables, carry, jnp.zeros(2, jnp.int32))
        before = jax.tree_util.tree_leaves_with_path(carry)
        for (path, x), y in zip(before, jax.tree.leaves(after), strict=True):
            if (x.shape, x.dtype) != (y.shape, y.dtype):
                raise _Wrong(
                    f"built in bfloat16, a step turns {path_of(path)} of the carry from {x.dtype} "
                    f"{_shown(x.shape)} into {y.dtype} {_shown(y.shape)}; expected the same"
                )
    return "float32 parameters and logits, bfloat16 between"


def _deterministic(s: _Subject) -> str:
    """Checks that evaluation does not depend on the key, and training is a function of it."""
    plain = s.logits(s.batch)
    if (plain != s.logits(s.batch)).any():
        raise _Wrong("two evaluations of one batch differ")
    if (plain != s.logits(s.batch, key=jax.random.key(6))).any():
        raise _Wrong("with train=False the logits depend on the key; is dropout still on?")
    trained = [s.logits(s.batch, train=True) for _ in range(2)]
    if (trained[0] != trained[1]).any():
        raise _Wrong("with train=True and one key, the logits of two calls differ")
    return "the same bits twice, in evaluation and with one key in training"


def _rows(s: _Subject) -> str:
    """Checks that a row of an evaluation batch does not depend on the others."""
    changed = {name: np.array(x) for name, x in s.batch.items()}
    changed["inputs"][1] = _others(s, changed["inputs"][1])
    before, after = s.logits(s.batch)[0], s.logits(changed)[0]
    if _differences(after, before, _SAME).any():
        raise _Wrong(f"changing row 1 moves the logits of row 0 by {_largest(after, before)}")
    return "a row does not see the others"


def _loss(s: _Subject) -> str:
    """Checks that `loss` is the cross-entropy of `apply`, and its gradients are finite."""
    logits = s.logits(s.batch)
    targets = np.random.default_rng(2).integers(logits.shape[-1], size=logits.shape[:-1])
    weights = np.ones(targets.shape, np.float32)
    batch = {**s.batch, "targets": targets.astype(np.int32), "weights": weights}
    evaluated = _compiled(functools.partial(s.model.loss, train=False))
    found, _ = evaluated(s.variables, batch)
    expected = cross_entropy(jnp.asarray(logits), jnp.asarray(batch["targets"]))
    if _differences(np.asarray(found.nats), np.asarray(expected.nats), _TOLERANCE).any():
        raise _Wrong(
            "nats differ from the cross-entropy of the logits of apply by "
            f"{_largest(np.asarray(found.nats), np.asarray(expected.nats))}"
        )
    others = {name: value for name, value in s.variables.items() if name != "params"}

    def total(params: Any) -> jax.Array:
        variables = {**others, "params": params}
        key = jax.random.key(0)
        return _trained_loss(s.model.loss(variables, batch, train=True, key=key)[0], batch)

    gradient = _compiled(jax.grad(total))(s.variables["params"])
    for path, x in jax.tree_util.tree_leaves_with_path(gradient):
        if not np.isfinite(x).all():
            raise _Wrong(f"the gradient of parameter {path_of(path)} is not finite")
        if not np.any(x):
            raise _Wrong(f"the gradient of parameter {path_of(path)} is 0: it is not used")
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


def _source(s: _Subject) -> dict[str, Any]:
    if not s.family.has_encoder:
        return {}
    return {"source": {name: s.batch[name] for name in ("source", "source_segments")}}


def _steps(s: _Subject) -> str:
    """Checks that steps give the logits of `apply`, and `read` and `prepare` change nothing."""
    if s.compiled.start is None or s.compiled.step is None:
        raise _NotApplicable("it does not generate: no start and step (models/recomputed_steps.py)")
    tokens, expected = s.batch["inputs"], s.logits(s.batch)
    rows, length = tokens.shape
    first = s.compiled.start(s.variables, rows, length, **_source(s))
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
    return f"{length} positions"


def _compare_steps(name: str, found: np.ndarray, expected: np.ndarray, first: int) -> None:
    wrong = _differences(found, expected, _TOLERANCE)
    if wrong.any():
        t = int(np.flatnonzero(wrong.any(axis=(0, 2)))[0])
        raise _Wrong(
            f"{name}: the logits at position {first + t} differ from those of apply by "
            f"{_largest(found[:, t], expected[:, t])}"
        )


def _causal(s: _Subject) -> str:
    """Checks that no logit depends on a later token, by gradients of a table of embeddings.

    Each position gets a token of its own, so the gradient of the logits at t with respect to the
    token's row of the table is the influence of its position.
    """
    logits = s.logits(s.batch)
    if logits.ndim != 3 or not (s.objective.in_windows or s.model.step):
        raise _NotApplicable("it does not predict the next token")
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
        raise _Wrong(
            f"the logits at position {t} depend on the later token {from_t} "
            f"({how} {influence[t, from_t]:.2g}); {int(later.sum())} such pairs"
        )
    if blind := [t for t in range(length) if not influence[t, t] > 0]:
        raise _Wrong(f"the logits at position {blind[0]} do not depend on the token there")
    return f"by {how}, {length} positions"


def _influences_by_gradient(
    s: _Subject, tables: set[str], length: int, source_length: int
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

    found = np.asarray(_compiled(influences)(chosen))
    if not np.isfinite(found).all():
        raise _Wrong("a gradient of the embeddings is not finite")
    return found


def _influences_by_change(s: _Subject, length: int) -> np.ndarray:
    """Returns how far the logits at t move when the token at s changes, [t, s]; roundings are 0."""
    before, columns = s.logits(s.batch), []
    for t in range(length):
        changed = np.array(s.batch["inputs"])
        changed[:, t] = _others(s, changed[:, t])
        after = s.logits({**s.batch, "inputs": changed})
        moved = np.where(_differences(after, before, _SAME), np.abs(after - before), 0)
        columns.append(moved.max(axis=(0, 2)))
    return np.stack(columns, axis=1)


def _others(s: _Subject, inputs: np.ndarray) -> np.ndarray:
    """Returns other tokens, or other pixels, in the place of these."""
    if inputs.dtype != np.int32:
        return 1 - inputs
    return (inputs + 1 + np.arange(inputs.size).reshape(inputs.shape) % 7) % s.config.vocab_size


def _padding(s: _Subject) -> str:
    """Tokens of padding, segment 0 at the end of a row, change no logit before them."""
    if "segments" not in s.batch:
        raise _NotApplicable("its batches have no segments")
    length = s.batch["inputs"].shape[1]
    if length < 4:
        raise _NotApplicable("its rows are too short")
    kept = length - length // 4
    batch = _packed(s, [kept])
    changed = dict(batch)
    for name in {"inputs", "source"} & batch.keys():
        is_padding = batch[_segments_of(name)] == 0
        changed[name] = np.where(is_padding, _others(s, batch[name]), batch[name])
    before, after = s.logits(batch), s.logits(changed)
    if before.ndim == 3:
        before, after = before[:, :kept], after[:, :kept]
    wrong = _differences(after, before, _SAME)
    if wrong.any():
        where = (
            f" at position {np.flatnonzero(wrong.any(axis=(0, 2)))[0]}" if wrong.ndim == 3 else ""
        )
        raise _Wrong(
            f"changing the padding (segment 0) moves the logits{where} by {_largest(after, before)}"
        )
    return f"{length - kept} tokens of padding change nothing"


def _segments(s: _Subject) -> str:
    """Documents of a row do not see each other, and each has the logits that it has alone."""
    if not {"segments", "positions"} <= s.batch.keys() or s.batch["inputs"].shape[1] < 4:
        raise _NotApplicable("its rows hold one document")
    length = s.batch["inputs"].shape[1]
    parts = [length // 2 - 1, length - length // 2 - 1]
    batch = _packed(s, parts)
    together = s.logits(batch)
    for number in (1, 2):
        changed = dict(batch)
        for name in {"inputs", "source"} & batch.keys():
            is_it = batch[_segments_of(name)] == number
            changed[name] = np.where(is_it, _others(s, batch[name]), batch[name])
        other = batch["segments"][0] == 3 - number
        before, after = together[:, other], s.logits(changed)[:, other]
        wrong = _differences(after, before, _SAME)
        if wrong.any():
            t = np.flatnonzero(other)[np.flatnonzero(wrong.any(axis=(0, 2)))[0]]
            raise _Wrong(
                f"changing segment {number} moves the logits of segment {3 - number} at position "
                f"{t} by {_largest(after, before)}; attention takes `segments` into its mask by "
                "attention_mask of models/transformer/attention.py"
            )
    found = s.logits(_alone(s, batch, 2))[:, : parts[1]]
    expected = together[:, batch["segments"][0] == 2]
    wrong = _differences(found, expected, _TOLERANCE)
    if wrong.any():
        raise _Wrong(
            f"token {np.flatnonzero(wrong.any(axis=(0, 2)))[0]} of a second document has other "
            f"logits than in a row of its own, by {_largest(found, expected)}; are `segments` and "
            "`positions` read?"
        )
    return f"documents of {parts[0]} and {parts[1]} tokens in a row do not see each other"


def _segments_of(name: str) -> str:
    return "segments" if name == "inputs" else "source_segments"


def _packed(s: _Subject, lengths: Sequence[int]) -> dict[str, Any]:
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


def _alone(s: _Subject, packed: Mapping[str, Any], number: int) -> dict[str, Any]:
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


def _family(s: _Subject) -> str:
    """Checks that what the family declares holds of its configuration."""
    fields = {field.name for field in dataclasses.fields(s.config)}
    needed = {"source_length"} if s.family.has_encoder else set()
    if s.family.reads_images:
        needed |= {"image_height", "image_width", "image_channels"}
    if missing := needed - fields:
        raise _Wrong(f"the configuration has no field {', '.join(sorted(missing))}")
    if unknown := set(_widths(s)) - fields:
        raise _Wrong(f"widths names {min(unknown)!r}, which is no field of the configuration")
    shapes = _shapes(s.model, s.example)
    for name, other in (
        ("for_low_memory", s.family.for_low_memory(s.config)),
        ("for_any_device", s.family.for_any_device(s.config)),
    ):
        if _shapes(s.family.build(other, jnp.float32), s.example) != shapes:
            raise _Wrong(f"{name} gives a configuration with other parameters")
    said = [f"reads any length: {'yes' if s.family.any_length else 'no'}"]
    if s.family.any_length and s.batch["inputs"].ndim == 2:
        longer = {name: jnp.zeros((2, 2 * x.shape[1]), x.dtype) for name, x in s.example.items()}
        found = jax.eval_shape(functools.partial(s.model.apply, train=False), s.variables, longer)
        if found[0].ndim == 3 and found[0].shape[1] != longer["inputs"].shape[1]:
            raise _Wrong(
                f"any_length is declared, but {longer['inputs'].shape[1]} tokens give logits "
                f"{_shown(found[0].shape)}"
            )
    if s.family.splits_time:
        said.append("a mesh may split its context")
    return ", ".join(said)


def _widths(s: _Subject) -> tuple[str, ...]:
    try:
        return s.family.widths(s.config)
    except UserError:  # muP cannot scale this configuration, and says why when it is asked to
        return ()


def _shapes(model: Model, example: Mapping[str, Any]) -> Any:
    boxed = jax.eval_shape(model.init, jax.random.key(0), dict(example))["params"]
    return {path: (x.value.shape, x.value.dtype) for path, x in declarations_of(boxed).items()}


CHECKS: dict[str, Callable[[_Subject], str]] = {
    "logical axes": _axes,
    "family": _family,
    "dtype": _dtypes,
    "determinism": _deterministic,
    "rows": _rows,
    "loss": _loss,
    "step": _steps,
    "causality": _causal,
    "padding": _padding,
    "segments": _segments,
}
