"""The cost of a step of decoding, compiled for a device that need not exist."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lm_jax.build import BuiltExperiment
from lm_jax.costs.compiled_step import does_not_fit
from lm_jax.costs.topologies import Described
from lm_jax.errors import UserError
from lm_jax.models import family_name, family_of
from lm_jax.models.interface import Variables
from lm_jax.parallel import sharding

# XLA's own products convert what they read, such as int8; cuBLAS's read a converted copy. On a
# device XLA times both, so training is compiled without the former, which need such times. Without
# times it also guesses into how many parts a sum is split; some parts copy a padded kernel.
_GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": True, "xla_gpu_experimental_force_split_k": "1"}


class CompiledDecoding(NamedTuple):
    """A compiled step of decoding: the next token of each text of a batch; figures in bytes."""

    parameters: int  # as a step reads them
    cache: int  # of the whole context, or the state of a recurrent model
    temporaries: int
    compile_seconds: float
    text: str  # the optimized HLO


def compile_decoding(
    built: BuiltExperiment, variables: Variables, batch_size: int, described: Described
) -> CompiledDecoding:
    """Compiles `step` with prepared variables, as the loop over tokens runs it.

    Args:
      built: on one device.
      variables: shapes and dtypes, as they are loaded.
      batch_size: number of texts, each of which has room for the whole context.

    Raises:
      UserError: the model does not continue a text, or the compiler finds that the step does not
        fit.
    """
    model, experiment = built.model, built.experiment
    if model.start is None or model.step is None or family_of(experiment.model).has_encoder:
        raise UserError(
            f"{family_name(experiment.model)} does not continue a text: a step of decoding is "
            "compiled of models that do"
        )
    start, context_length = model.start, experiment.model.context_length
    with sharding.on_mesh(built.mesh):
        carry = jax.eval_shape(lambda v: start(v, batch_size, context_length), variables)
        if model.prepare is not None:
            variables = jax.eval_shape(model.prepare, variables)
        tokens = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        given = _on_device(built, (variables, carry, tokens))
        began = time.monotonic()
        # The loop over tokens writes caches where they lie.
        traced = jax.jit(model.step, donate_argnums=1).trace(*given)
        options = dict(described.options) | (_GPU_OPTIONS if described.platform == "cuda" else {})
        lowered = traced.lower(lowering_platforms=(described.platform,))
        try:
            compiled = lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            advice = "give it fewer texts, a shorter context, or weights in int8"
            raise does_not_fit(str(error), advice) from error
    analysis: Any = compiled.memory_analysis()
    return CompiledDecoding(
        parameters=_bytes(variables),
        cache=_bytes(carry),
        temporaries=analysis.temp_size_in_bytes,
        compile_seconds=time.monotonic() - began,
        text=compiled.as_text() or "",
    )


def _on_device(built: BuiltExperiment, tree: Any) -> Any:
    whole = NamedSharding(built.mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), tree)


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
