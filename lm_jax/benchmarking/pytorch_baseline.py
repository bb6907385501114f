"""Finds out whether PyTorch can do the same work on this machine, and prepares it."""

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lm_jax.benchmarking.interleaved_timing import Work
from lm_jax.build import BuiltExperiment, compute_dtype

Batches = Mapping[str, np.ndarray]  # [K, B, T]: K optimizer steps


class Baselines(NamedTuple):
    """Work to compare with, by name, and a note on how it runs or why there is none."""

    training: dict[str, Callable[[Batches], Work]]
    evaluation: dict[str, Callable[[Batches], Work]]
    note: str


def find_baselines(built: BuiltExperiment, mode: str) -> Baselines:
    """Returns PyTorch's work on the same device if it is installed and its model is the same.

    Args:
      mode: `eager`, `compile` (torch.compile) or `none`; `auto` compiles on GPUs, where that pays,
        and runs eagerly on CPUs. Attention is PyTorch's scaled_dot_product_attention.
    """
    if mode == "none":
        return Baselines({}, {}, "PyTorch is left out by --torch=none")
    if importlib.util.find_spec("torch") is None:
        return Baselines({}, {}, "PyTorch is not installed")
    import torch

    from lm_jax.benchmarking import pytorch_models

    platform = built.mesh.devices.flat[0].platform
    device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        return Baselines({}, {}, f"PyTorch {torch.__version__} has no {platform} here")
    if device == "cuda" and built.mesh.size > 1:
        return Baselines({}, {}, f"PyTorch would use one of {built.mesh.size} devices")
    if choice := pytorch_models.unsupported_choice(built.experiment):
        return Baselines({}, {}, f"PyTorch's model is another: {choice} is not among its choices")
    if compute_dtype(built.experiment) == jnp.float16:
        return Baselines({}, {}, "PyTorch's peer computes in float32 or bfloat16")
    if mode == "auto":
        mode = "compile" if device == "cuda" else "eager"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    half = compute_dtype(built.experiment) == jnp.bfloat16

    def bind(make: Callable[..., Work]) -> dict[str, Callable[[Batches], Work]]:
        bound = functools.partial(make, built.experiment, mode=mode, device=device, half=half)
        return {"pytorch": bound}

    return Baselines(
        bind(pytorch_models.training_work),
        bind(pytorch_models.evaluation_work),
        f"PyTorch {torch.__version__}, {mode}",
    )
