"""Scales a model's configuration to another width, with all widths in proportion."""

import dataclasses
import math
from typing import Any

from lm_jax.errors import UserError
from lm_jax.models import family_of


def of_width(config: Any, width: int) -> Any:
    """Returns the configuration with main width `width`, and other widths scaled by the same ratio.

    `Family.widths` names these fields; a field that is 0 stays 0.

    Raises:
      UserError: the model has no widths or cannot be scaled, or a scaled field is not an integer.
    """
    names = family_of(config).widths(config)
    if not names:
        raise UserError(
            f"mup_base_width is {width}, but a {type(config).__name__} has no widths to scale; "
            "set it to 0"
        )
    main, *others = names
    given = getattr(config, main)
    for name in others:
        if (value := getattr(config, name)) * width % given:
            raise UserError(
                f"mup_base_width {width} makes model.{main} {given} into {width} and model.{name} "
                f"{value} into {value * width / given:.4g}; expected a multiple of "
                f"{given // math.gcd(given, value)}"
            )
    fields = {name: getattr(config, name) * width // given for name in (main, *others)}
    return dataclasses.replace(config, **fields)
