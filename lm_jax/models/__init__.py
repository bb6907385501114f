"""Every architecture as a `Model`: pure functions from parameters and a batch to logits."""

from typing import Any

from lm_jax.choices import choose, name_of
from lm_jax.errors import UserError
from lm_jax.fields import validate_fields
from lm_jax.models import causal_cnn, dense_classifier, mlp, naive_bayes, skip_gram
from lm_jax.models.convnet.model import FAMILY as CONVNET
from lm_jax.models.family import Family as Family
from lm_jax.models.interface import Batch as Batch
from lm_jax.models.interface import Losses as Losses
from lm_jax.models.interface import Model as Model
from lm_jax.models.interface import Variables as Variables
from lm_jax.models.ngram.model import FAMILY as NGRAM
from lm_jax.models.recurrent import classifier, language_model, seq2seq
from lm_jax.models.transformer import decoder, encoder, encoder_decoder

FAMILIES: dict[str, Family] = {
    "transformer": decoder.FAMILY,
    "ngram": NGRAM,
    "mlp": mlp.FAMILY,
    "causal_cnn": causal_cnn.FAMILY,
    "recurrent": language_model.FAMILY,
    "recurrent_seq2seq": seq2seq.FAMILY,
    "recurrent_classifier": classifier.FAMILY,
    "naive_bayes": naive_bayes.FAMILY,
    "dense_classifier": dense_classifier.FAMILY,
    "convnet": CONVNET,
    "encoder": encoder.FAMILY,
    "encoder_decoder": encoder_decoder.FAMILY,
    "skip_gram": skip_gram.FAMILY,
}


def family_named(name: str) -> Family:
    """Returns the family of this name, or the one that `file.py:ATTRIBUTE` names.

    Raises:
      UserError: there is none, or it cannot be imported.
    """
    family = choose(FAMILIES, name, "model.family")
    if not isinstance(family, Family):
        raise UserError(
            f"model.family is {name!r}, a {type(family).__name__}; expected an lm_jax.models.Family"
        )
    return family


def family_of(config: Any) -> Family:
    """Returns the family whose configuration this is.

    A family from outside this package is found in the module of its configuration's class.

    Raises:
      UserError: no family has configurations of this type.
    """
    return _named_family(config)[1]


def family_name(config: Any) -> str:
    """Returns the name by which `family_named` finds the family of a configuration."""
    return _named_family(config)[0]


def _named_family(config: Any) -> tuple[str, Family]:
    is_ours = lambda family: isinstance(family, Family) and family.config is type(config)  # noqa: E731
    found = name_of(FAMILIES, is_ours, type(config).__module__)
    if found is None:
        known = ", ".join(family.config.__name__ for family in FAMILIES.values())
        raise UserError(
            f"model is a {type(config).__name__}, the configuration of no family; expected one of "
            f"{known}, or a class whose module defines a Family of it"
        )
    return found


def validate_model(config: Any) -> None:
    """Raises UserError for fields that do not accept their values or do not fit each other.

    It must be a family's configuration. One from outside this package need neither describe its
    fields nor have `validate()`.
    """
    family_of(config)
    validate_fields(config, "model.")
    check = getattr(config, "validate", None)
    if check is not None:
        check()


def build_model(config: Any, dtype: Any) -> Model:
    """Returns the model of a configuration, which computes in `dtype`.

    Raises:
      UserError: the configuration cannot be built.
    """
    validate_model(config)
    return family_of(config).build(config, dtype)
