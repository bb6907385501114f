"""Rotary positions in configurations of transformers: bases, scalings, sliding windows."""

from collections.abc import Mapping
from typing import Any

from lm_jax.errors import UserError
from lm_jax.interop.tables import Field, Values, same

_NUMBERS = {
    "rotary_factor": ("factor", 1.0),
    "rotary_original_length": ("original_max_position_embeddings", 0),
    "rotary_low_factor": ("low_freq_factor", 1.0),
    "rotary_high_factor": ("high_freq_factor", 4.0),
    "rotary_beta_fast": ("beta_fast", 32.0),
    "rotary_beta_slow": ("beta_slow", 1.0),
    "rotary_attention_factor": ("attention_factor", 0.0),
}
"""Field of ours -> its name in `rope_scaling`, and what transformers takes where it is missing."""
_USED = {
    "linear": ("rotary_factor",),
    "llama3": tuple(_NUMBERS)[:4],
    "yarn": ("rotary_factor", "rotary_original_length", *tuple(_NUMBERS)[4:]),
}
"""Scaling, of the same name in both -> the fields of ours that it reads."""
_WINDOWED, _WHOLE = "sliding_attention", "full_attention"


def with_flat_rotary(values: Values) -> dict[str, Any]:
    """Returns a config.json whose rotary positions are named as before transformers 5.

    Raises:
      UserError: they are no JSON object, their type is no name, or layers with a window scale them.
    """
    found = dict(values)
    given = "rope_parameters" if found.get("rope_parameters") else "rope_scaling"
    rotary = _object(found.get(given), given)
    found.pop("rope_parameters", None)
    if _WHOLE in rotary:  # Gemma 3: by kind of layer
        local = _object(rotary.get(_WINDOWED), f"{_WINDOWED} of {given}")
        if _kind(local) != "default":
            raise UserError(f"config.json: rope_type of {_WINDOWED} is {_kind(local)!r}")
        found["rope_local_base_freq"] = local.get("rope_theta")
        rotary = _object(rotary[_WHOLE], f"{_WHOLE} of {given}")
    if "rope_theta" in rotary:
        found["rope_theta"] = rotary.pop("rope_theta")
    if "rotary_emb_base" in found:
        found.setdefault("rope_theta", found["rotary_emb_base"])
    if (fraction := rotary.pop("partial_rotary_factor", None)) is not None:
        found |= {"partial_rotary_factor": fraction, "rotary_pct": fraction}
    kind = rotary["rope_type"] = _kind(rotary)
    if kind == "yarn":
        rotary.setdefault("original_max_position_embeddings", found.get("max_position_embeddings"))
    found["rope_scaling"] = None if kind == "default" else rotary
    return found


def _object(given: Any, name: str) -> dict[str, Any]:
    if given and not isinstance(given, Mapping):
        raise UserError(f"config.json: {name} is {given!r}, no object; restore it")
    return dict(given or {})


def _kind(rotary: Values) -> str:
    kind = rotary.get("rope_type") or rotary.get("type") or "default"
    if not isinstance(kind, str):
        raise UserError(f"config.json: rope_type is {kind!r}; expected a name, such as default")
    return kind


def _scaling(values: Values) -> str:
    rotary = values.get("rope_scaling") or {}
    kind = _kind(rotary)
    if kind != "default" and kind not in _USED:
        raise UserError(
            f"config.json: rope_type is {kind!r}; supported are default, {', '.join(_USED)}"
        )
    for name, supported in (("truncate", True), ("mscale", None), ("mscale_all_dim", None)):
        if rotary.get(name, supported) != supported:
            raise UserError(f"config.json: {name} of rope_scaling is not supported; it is {kind}")
    return "none" if kind == "default" else kind


def _write_scaling(config: Any) -> Values:
    kind = config.rotary_scaling
    if kind == "none":
        return {"rope_scaling": None}
    found = {_NUMBERS[name][0]: getattr(config, name) for name in _USED[kind]}
    for name in ("rotary_beta_fast", "rotary_beta_slow", "rotary_attention_factor"):
        theirs, default = _NUMBERS[name]
        if found.get(theirs) == default:
            del found[theirs]
    return {"rope_scaling": {"rope_type": kind, **found}}


def _number(ours: str) -> Field:
    name, default = _NUMBERS[ours]

    def read(values: Values) -> Any:
        rotary = values.get("rope_scaling") or {}
        is_used = ours in _USED.get(_kind(rotary), ())
        return same(name, ours, default).read(rotary if is_used else {})

    return Field(ours, read, lambda config: {})


ROTARY = (
    same("rope_theta", "rotary_base", 10_000.0),
    Field("rotary_scaling", _scaling, _write_scaling),
    *(_number(name) for name in _NUMBERS),
)
"""The base of rotary positions, and how they are scaled."""


def _local_base(values: Values) -> float:
    local = same("rope_local_base_freq", "rotary_local_base", 0.0).read(values)
    return local or same("rope_theta", "rotary_local_base", 500_000.0).read(values)


def _write_by_kind(config: Any) -> Values:
    scaling = _write_scaling(config)["rope_scaling"] or {"rope_type": "default"}
    whole = {"rope_theta": config.rotary_base, **scaling}
    local = {"rope_theta": config.rotary_local_base, "rope_type": "default"}
    return {"rope_parameters": {_WHOLE: whole, _WINDOWED: local}}


LOCAL_BASE = Field("rotary_local_base", _local_base, _write_by_kind)
"""OLMo 3: layers with a window have a base of their own, that of the others by default, and no
scaling. Without `rope_parameters` transformers 5 takes 500,000."""

_ROTATES = "no_rope_layers"  # 1 where a layer rotates, whatever the name says


def _unrotated(values: Values) -> int:
    rotates = values.get(_ROTATES)
    if rotates is None:
        return same("no_rope_layer_interval", "unrotated_every", 4).read(values)
    if not isinstance(rotates, list):
        raise UserError(f"config.json: {_ROTATES} is {rotates!r}; expected a list of 0 and 1")
    every = rotates.index(0) + 1 if 0 in rotates else 0
    if rotates != _rotates(every, len(rotates)):
        raise UserError(
            f"config.json: {_ROTATES} is {', '.join(map(str, rotates))}; supported is a 0 at every "
            "n-th layer"
        )
    return every


def _rotates(every: int, num_layers: int) -> list[int]:
    return [int(not every or layer % every != 0) for layer in range(1, num_layers + 1)]


UNROTATED = Field(
    "unrotated_every",
    _unrotated,
    lambda config: {_ROTATES: _rotates(config.unrotated_every, config.num_layers)},
)
"""SmolLM 3: which layers have no positions."""


def window(default: int) -> Field:
    """Returns the field of a window that all layers have, or those that `layer_types` names.

    Args:
      default: what transformers takes where config.json does not say.
    """
    field = same("sliding_window", "sliding_window", default)

    def read(values: Values) -> Any:
        is_given = "sliding_window" in values
        return 0 if is_given and values["sliding_window"] is None else field.read(values)

    return Field(
        "sliding_window", read, lambda config: {"sliding_window": config.sliding_window or None}
    )


def _kinds(values: Values) -> list[Any]:
    """Returns the kind of each layer; empty where config.json does not say."""
    kinds = values.get("layer_types") or []
    if not isinstance(kinds, list):
        raise UserError(f"config.json: layer_types is {kinds!r}; expected a list of names")
    return kinds


def pattern(default: int) -> Field:
    """Returns the field of which layers read everything.

    Args:
      default: every so many-th layer does where config.json does not say.
    """

    def read(values: Values) -> int:
        kinds = _kinds(values)
        if not kinds:
            every = values.get("sliding_window_pattern") or default
            return every if isinstance(every, int) else default
        every = kinds.index(_WHOLE) + 1 if _WHOLE in kinds else 0
        expected = [_WHOLE if every and not n % every else _WINDOWED for n in _count(kinds)]
        if kinds != expected:
            raise UserError(
                f"config.json: layer_types is {', '.join(map(str, kinds))}; supported is every "
                f"n-th {_WHOLE}"
            )
        return every

    def write(config: Any) -> Values:
        every = config.global_every
        kinds = [
            _WHOLE if every and not n % every else _WINDOWED
            for n in range(1, config.num_layers + 1)
        ]
        return {"layer_types": kinds}

    return Field("global_every", read, write)


def _count(items: list[Any]) -> range:
    return range(1, len(items) + 1)


def _switched(values: Values) -> int:
    is_used = same("use_sliding_window", "", False).read(values)
    return window(4096).read(values) if is_used else 0


def _write_switched(config: Any) -> Values:
    if not config.sliding_window:
        return {"use_sliding_window": False}
    return {"use_sliding_window": True, "sliding_window": config.sliding_window}


SWITCHED_WINDOW = Field("sliding_window", _switched, _write_switched)
"""Qwen3-MoE: a window of all layers, if `use_sliding_window` says so."""


def _window_of_last(values: Values) -> tuple[int, int]:
    """Returns the window of the last layers, and how many before them have none; 0, 0: all."""
    size = _switched(values)
    if not size:
        return 0, 0
    num_layers = same("num_hidden_layers", "").read(values)
    kinds = _kinds(values)
    if kinds:
        first = kinds.index(_WINDOWED) if _WINDOWED in kinds else len(kinds)
        if kinds != [_WHOLE] * first + [_WINDOWED] * (len(kinds) - first):
            raise UserError(
                f"config.json: layer_types is {', '.join(map(str, kinds))}; supported is "
                f"{_WINDOWED} of the last layers"
            )
    else:
        first = same("max_window_layers", "", 28).read(values)
    return (size, first) if first < num_layers else (0, 0)


def _write_window_of_last(config: Any) -> Values:
    first = {"max_window_layers": config.global_first} if config.sliding_window else {}
    return {**_write_switched(config), **first}


WINDOW_OF_LAST = (
    Field("sliding_window", lambda values: _window_of_last(values)[0], _write_window_of_last),
    Field("global_first", lambda values: _window_of_last(values)[1], lambda config: {}),
)
"""Qwen: layers from `max_window_layers` on have a window, if `use_sliding_window` says so."""


def _window_of_other(values: Values) -> tuple[int, int]:
    """Returns the window, and every which layer has none; 0, 0: none has one."""
    size, kinds = _switched(values), _kinds(values)
    if not size or kinds and _WINDOWED not in kinds:
        return 0, 0
    if kinds:
        return size, pattern(2).read(values)
    num_layers = same("num_hidden_layers", "").read(values)
    last = same("max_window_layers", "", 28).read(values)
    if 0 < last < num_layers:
        raise UserError(
            f"config.json: max_window_layers is {last}; supported is num_hidden_layers, "
            f"{num_layers}, or more"
        )
    return (size, 2) if last > 0 else (0, 0)


def _write_window_of_other(config: Any) -> Values:
    if not config.sliding_window:
        return _write_switched(config)
    upper = {"max_window_layers": config.num_layers}
    return {**_write_switched(config), **upper, **pattern(2).write(config)}


WINDOW_OF_OTHER = (
    Field("sliding_window", lambda values: _window_of_other(values)[0], _write_window_of_other),
    Field("global_every", lambda values: _window_of_other(values)[1], lambda config: {}),
)
"""Qwen2-MoE: every other layer has a window, if `use_sliding_window` says so, up to
`max_window_layers`, which in Qwen2 is where they begin."""
