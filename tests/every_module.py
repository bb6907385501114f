"""Imports all of lm_jax at once, for processes that fork one child a program."""

import importlib
import pkgutil

import lm_jax


def import_every_module() -> None:
    """Imports each module of lm_jax but those of an extra that is not installed."""
    for module in pkgutil.walk_packages(lm_jax.__path__, "lm_jax."):
        if "pytorch" in module.name:  # threads of PyTorch do not survive a fork
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("lm_jax"):
                raise
