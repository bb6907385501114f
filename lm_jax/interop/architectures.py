"""The architectures that weights can come from and go to, and our configurations of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax.errors import UserError
from lm_jax.interop.bert import BERT
from lm_jax.interop.gpt2 import GPT2
from lm_jax.interop.gpt_neox import GPT_NEOX
from lm_jax.interop.llama import LLAMA_LIKE
from lm_jax.interop.rotary import with_flat_rotary
from lm_jax.interop.t5 import T5
from lm_jax.interop.tables import Architecture
from lm_jax.json_values import read_object
from lm_jax.models import FAMILIES, family_name, validate_model

ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (GPT2, *LLAMA_LIKE, GPT_NEOX, BERT, T5)
}
# Fields that say how a model is computed or trained, and not what it computes.
_FREE = (
    "attention",
    "context_parallel",
    "dropout_rate",
    "loss_chunks",
    "mask_id",
    "pooling",
    "remat",
    "router_balance_weight",
    "router_z_weight",
    "scan_layers",
)
_MEANS = {
    "d_expert": "expert_width",
    "d_ff": "feed_forward_width",
    "head_dim": "head_width",
    "num_encoder_layers": "encoder_layers",
    "num_kv_heads": "kv_heads",
}
"""Fields that are 0 where another decides -> the property that says what they are."""


def read_config(directory: Path) -> dict[str, Any]:
    """Returns the config.json of a folder, with rotary positions as before transformers 5.

    Raises:
      UserError: there is none, or it is no JSON object.
    """
    try:
        values = read_object(directory / "config.json")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} holds no config.json; give the folder of a Hugging Face model"
        ) from None
    try:
        return with_flat_rotary(values)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None


def architecture_of(values: Mapping[str, Any]) -> tuple[Architecture, str]:
    """Returns the architecture of a config.json, and the name of its class.

    Raises:
      UserError: it is not among those that are supported.
    """
    names = values.get("architectures") or [None]
    name = names[0] if isinstance(names, list) else names
    for architecture in ARCHITECTURES.values():
        known = (*architecture.classes, None)
        if architecture.model_type == values.get("model_type") and name in known:
            return architecture, name or architecture.classes[0]
    supported = ", ".join(each for a in ARCHITECTURES.values() for each in a.classes)
    raise UserError(
        f"config.json is of {name or 'no architecture'} (model_type {values.get('model_type')}); "
        f"supported are {supported}"
    )


def our_config(architecture: Architecture, values: Mapping[str, Any]) -> Any:
    """Returns our configuration of a model.

    Raises:
      UserError: a field is missing or has a value that is not supported.
    """
    fields = dict(architecture.constants)
    for each in architecture.fields:
        try:
            found = each.read(values)
        except OverflowError:
            raise UserError(
                f"config.json: a number for model.{each.ours} is too large; restore it"
            ) from None
        if each.ours:
            fields[each.ours] = found
    config = FAMILIES[architecture.family].config(**fields)
    validate_model(config)
    return config


def their_config(architecture: Architecture, config: Any) -> dict[str, Any]:
    """Returns the config.json of a configuration of ours.

    Raises:
      UserError: the architecture has no word for a choice of ours.
    """
    found: dict[str, Any] = {
        "architectures": [architecture.classes[0]],
        "model_type": architecture.model_type,
    }
    for each in architecture.fields:
        found |= each.write(config)
    return found


def of_family(config: Any) -> dict[str, Architecture]:
    """Returns the architectures in terms of the family of a configuration of ours.

    Raises:
      UserError: there are none.
    """
    family = family_name(config)
    found = {name: each for name, each in ARCHITECTURES.items() if each.family == family}
    if not found:
        exported = ", ".join(sorted({each.family for each in ARCHITECTURES.values()}))
        raise UserError(
            f"a model of the family {family} has no counterpart in transformers; exported are "
            f"{exported}"
        )
    return found


def exported_as(config: Any) -> tuple[Architecture, dict[str, Any]]:
    """Returns the architecture that computes what our configuration does, and its config.json.

    Raises:
      UserError: there is none; the message names what keeps the nearest one from it.
    """
    obstacles: dict[str, list[str]] = {}
    without_words = set()  # for the first choice that has none; there may be more
    for name, architecture in of_family(config).items():
        try:
            values = their_config(architecture, config)
            there = our_config(architecture, json.loads(json.dumps(values)))
        except UserError as error:
            obstacles[name] = [str(error)]
            without_words.add(name)
            continue
        ours, theirs = _resolved(config), _resolved(there)
        obstacles[name] = [f"model.{n} {ours[n]}" for n in ours if ours[n] != theirs[n]]
        if not obstacles[name]:
            return architecture, values
    nearest = min(obstacles, key=lambda name: (name in without_words, len(obstacles[name])))
    raise UserError(
        f"no architecture of transformers computes what this model does; the nearest is {nearest}, "
        f"which has no {', '.join(obstacles[nearest])}"
    )


def with_counterpart(config: Any) -> Any:
    """Returns the configuration that is exported: the given one, or the one that also has biases.

    A model without biases computes what the same model with biases of 0 does, so that nanoGPT's
    (`bias=False`) is a GPT-2. A model that has no counterpart either way is returned as it is.
    """
    if getattr(config, "use_bias", True):
        return config
    for candidate in (config, dataclasses.replace(config, use_bias=True)):
        try:
            exported_as(candidate)
        except UserError:
            continue
        return candidate
    return config


def _resolved(config: Any) -> dict[str, Any]:
    """Returns the fields that decide what a model computes, with what a 0 stands for."""
    fields = dataclasses.asdict(config)
    defaults = type(config)()
    means = {name: means for name, means in _MEANS.items() if name in fields}
    fields |= {name: getattr(config, property) for name, property in means.items()}
    fields["qkv_bias"] |= fields["use_bias"]
    fields["attention_scale"] = config.attention_scale or config.head_width**-0.5
    if config.num_experts:
        fields["d_ff"] = config.expert_width
    unused = [] if config.num_experts else ["experts_per_token", "normalize_expert_weights"]
    unused += [] if config.num_experts else ["d_expert", "d_shared_expert"]
    for kind in ("rotary", "relative"):
        unused += [n for n in fields if n.startswith(f"{kind}_") and config.positions != kind]
    fields |= {name: getattr(defaults, name) for name in unused}
    return {name: value for name, value in fields.items() if name not in _FREE}
