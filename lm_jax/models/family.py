"""What an architecture declares about itself: everything that is asked about it elsewhere."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lm_jax.errors import UserError
from lm_jax.models.interface import Batch, Model, Variables

AttentionMaps = Callable[[Variables, Batch], Mapping[str, jax.Array]]
ExpertLoads = Callable[[Variables, Batch], Mapping[str, jax.Array]]
HiddenStates = Callable[[Variables, Batch], Mapping[str, jax.Array]]
FeatureMaps = Callable[[Variables, jax.Array], tuple[jax.Array | None, jax.Array]]


class PlannedCollective(NamedTuple):
    """A collective that any implementation of a step needs."""

    kind: str
    axes: tuple[str, ...]  # mesh axes
    bytes: int  # size of the whole array
    times: int = 1


def _no_scale(config: Any, factor: float) -> Any:
    raise UserError(
        f"mup_base_width scales the logits of a tied table of embeddings, but the family of "
        f"{type(config).__name__} declares no scale_logits; declare it, or set mup_base_width to 0"
    )


class Family(NamedTuple):
    """An architecture: its configuration, what builds it, what it can do and what it needs.

    A configuration is a dataclass; its `validate()`, if it has one, raises UserError. Fields that
    are 0 and that the data decides, such as `vocab_size` or `num_classes`, are filled in from the
    data.
    """

    config: type
    build: Callable[[Any, Any], Model]  # (configuration, dtype of the computation)
    objectives: tuple[str, ...] = ("causal_lm",)  # names of what it can be trained for
    any_length: bool = False  # reads texts longer than its context_length
    has_encoder: bool = False  # reads a source of `source_length` tokens
    reads_images: bool = False  # of image_height, image_width and image_channels
    has_mask_id: bool = False  # its vocabulary has an id for masked tokens
    mask_id: Callable[[Any], int] = lambda config: 0
    """(configuration) -> the tokenizer's token for masked ones; 0: the last id, beyond it."""

    splits_time: bool = False  # a mesh may split its context over the axis `sequence`
    carries_state: Callable[[Any], bool] = lambda config: False
    """(configuration) -> whether training windows start from the state of the batch before."""

    classifies: Callable[[Any], bool] = lambda config: False
    """(configuration) -> whether a model that could predict tokens predicts classes instead."""

    widths: Callable[[Any], tuple[str, ...]] = lambda config: ()
    """(configuration) -> the fields that muP scales, main one first; UserError where it cannot."""

    check_mesh: Callable[[Any, Mapping[str, int]], None] = lambda config, mesh: None
    """Raises UserError for a mesh, sizes by axis, that cannot split the configuration evenly."""

    planned_activations: Callable[[Any, int, Any, Mapping[str, int]], list[PlannedCollective]] = (
        lambda config, sequences, dtype, mesh: []
    )
    """(configuration, sequences per device, dtype, mesh sizes by axis) -> collectives of one step.

    They exchange the activations that the axes `tensor` and `sequence` split; those of parameters
    and gradients follow from shardings.
    """

    for_low_memory: Callable[[Any], Any] = lambda config: config
    """(configuration) -> one with the same parameters that recomputes activations."""

    for_any_device: Callable[[Any], Any] = lambda config: config
    """(configuration) -> one with the same parameters whose kernels run on every device."""

    ties_embeddings: Callable[[Any], bool] = lambda config: False
    """(configuration) -> whether the table of embeddings is the output, too."""

    scale_logits: Callable[[Any, float], Any] = _no_scale
    """(configuration, factor) -> one whose logits are times the factor; muP asks tied models."""

    attention_per_token: Callable[[Any], int | None] = lambda config: None
    """(configuration) -> L d T, layers x width x context length; 0 for a model without attention.

    With it a model declares that each parameter, but for tables and the experts that a token does
    not pass, takes part in one product per token, so that a forward pass costs 2 N + 4 L d T FLOPs
    per token. None: it does not.
    """

    experts: Callable[[Any], tuple[int, int]] = lambda config: (1, 1)
    """(configuration) -> how many experts each token passes, of how many.

    Their parameters have the axis `experts`; (1, 1) for a model without a mixture of experts.
    """

    expert_loads: Callable[[Any], ExpertLoads | None] = lambda config: None
    """(configuration) -> a function from variables and a batch to the tokens of each expert [l, e].

    They stand under the name of a stack of layers; None for a model without experts.
    """

    attention_maps: Callable[[Any], AttentionMaps | None] = lambda config: None
    """(configuration) -> a function from variables and a batch to weights [b, l, h, t, s].

    The weights stand under `encoder`, `decoder` and `cross`; None for a model without attention.
    """

    attention_windows: Callable[[Any], Mapping[str, np.ndarray]] = lambda config: {}
    """(configuration) -> the distance from which each layer reads no key, int [l], by kind of map.

    Kinds of `attention_maps` that are missing read keys at any distance.
    """

    hidden_states: Callable[[Any], HiddenStates | None] = lambda config: None
    """(configuration) -> a function from variables and a batch to states [b, l + 1, t, d], float32.

    What the first layer reads and the output of each, the last as the output table reads it. The
    states stand under `encoder` and `decoder`; None for a model that does not show them.
    """

    feature_maps: Callable[[Any], FeatureMaps | None] = lambda config: None
    """(configuration) -> a function from variables and images [b, H, W, C] to the first filters.

    It returns the kernel [h, w, in, out] of the first convolution, None where there is none, and
    the feature maps [b, h', w', c'] after it; None for a model without convolutions.
    """
