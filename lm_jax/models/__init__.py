"""Every architecture as a `Model`: pure functions from parameters and a batch to logits."""

from typing import Any

from lm_jax.models.interface import Batch as Batch
from lm_jax.models.interface import Losses as Losses
from lm_jax.models.interface import Model as Model
from lm_jax.models.interface import Variables as Variables
from lm_jax.models.transformer import TransformerConfig, transformer

FAMILIES = {TransformerConfig: transformer}


def build_model(config: Any, dtype: Any) -> Model:
    """The model of a configuration, computing in `dtype`; the configuration's type is the family.

    Raises:
      ValueError: the configuration cannot be built.
    """
    return FAMILIES[type(config)](config, dtype)
