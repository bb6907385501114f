"""Whether PyTorch can do the same work here, and how it is asked to."""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from lm_jax.build import BuiltExperiment, compute_dtype

HOW = ("auto", "eager", "compile", "none")


class Peers(NamedTuple):
    """What is measured beside us, and why nothing is, or how."""

    training: dict[str, Callable[[Any], Any]]  # name -> function of batches [K, B, T] to a turn
    evaluation: dict[str, Callable[[Any], Any]]
    note: str


def find(built: BuiltExperiment, how: str) -> Peers:
    """PyTorch on the device of the program, where it is installed and its model is the same.

    Args:
      how: `eager`, or under torch.compile (`compile`), or `none`; `auto` compiles on GPUs, where
        that pays, and not on CPUs. Attention is PyTorch's scaled_dot_product_attention.
    """
    if how == "none":
        return Peers({}, {}, "PyTorch was not asked for")
    if importlib.util.find_spec("torch") is None:
        return Peers({}, {}, "PyTorch is not installed")
    import torch

    from lm_jax.benchmarking import pytorch_models as torch_peers

    platform = built.mesh.devices.flat[0].platform
    device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        return Peers({}, {}, f"PyTorch {torch.__version__} has no {platform} here")
    if device == "cuda" and built.mesh.size > 1:
        return Peers({}, {}, "PyTorch would use one device of several")
    if otherwise := torch_peers.unlike(built.experiment):
        return Peers({}, {}, f"PyTorch's model is another: {otherwise} is not among its choices")
    if how == "auto":
        how = "compile" if device == "cuda" else "eager"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    half = compute_dtype(built.experiment) == jnp.bfloat16

    def turn(make: Callable[..., Any]) -> dict[str, Callable[[Any], Any]]:
        bound = functools.partial(make, built.experiment, how=how, device=device, half=half)
        return {"pytorch": bound}

    return Peers(
        turn(torch_peers.training_turn),
        turn(torch_peers.evaluation_turn),
        f"PyTorch {torch.__version__}, {how}",
    )
