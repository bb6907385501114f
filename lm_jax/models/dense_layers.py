"""The dense layers of any model, found and changed by Flax's interceptors: no model is copied."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from lm_jax.models.interface import Model

Interceptor = Callable[[Callable[..., Any], Any, Any, Any], Any]
"""(method, arguments, keyword arguments, context) -> what the method returns, as Flax's."""


def is_dense(context: Any) -> bool:
    """Returns whether an interceptor sees the call of a dense layer."""
    return isinstance(context.module, nn.Dense) and context.method_name == "__call__"


def kernel_of(module: nn.Module) -> str:
    """Returns the path of the kernel of a dense layer, such as `layers/attention/query/kernel`."""
    return "/".join((*module.path, "kernel"))


def dense_kernels(model: Model, batch: Mapping[str, Any]) -> list[str]:
    """Returns the paths of the kernels of a model's dense layers; nothing is allocated.

    Args:
      batch: arrays or `ShapeDtypeStruct`s of any batch that the model takes.
    """
    found: set[str] = set()

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if is_dense(context):
            found.add(kernel_of(context.module))
        return call(*args, **kwargs)

    # A new function, since JAX does not trace again what it has traced.
    with nn.intercept_methods(note):
        jax.eval_shape(lambda key, batch: model.init(key, batch), jax.random.key(0), dict(batch))
    return sorted(found)


def intercepted(model: Model, interceptor: Interceptor) -> Model:
    """Returns a model whose functions of variables run with an interceptor."""

    def under(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with nn.intercept_methods(interceptor):
                return function(*args, **kwargs)

        return call

    return model._replace(
        init=under(model.init),
        apply=under(model.apply),
        loss=under(model.loss),
        step=model.step and under(model.step),
        read=model.read and under(model.read),
        start=model.start and under(model.start),
    )
