"""Models of which each function is compiled whole, not an operation at a time."""

import jax

from lm_jax.models import Model

_STATIC = {
    "apply": {"static_argnames": "train"},
    "loss": {"static_argnames": "train"},
    "start": {"static_argnums": (1, 2)},
}


def jitted(model: Model) -> Model:
    """Returns a model with every function jitted but `fit`, which counts in NumPy."""
    return Model(
        **{
            name: function and jax.jit(function, **_STATIC.get(name, {}))
            for name, function in model._asdict().items()
            if name != "fit"
        },
        fit=model.fit,
    )
