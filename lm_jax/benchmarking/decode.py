"""KV-cached greedy decoding from prompts of one length, timed against Hugging Face's `generate`."""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lm_jax.benchmarking.interleaved_timing import Work, time_interleaved
from lm_jax.build import BuiltExperiment, compute_dtype
from lm_jax.errors import UserError
from lm_jax.generation import decode_loop
from lm_jax.generation.sampling import Sampling
from lm_jax.models import family_of
from lm_jax.models.interface import Carry, Variables
from lm_jax.parallel import sharding
from lm_jax.plurals import counted
from lm_jax.training.state import init_state, variables_of


def measure(
    built: BuiltExperiment,
    batch_size: int,
    new_tokens: int,
    rounds: int,
    mode: str,
    prompt_tokens: int = 1,
) -> dict[str, Any]:
    """Times continuing `batch_size` prompts by `new_tokens`, interleaved with the baseline.

    With one new token it is the time to read a prompt. Each token reads all parameters and the
    cache, so the result also states bytes per second. Our parameters are float32, as in training;
    Hugging Face's have the compute dtype.

    Args:
      mode: `none` leaves Hugging Face out; with any other mode it runs eagerly.

    Raises:
      UserError: the model does not generate, or the tokens do not fit its context.
    """
    experiment = built.experiment
    family = type(experiment.model).__name__
    if built.model.step is None or family_of(experiment.model).has_encoder:
        raise UserError(
            f"{family} does not continue a text; the suite decode measures language models"
        )
    if prompt_tokens + new_tokens > experiment.model.context_length:
        raise UserError(
            f"{counted(new_tokens, 'token')} and a prompt of {prompt_tokens} do not fit the "
            f"model.context_length {experiment.model.context_length}; generate fewer"
        )
    state = init_state(built.model, built.optimizer, built.example, built.mesh, experiment.seed)
    variables = variables_of(state)
    del state  # frees the optimizer state
    vocab_size = experiment.model.vocab_size
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, vocab_size, (batch_size, prompt_tokens), dtype=np.int32)
    work = {"lm_jax": _our_work(built, variables, prompts, new_tokens)}
    note = _why_no_baseline(built, mode)
    if not note:
        work["hugging_face"] = _hugging_face_work(built, prompts, new_tokens)
    timings = time_interleaved(work, rounds)
    rates = {name: timings.rate(name, batch_size * new_tokens, new_tokens) for name in work}
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    cache = _cache_bytes(built, variables, batch_size, prompt_tokens + new_tokens)
    ours = rates["lm_jax"]
    ours["bytes_per_second"] = (weights + cache) / ours["seconds"]["median"]
    return {
        "unit": "tokens",
        "targets_per_step": batch_size,
        "prompt_tokens": prompt_tokens,
        "steps_per_round": new_tokens,
        "rounds": rounds,
        "dtype": str(compute_dtype(experiment)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "programs": rates,
        **timings.ratios("lm_jax", [name for name in work if name != "lm_jax"]),
        "bytes_per_step": {"parameters": weights, "cache": cache},
        "baseline": note or "Hugging Face generate, eager",
    }


def _cache_bytes(built: BuiltExperiment, variables: Variables, batch_size: int, length: int) -> int:
    """Returns the bytes of the carry that a step reads, empty columns of caches too."""
    start: Callable[..., Carry] = built.model.start  # type: ignore[assignment]
    carry = jax.eval_shape(lambda variables: start(variables, batch_size, length), variables)
    arrays = [leaf for leaf in jax.tree.leaves(carry) if leaf.ndim]  # scalars are common to all
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)


def _our_work(
    built: BuiltExperiment, variables: Variables, prompts: np.ndarray, new_tokens: int
) -> Work:
    greedy = Sampling(temperature=0.0)
    (count, length), width = prompts.shape, prompts.shape[1] + new_tokens
    prefix = decode_loop.prefix_of(built.model, length, width)
    generate = jax.jit(
        functools.partial(
            decode_loop.generate,
            built.model,
            sampling=greedy,
            end_tokens=(-1,),
            prefix_length=prefix.length,
            surplus=prefix.surplus,
        )
    )
    tokens = np.pad(prompts, ((0, 0), (0, new_tokens)))
    lengths, limits = np.full(count, length, np.int32), np.full(count, width, np.int32)

    def work() -> None:
        keys = jax.random.split(jax.random.key(0), count)
        with sharding.on_mesh(built.mesh):
            found = generate(variables, tokens, lengths, limits, keys)
        assert np.asarray(found.lengths).tolist() == [width] * count

    return work


def _why_no_baseline(built: BuiltExperiment, mode: str) -> str:
    """Returns why Hugging Face's model is not measured; "" if it is."""
    if mode == "none":
        return "Hugging Face is left out by --torch=none"
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return "torch or transformers is not installed"
    import torch

    from lm_jax.benchmarking import pytorch_models

    platform = built.mesh.devices.flat[0].platform
    if platform != "cpu" and not (platform == "gpu" and torch.cuda.is_available()):
        return f"PyTorch {torch.__version__} has no {platform} here"
    counterparts = pytorch_models.HUGGING_FACE
    if choice := pytorch_models.unsupported_choice(built.experiment, counterparts):
        return f"GPT-2 is another model: {choice} is not among its choices"
    return ""


def _hugging_face_work(built: BuiltExperiment, prompts: np.ndarray, new_tokens: int) -> Work:
    """Decodes with Hugging Face's model, with random weights of the same shapes."""
    import torch

    from lm_jax.benchmarking import pytorch_models

    config = built.experiment.model
    device = "cuda" if built.mesh.devices.flat[0].platform == "gpu" else "cpu"
    if device == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    dtype = getattr(torch, str(compute_dtype(built.experiment)))
    model: Any = pytorch_models.HUGGING_FACE[type(config)].build(config)
    model = model.to(device, dtype).eval()

    def work() -> None:
        tokens = torch.tensor(prompts, device=device).long()
        with torch.inference_mode():
            found = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
            )
        found = found.cpu()
        assert found.shape == (len(prompts), prompts.shape[1] + new_tokens)

    return work
